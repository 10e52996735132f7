//! Points in time as people and programs read them (RFC 3339).

/// `time_ns`, nanoseconds since 1970, as a date and time of day in UTC.
pub fn rfc3339(time_ns: u64) -> String {
    const DAY: u64 = 86_400;
    let (seconds, ns) = (time_ns / 1_000_000_000, time_ns % 1_000_000_000);
    let (year, month, day) = date(seconds / DAY);
    let of_day = seconds % DAY;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar. Years are counted from
/// March on, so that the day that is not always there comes last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // 400 years.
    let days = days + 719_468; // Since 0000-03-01.
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @…`.
        let cases = [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_790_000_001, "2026-09-21T14:13:21"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (18_446_744_073, "2554-07-21T23:34:33"),
        ];
        for (seconds, date) in cases {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 7), format!("{date}.000000007Z"));
        }
        assert!(rfc3339(u64::MAX).starts_with("2554-"));
    }
}

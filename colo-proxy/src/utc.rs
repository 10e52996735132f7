//! Points in time as people and programs read them (RFC 3339).

use jiff::Timestamp;

/// `time_ns`, nanoseconds since 1970, as a date and time of day in UTC.
pub fn rfc3339(time_ns: u64) -> String {
    // 64 bits of nanoseconds end in 2554, and jiff's calendar ends in 9999.
    let time = Timestamp::from_nanosecond(time_ns.into()).unwrap_or(Timestamp::MAX);
    format!("{time:.9}")
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

//! The rows of the benchmark, and the targets of their figures.

use super::results::BenchChain;

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchRow {
    TcpRr,
    Udp64,
    Udp1400,
    Up,
    Down,
    GsoUp,
    GsoDown,
    SlowLinkDown,
    Compare64,
    Compare1448,
    Failover,
    ManyGuests,
}

/// How a row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Labs side by side, with frames as on a wire.
    Frames,
    /// The same with segmentation offload.
    Offloads,
    /// As [`Setting::Frames`], but with a slow link between the hosts.
    SlowLink,
    /// colo-compares side by side, with frames of so many bytes.
    Compare(usize),
    /// A new lab for each measurement, which destroys it.
    Failover,
    /// A lab with many guests.
    ManyGuests,
}

impl BenchRow {
    pub const ALL: [Self; 12] = [
        Self::TcpRr,
        Self::Udp64,
        Self::Udp1400,
        Self::Up,
        Self::Down,
        Self::GsoUp,
        Self::GsoDown,
        Self::SlowLinkDown,
        Self::Compare64,
        Self::Compare1448,
        Self::Failover,
        Self::ManyGuests,
    ];

    pub fn setting(self) -> Setting {
        match self {
            Self::TcpRr | Self::Udp64 | Self::Udp1400 | Self::Up | Self::Down => Setting::Frames,
            Self::GsoUp | Self::GsoDown => Setting::Offloads,
            Self::SlowLinkDown => Setting::SlowLink,
            Self::Compare64 => Setting::Compare(64),
            Self::Compare1448 => Setting::Compare(1448),
            Self::Failover => Setting::Failover,
            Self::ManyGuests => Setting::ManyGuests,
        }
    }

    /// Its name on the command line and in the file of results.
    pub fn id(self) -> &'static str {
        match self {
            Self::TcpRr => "tcp-rr",
            Self::Udp64 => "udp-64",
            Self::Udp1400 => "udp-1400",
            Self::Up => "bulk-up",
            Self::Down => "bulk-down",
            Self::GsoUp => "gso-up",
            Self::GsoDown => "gso-down",
            Self::SlowLinkDown => "slow-link-down",
            Self::Compare64 => "compare-64",
            Self::Compare1448 => "compare-1448",
            Self::Failover => "failover",
            Self::ManyGuests => "64-guests",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::TcpRr => "TCP request/response, 64 B",
            Self::Udp64 => "UDP echo, 64 B, window 32",
            Self::Udp1400 => "UDP echo, 1400 B, window 32",
            Self::Up => "TCP bulk, client to guest, no offloads",
            Self::Down => "TCP bulk, guest to client, no offloads",
            Self::GsoUp => "TCP bulk, client to guest, 64 KiB GSO",
            Self::GsoDown => "TCP bulk, guest to client, 64 KiB GSO",
            Self::SlowLinkDown => {
                "TCP bulk, guest to client, 100 Mbit/s between the hosts, digests"
            }
            Self::Compare64 => "colo-compare over unix sockets, equal pairs of 64 B",
            Self::Compare1448 => "colo-compare over unix sockets, equal pairs of 1448 B",
            Self::Failover => "Failover, from the request after the primary's death",
            Self::ManyGuests => "64 guests of one daemon, a connection to each",
        }
    }

    /// The chains that can be measured.
    pub fn chains(self) -> &'static [BenchChain] {
        match self.setting() {
            Setting::Frames => &BenchChain::ALL,
            Setting::Offloads => &[BenchChain::None, BenchChain::Ours, BenchChain::Streams],
            Setting::SlowLink => {
                &[BenchChain::None, BenchChain::Qemu, BenchChain::Digests, BenchChain::Streams]
            }
            Setting::ManyGuests => &[BenchChain::None, BenchChain::Ours],
            Setting::Compare(_) => &[BenchChain::Qemu, BenchChain::Ours],
            Setting::Failover => &[BenchChain::Ours],
        }
    }

    /// The chain that has the targets.
    pub fn ours(self) -> BenchChain {
        if self.setting() == Setting::SlowLink { BenchChain::Digests } else { BenchChain::Ours }
    }

    pub fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.id() == id)
    }

    /// The lines of the table.
    pub fn lines(self) -> &'static [RowLine] {
        match self {
            Self::TcpRr => TCP_RR,
            Self::Udp64 | Self::Udp1400 => UDP,
            Self::Up | Self::Down => BULK,
            Self::GsoUp | Self::GsoDown => GSO,
            Self::SlowLinkDown => SLOW_LINK,
            Self::Compare64 | Self::Compare1448 => COMPARE,
            Self::Failover => FAILOVER,
            Self::ManyGuests => MANY_GUESTS,
        }
    }
}

/// One figure of a row, over all rounds.
#[derive(Clone, Copy, Debug)]
pub struct RowLine {
    pub figure: &'static str,
    pub title: &'static str,
    pub of: Summary,
    pub targets: &'static [BenchTarget],
}

/// How the figures of all rounds become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    Median,
    Sum,
    Highest,
}

/// What colo-proxy's figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BenchTarget {
    /// At least this multiple of QEMU's.
    TimesQemu(f64),
    /// At most this share of QEMU's.
    ShareOfQemu(f64),
    /// At least this share of the figure without a proxy.
    ShareOfNone(f64),
    /// Compared with no proxy, it adds at most this share of what QEMU's chain adds.
    ShareOfAdded(f64),
    /// At most this share of the figure with the streams and whole frames.
    ShareOfStreams(f64),
    AtMost(f64),
    AtLeast(f64),
}

const fn line(
    figure: &'static str,
    title: &'static str,
    of: Summary,
    targets: &'static [BenchTarget],
) -> RowLine {
    RowLine { figure, title, of, targets }
}

const CPU: RowLine = line(
    "cpu_s_per_mpacket",
    "CPU s per million frames",
    Summary::Median,
    &[BenchTarget::ShareOfQemu(0.333)],
);
const ASKED: RowLine = line("asked", "checkpoints requested, all rounds", Summary::Sum, &[]);
const NONE_ASKED: RowLine =
    line("asked", "checkpoints requested, all rounds", Summary::Sum, &[BenchTarget::AtMost(0.0)]);

const TCP_RR: &[RowLine] = &[
    line("rate", "exchanges/s", Summary::Median, &[BenchTarget::TimesQemu(2.5)]),
    line("p50_us", "p50, µs", Summary::Median, &[BenchTarget::ShareOfAdded(0.25)]),
    line("p99_us", "p99, µs", Summary::Median, &[BenchTarget::ShareOfQemu(0.333)]),
    line("p999_us", "p99.9, µs", Summary::Median, &[]),
    CPU,
    ASKED,
];
const UDP: &[RowLine] = &[
    line("rate", "datagrams/s", Summary::Median, &[BenchTarget::TimesQemu(3.0)]),
    line("reordered", "reordered, all rounds", Summary::Sum, &[BenchTarget::AtMost(0.0)]),
    line("reordered_percent", "reordered, %", Summary::Median, &[]),
    line("lost", "lost, all rounds", Summary::Sum, &[]),
    CPU,
    NONE_ASKED,
];
const BULK: &[RowLine] = &[
    line(
        "gbits",
        "Gbit/s",
        Summary::Median,
        &[BenchTarget::TimesQemu(5.0), BenchTarget::ShareOfNone(0.35)],
    ),
    line(
        "gap_ms",
        "longest gap, ms, of all rounds",
        Summary::Highest,
        &[BenchTarget::AtMost(50.0)],
    ),
    CPU,
    ASKED,
];
const GSO: &[RowLine] = &[
    line("gbits", "Gbit/s", Summary::Median, &[BenchTarget::ShareOfNone(0.25)]),
    line("gap_ms", "longest gap, ms, of all rounds", Summary::Highest, &[]),
    ASKED,
];
const SLOW_LINK: &[RowLine] = &[
    line("gbits", "Gbit/s", Summary::Median, &[]),
    line(
        "returned",
        "bytes from the secondary's host per byte of the stream",
        Summary::Median,
        &[BenchTarget::ShareOfStreams(0.05)],
    ),
    line("gap_ms", "longest gap, ms, of all rounds", Summary::Highest, &[]),
    NONE_ASKED,
];
const COMPARE: &[RowLine] =
    &[line("mframes", "million pairs/s", Summary::Median, &[BenchTarget::TimesQemu(4.0)])];
const FAILOVER: &[RowLine] = &[
    line(
        "first_frame_ms",
        "first frame at the client, ms",
        Summary::Median,
        &[BenchTarget::AtMost(5.0)],
    ),
    line("done_ms", "answered, ms", Summary::Median, &[]),
];
const MANY_GUESTS: &[RowLine] = &[
    line("one_rate", "exchanges/s, 64 connections to one guest", Summary::Median, &[]),
    line("rate", "exchanges/s, all guests", Summary::Median, &[]),
    line("share", "all guests / one guest", Summary::Median, &[BenchTarget::AtLeast(0.8)]),
    line("fairness", "slowest / fastest guest", Summary::Median, &[BenchTarget::ShareOfNone(0.8)]),
    ASKED,
];

#[cfg(test)]
mod tests {
    use super::BenchRow;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        for row in BenchRow::ALL {
            assert_eq!(BenchRow::of(row.id()), Some(row));
            assert!(!row.lines().is_empty(), "{row:?}");
        }
        assert_eq!(BenchRow::of("nothing"), None);
    }
}

//! Why a checkpoint is asked for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a checkpoint is asked for. The names are stable: scripts rely on them.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// A byte of a TCP stream differs.
    Payload = "payload",
    /// A primary frame was held for longer than the compare timeout.
    Timeout = "timeout",
    /// Data that only the secondary sent waited for longer than the compare timeout.
    SecondaryOnly = "secondary-only",
    /// Maximum segment size of SYN or SYN/ACK.
    SynMss = "syn-mss",
    /// Window scale of SYN or SYN/ACK.
    SynWindowScale = "syn-window-scale",
    /// SACK-permitted on SYN or SYN/ACK of one guest only.
    SynSackPermitted = "syn-sack-permitted",
    /// Timestamps on SYN or SYN/ACK of one guest only.
    SynTimestamps = "syn-timestamps",
    /// The streams end at different places.
    FinPosition = "fin-position",
    /// The connection is reset at different places.
    RstPosition = "rst-position",
    /// A new connection on a tuple whose old one still has output held.
    TupleReuse = "tuple-reuse",
    /// The secondary's window stayed closed while the primary's was open.
    ZeroWindow = "zero-window",
    /// Datagrams of both guests stayed without a match.
    Datagram = "datagram",
    /// A limit on held output was reached.
    Limit = "limit",
    /// No flow could be forgotten for a new one.
    FlowTableFull = "flow-table-full",
    /// The secondary is back, and knows nothing of the time in between.
    Resync = "resync",
    /// The secondary's table of translated connections is nearly full of ones in use; after a
    /// checkpoint most need no translation.
    SecondaryFlows = "secondary-flows",
    /// Frames were lost between the hosts.
    LaneLoss = "lane-loss",
    /// The primary's guest was reset, and the secondary's runs what the other one ran before.
    GuestReset = "guest-reset",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A count for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "BTreeMap<String, u64>", from = "BTreeMap<String, u64>")]
pub struct ReasonCounts([u64; Reason::ALL.len()]);

impl ReasonCounts {
    /// The count of `reason`.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.get(*reason)))
    }

    /// Forgets the reasons that are not in `set`.
    pub(super) fn keep(&mut self, set: ReasonSet) {
        for (reason, count) in Reason::ALL.iter().zip(&mut self.0) {
            if !set.contains(*reason) {
                *count = 0;
            }
        }
    }

    pub(super) fn add(&mut self, reason: Reason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

impl From<ReasonCounts> for BTreeMap<String, u64> {
    fn from(counts: ReasonCounts) -> Self {
        counts.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
    }
}

impl From<BTreeMap<String, u64>> for ReasonCounts {
    /// Reasons that this version does not know are left out.
    fn from(named: BTreeMap<String, u64>) -> Self {
        Self(std::array::from_fn(|at| {
            let reason = Reason::ALL.get(at).map_or("", |reason| reason.name());
            named.get(reason).copied().unwrap_or_default()
        }))
    }
}

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReasonSet(u32);

const _: () = assert!(Reason::ALL.len() <= 32);

impl ReasonSet {
    pub(super) fn insert(&mut self, reason: Reason) {
        self.0 |= 1 << reason as u32;
    }

    fn contains(self, reason: Reason) -> bool {
        self.0 & (1 << reason as u32) != 0
    }

    /// Drops the reasons that can pass without a checkpoint.
    pub(super) fn keep_facts(&mut self) {
        let passing = [Reason::Timeout, Reason::SecondaryOnly, Reason::ZeroWindow, Reason::Limit];
        for reason in passing {
            self.0 &= !(1 << reason as u32);
        }
    }

    pub(super) fn first(self) -> Option<Reason> {
        Reason::ALL.get(self.0.trailing_zeros() as usize).copied()
    }
}

//! How the clock of the secondary's capture is aligned with the primary's.

use super::clock::difference;
use super::{CaptureSurvey, Connections};

/// The way of aligning the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlignmentKind {
    /// Both hosts had the same time.
    Absolute,
    /// The first packets of both captures were sent at the same time.
    First,
    /// Connections in both captures were opened at the same time, in the median.
    Connections,
}

impl std::str::FromStr for AlignmentKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "absolute" => Ok(Self::Absolute),
            "first" => Ok(Self::First),
            "connections" => Ok(Self::Connections),
            _ => Err(format!("`{text}` is not absolute, first or connections")),
        }
    }
}

/// The distance that is added to the secondary's times, and the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    pub(super) align: AlignmentKind,
    pub(super) shift_ns: i64,
    /// The distance by the connections in both captures, if there are any. It may speak against
    /// another choice.
    pub(super) by_connections_ns: Option<i64>,
}

impl Alignment {
    /// The alignment that was asked for. Without one: by the clocks if the captures overlap in time,
    /// else by connections if both have the same, else by the first packets. The first packets come
    /// last, because they depend on how soon after the start of the capture the work began.
    pub fn new(
        asked: Option<AlignmentKind>,
        primary: &CaptureSurvey,
        secondary: &CaptureSurvey,
        connections: &Connections,
    ) -> Self {
        let overlap =
            primary.first_ns <= secondary.last_ns && secondary.first_ns <= primary.last_ns;
        let by_connections_ns = connections.median_shift_ns();
        let align = asked.unwrap_or(match by_connections_ns {
            _ if overlap => AlignmentKind::Absolute,
            Some(_) => AlignmentKind::Connections,
            None => AlignmentKind::First,
        });
        let by_first = difference(primary.first_ns, secondary.first_ns);
        let shift_ns = match align {
            AlignmentKind::Absolute => 0,
            AlignmentKind::First => by_first,
            AlignmentKind::Connections => by_connections_ns.unwrap_or(by_first),
        };
        Self { align, shift_ns, by_connections_ns }
    }

    /// A time of the secondary's capture on the primary's clock.
    pub fn secondary(&self, time_ns: u64) -> u64 {
        time_ns.saturating_add_signed(self.shift_ns)
    }
}

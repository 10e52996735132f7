//! How the clock of the secondary's capture is brought to the primary's.

use super::clock::difference;
use super::{Connections, Survey};

/// How it is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Align {
    /// Both hosts had the same time.
    Absolute,
    /// The first packets of both captures are of the same time.
    First,
    /// Connections that are in both were opened at the same time, in the median.
    Connections,
}

impl std::str::FromStr for Align {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "absolute" => Ok(Self::Absolute),
            "first" => Ok(Self::First),
            "connections" => Ok(Self::Connections),
            _ => Err(format!("`{text}` is none of absolute, first and connections")),
        }
    }
}

/// What is to be added to the secondary's times, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    pub(super) align: Align,
    pub(super) shift_ns: i64,
    /// What the connections say, where there are any in both: for a doubt about another choice.
    pub(super) by_connections_ns: Option<i64>,
}

impl Alignment {
    /// The alignment that was asked for; or else by the clocks, if the captures overlap in time,
    /// by connections where both have the same, and by the first packets otherwise: those depend
    /// on how soon after the start of the capture the work began.
    pub fn new(
        asked: Option<Align>,
        primary: &Survey,
        secondary: &Survey,
        connections: &Connections,
    ) -> Self {
        let overlap =
            primary.first_ns <= secondary.last_ns && secondary.first_ns <= primary.last_ns;
        let by_connections_ns = connections.median_shift_ns();
        let align = asked.unwrap_or(match by_connections_ns {
            _ if overlap => Align::Absolute,
            Some(_) => Align::Connections,
            None => Align::First,
        });
        let by_first = difference(primary.first_ns, secondary.first_ns);
        let shift_ns = match align {
            Align::Absolute => 0,
            Align::First => by_first,
            Align::Connections => by_connections_ns.unwrap_or(by_first),
        };
        Self { align, shift_ns, by_connections_ns }
    }

    /// A time of the secondary's capture on the primary's clock.
    pub fn secondary(&self, time_ns: u64) -> u64 {
        time_ns.saturating_add_signed(self.shift_ns)
    }
}

//! Long-lived connections. They continue during everything that the demo does to the hosts.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::traffic::ms;
use crate::client::{Calls, Conversation, Keeper, wait_for_all};
use crate::network::{Family, Lab};

const ASK_LEN: u64 = 1500;
const TIMEOUT: Duration = Duration::from_secs(30);

/// The number of connections, and their load.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemoLoad {
    /// Opened by the client, over each IP version.
    pub by_client: usize,
    /// Opened by the guest, over each IP version.
    pub by_guest: usize,
    /// Between an answer and the next request.
    pub pause: Duration,
    /// The answers that each connection has before the demo does something to the hosts, and again
    /// after it.
    pub answers: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct DemoConnections {
    keepers: Vec<Keeper>,
    load: DemoLoad,
}

impl DemoConnections {
    /// Opens them and waits until they are all busy.
    pub(super) fn open(lab: &Lab, load: DemoLoad) -> Result<Self> {
        let mut keepers = Vec::new();
        for family in Family::BOTH {
            let calls = Calls::new(&lab.client, family)?;
            let by_client = (0..load.by_client).map(|_| Conversation::open(&lab.client, family));
            for conversation in by_client.chain((0..load.by_guest).map(|_| calls.call())) {
                keepers.push(Keeper::start(conversation?, ASK_LEN, load.pause));
            }
        }
        let all = Self { keepers, load };
        all.go_on().context("before anything was done to the hosts")?;
        Ok(all)
    }

    /// How many the client and the guest have opened.
    pub(super) fn opened(&self) -> String {
        let DemoLoad { by_client, by_guest, .. } = self.load;
        format!("{} by the client, {} by the guest", 2 * by_client, 2 * by_guest)
    }

    pub(super) fn count(&self) -> usize {
        self.keepers.len()
    }

    /// Waits until each connection has further right answers.
    pub(super) fn go_on(&self) -> Result<()> {
        wait_for_all(&self.keepers, self.load.answers, TIMEOUT)
    }

    /// The longest gap in the answers of each connection, since the last question.
    pub(super) fn take_gaps(&self) -> Gaps {
        let mut gaps: Vec<Duration> = self.keepers.iter().map(Keeper::take_gap).collect();
        gaps.sort_unstable();
        Gaps(gaps)
    }

    /// Closes them. Returns whether all were right to the end, and how many.
    pub(super) fn close(self) -> Result<(bool, String)> {
        let total = self.keepers.len();
        let mut errors = Vec::new();
        for keeper in self.keepers {
            let kept = keeper.stop()?;
            errors.extend(kept.error.map(|error| format!("{}: {error:#}", kept.name)));
        }
        Ok(match errors.first() {
            Some(first) => (false, format!("{} of {total}: {first}", total - errors.len())),
            None => (true, format!("{total} of {total}, every byte right")),
        })
    }
}

/// The longest gap of each connection, in order of length.
#[derive(Debug)]
pub(super) struct Gaps(Vec<Duration>);

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.first(), self.0.last()) {
            (Some(shortest), Some(longest)) => {
                write!(f, "shortest {}, longest {}", ms(*shortest), ms(*longest))
            }
            _ => f.write_str("none"),
        }
    }
}

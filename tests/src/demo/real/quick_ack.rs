//! The gain from quick acknowledgments. Checkpoints with and without them alternate, so that other
//! work on the machine affects both.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::pauses::Pauses;
use crate::network::HostSide;
use crate::qemu::protected::{Protected, colo_frame};

const TURNS: usize = 2;
/// The number of checkpoints in each turn.
const CHECKPOINTS: u64 = 4;
const TIMEOUT: Duration = Duration::from_secs(20);
/// The daemon gives its route this protocol number.
const PROTOCOL: &str = "206";
const QUICK: &str = " quickack 1";

/// The pauses of an idle guest with and without.
pub(super) fn compare(pair: &Protected) -> Result<[Pauses; 2]> {
    let mut pauses = [Pauses::default(), Pauses::default()];
    for _ in 0..TURNS {
        // At the end, the route is as the daemon made it.
        for (on, pauses) in [false, true].into_iter().zip(pauses.iter_mut().rev()) {
            set(pair, on)?;
            pauses.merge(a_few(pair)?);
        }
    }
    Ok(pauses)
}

fn a_few(pair: &Protected) -> Result<Pauses> {
    let half = pair.half(HostSide::Primary)?;
    let qmp = half.guest.qmp()?;
    let place = qmp.place();
    let status = half.daemon.status()?;
    let done = colo_frame(&status)["checkpoints"]["done"].as_u64().unwrap_or_default();
    pair.wait_checkpoints(HostSide::Primary, done + CHECKPOINTS, TIMEOUT)?;
    Ok(Pauses::since(qmp, place))
}

/// Changes the route that the daemon has made, as its configuration key `quick_ack` would do.
fn set(pair: &Protected, on: bool) -> Result<()> {
    let host = &pair.lab.host(HostSide::Primary).namespace;
    let route = host.output("ip", &["route", "show", "proto", PROTOCOL])?;
    ensure!(!route.trim().is_empty(), "the daemon has made no route");
    let plain = route.trim().replace(QUICK, "");
    let metric = if on { QUICK } else { "" };
    host.ip(&format!("route replace {plain} proto {PROTOCOL}{metric}\n"))
}

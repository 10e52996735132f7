//! `kill -9` of a daemon: the guest's network is left as the configuration says, and the next
//! daemon takes over the programs and maps of the dead one.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aya::programs::{SchedClassifier, TcAttachType};
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, LabHost};
use colo_lab::pair::{LabPair, PairSetup};
use colo_lab::process::eventually;

const TIMEOUT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(2);

/// The timeouts are long, because the lab's checkpoints copy no state: a guest that is behind would
/// stay behind after one.
fn with(on_death: &str) -> PairSetup {
    let primary = format!(
        "on_death = \"{on_death}\"\nsecondary_timeout_ms = 20000\ncompare_timeout_ms = 20000"
    );
    PairSetup { config: Some([primary, String::new()]), ..PairSetup::default() }
}

/// The number of programs that are attached to a TAP, in each direction.
fn attached(host: &LabHost) -> Result<[usize; 2]> {
    host.namespace.run(|| {
        let count = |way| -> Result<usize> {
            let (_, programs) = SchedClassifier::query_tcx("tap0", way)?;
            Ok(programs.len())
        };
        Ok([count(TcAttachType::Ingress)?, count(TcAttachType::Egress)?])
    })
}

#[lab_test(root)]
fn hold_lets_nothing_out() -> Result<()> {
    let mut pair = LabPair::start(with("hold"))?;
    echo(&pair.lab.client, Family::V4, 5, 100)?;
    let captured = pair.primary_guest.stand_in.counts()?.from_guest.frames;
    pair.primary.process.kill()?;
    let lab = Arc::clone(&pair.lab);
    // The handshake cannot finish, because it needs a daemon.
    let opening = std::thread::spawn(move || Conversation::open(&lab.client, Family::V4));
    eventually("the guest answers into the void", TIMEOUT, || {
        let frames = pair.primary_guest.stand_in.counts()?.from_guest.frames;
        Ok((frames > captured + 1).then_some(()))
    })?;
    assert!(!opening.is_finished(), "an answer came out although no daemon is there");
    assert_eq!(attached(pair.lab.host(HostSide::Primary))?, [1, 1]);
    pair.restart(HostSide::Primary)?;
    let conversation = opening.join().expect("no panic")?;
    assert_eq!(attached(pair.lab.host(HostSide::Primary))?, [1, 1], "stacked, not taken over");
    let keeper = Keeper::start(conversation, 300, PAUSE);
    keeper.wait_for_answers(50, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.finish()
}

#[lab_test(root)]
fn pass_lets_the_guest_go_on() -> Result<()> {
    let mut pair = LabPair::start(with("pass"))?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(50, TIMEOUT)?;
    pair.primary.process.kill()?;
    keeper.wait_for_answers(200, TIMEOUT)?;
    assert_eq!(attached(pair.lab.host(HostSide::Primary))?, [0, 0]);
    assert!(keeper.stop()?.error.is_none());
    pair.restart(HostSide::Primary)?;
    assert_eq!(attached(pair.lab.host(HostSide::Primary))?, [1, 1]);
    pair.finish()
}

/// A connection survives the death of the primary's daemon, and continues with the next daemon.
#[lab_test(root)]
fn a_leftover_is_taken_over_again_and_again() -> Result<()> {
    let mut pair = LabPair::start(with("hold"))?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V6)?, 300, PAUSE);
    for _ in 0..3 {
        keeper.wait_for_answers(30, TIMEOUT)?;
        pair.primary.process.kill()?;
        pair.restart(HostSide::Primary)?;
        assert_eq!(attached(pair.lab.host(HostSide::Primary))?, [1, 1]);
    }
    keeper.wait_for_answers(30, TIMEOUT)?;
    assert!(keeper.stop()?.error.is_none());
    pair.finish()
}

/// The secondary's guest stays off the LAN when its daemon dies. The next daemon still finds the
/// offsets of the guest's connections.
#[lab_test(root)]
fn a_secondary_holds_and_its_offsets_survive() -> Result<()> {
    let mut pair = LabPair::start(with("hold"))?;
    let keeper = Keeper::start(Conversation::open(&pair.lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(30, TIMEOUT)?;
    pair.secondary.process.kill()?;
    pair.restart(HostSide::Secondary)?;
    assert_eq!(attached(pair.lab.host(HostSide::Secondary))?, [1, 1]);
    pair.primary.wait_protected()?;
    keeper.wait_for_answers(100, TIMEOUT)?;
    pair.fail_over()?;
    keeper.wait_for_answers(100, TIMEOUT)?;
    let kept = keeper.stop()?;
    assert!(kept.error.is_none(), "{kept:?}");
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

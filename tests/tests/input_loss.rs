//! The secondary guest loses input that the primary guest receives.
//!
//! The peer sees only the primary's acknowledgments. So it does not know of the loss, and does not
//! send the data again. Without the daemon's help, each loss of this kind ends in a checkpoint.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use colo_lab::client::{Calls, Conversation};
use colo_lab::lab_test;
use colo_lab::link;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup};

/// One frame in this many does not reach the secondary guest.
const ONE_IN: u32 = 50;
const UP_LEN: u64 = 3_000_000;
const ROUNDS: u32 = 50;

#[lab_test(root)]
fn input_that_only_the_secondary_loses_is_repeated_to_it() -> Result<()> {
    let mut pair = LabPair::start(PairSetup::default())?;
    let host = pair.lab.host(HostSide::Secondary);
    for family in Family::BOTH {
        let client = &pair.lab.client;
        let mut conversation = Conversation::open(client, family)?;
        let mut called = Calls::new(client, family)?.call()?;
        link::lossy(&host.namespace, &host.tap, ONE_IN)?;
        for conversation in [&mut conversation, &mut called] {
            conversation.up(UP_LEN)?;
            for _ in 0..ROUNDS {
                conversation.ask(4000)?;
                conversation.echo(4000)?;
            }
        }
        link::lossless(&host.namespace, &host.tap)?;
        conversation.close()?;
        called.close()?;
    }
    let repeated = pair.secondary.status()?.detail("/input/repeated_frames")?;
    ensure!(repeated > 0, "nothing was lost, or it was repeated by somebody else");
    pair.expect_no_checkpoints()?;
    pair.expect_right_sums()?;
    pair.finish()
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

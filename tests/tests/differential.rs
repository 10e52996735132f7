//! The same frames go into QEMU's colo-compare and into ours. Both are black boxes here.
//!
//! Where QEMU is right both do the same ([`agree`]). Where it is wrong each row says what it does,
//! and what ours does instead; docs/reference/comparison.md has the rows in a table.

#[path = "differential/agree.rs"]
mod agree;
#[path = "differential/datagrams.rs"]
mod datagrams;
#[path = "differential/flush.rs"]
mod flush;
#[path = "differential/peers.rs"]
mod peers;
#[path = "differential/tcp.rs"]
mod tcp;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use colo_lab::colo_compare::{Engine, Outcome, Setup, Stand};

/// One step of a schedule. After each step, the stand waits until it has been handled.
#[derive(Clone, Debug)]
enum Step {
    /// The primary sends a frame.
    P(Vec<u8>),
    /// The secondary sends a frame.
    S(Vec<u8>),
    /// The COLO-frame reports a checkpoint.
    Checkpoint,
}

use Step::{Checkpoint, P, S};

/// Plays `steps` and returns the outcome of each.
fn play(engine: Engine, setup: &Setup, steps: &[Step]) -> Result<Vec<Outcome>> {
    let mut stand = Stand::new(engine, setup)?;
    let mut outcomes = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        match step {
            P(frame) => stand.primary(frame)?,
            S(frame) => stand.secondary(frame)?,
            Checkpoint => stand.checkpoint()?,
        }
        outcomes
            .push(stand.settle().with_context(|| format!("{engine:?}, step {i}, {step:02x?}"))?);
    }
    Ok(outcomes)
}

/// The expected outcome of a step: the places in the schedule of the frames that leave, and the
/// number of requests.
type Expected<'a> = (&'a [usize], usize);

/// A row of the table: the outcomes of `steps` with QEMU and with ours.
fn row(steps: &[Step], qemu: &[Expected<'_>], ours: &[Expected<'_>]) -> Result<()> {
    for (engine, expected) in [(Engine::Qemu, qemu), (Engine::Ours, ours)] {
        let outcomes = play(engine, &Setup::default(), steps)?;
        ensure!(outcomes.len() == expected.len(), "a row needs an outcome for each step");
        for (i, (outcome, (places, requests))) in outcomes.iter().zip(expected).enumerate() {
            let found: Vec<Option<usize>> =
                outcome.frames.iter().map(|f| place(steps, f)).collect();
            let wanted: Vec<Option<usize>> = places.iter().copied().map(Some).collect();
            ensure!(
                found == wanted && outcome.requests == *requests,
                "{engine:?}, step {i}: frames {found:?} and {} requests, not {wanted:?} and \
                 {requests}; all: {:?}",
                outcome.requests,
                outcomes.iter().map(|o| (o.frames.len(), o.requests)).collect::<Vec<_>>()
            );
        }
    }
    Ok(())
}

/// The step that sent `frame` first.
fn place(steps: &[Step], frame: &[u8]) -> Option<usize> {
    steps.iter().position(|step| matches!(step, P(sent) if sent == frame))
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

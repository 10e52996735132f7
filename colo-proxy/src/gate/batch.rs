//! Frames from a gate, one batch at a time.

use std::io;

use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::BATCH;

use super::Gate;
use super::readable::Drained;

/// Reads one batch. An error means that the gate is gone.
pub(crate) fn read_gate(gate: &Gate, into: &mut Vec<Frame>) -> io::Result<((), Drained)> {
    while into.len() < BATCH {
        match gate.read_frame()? {
            Some(frame) => into.push(frame),
            None => return Ok(((), Drained::Yes)),
        }
    }
    Ok(((), Drained::No))
}

/// Hands over the frames that a gate has by now, at most `frames_max`: a guest that goes on sending
/// must not occupy us for ever.
pub(crate) fn drain_gate(gate: &Gate, frames_max: u32, mut take: impl FnMut(Frame)) {
    for _ in 0..frames_max {
        match gate.read_frame() {
            Ok(Some(frame)) => take(frame),
            // A gate that is gone has no frames either.
            Ok(None) | Err(_) => return,
        }
    }
}

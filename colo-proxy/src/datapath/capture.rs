//! Where guest output is read from: one trait, two backends.
//!
//! The gate is the default and always works. `AF_XDP` takes frames from the guest's TAP before the
//! kernel makes packets of them, which is cheaper for small frames, but loses the checksum state
//! and the segment size; so it serves only where frames are compared and never sent on, and only
//! where [`choose`] finds that it can take every frame.

mod choose;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use choose::choose;

use crate::{frame::Frame, gate::Gate};

/// Which backend the operator asks for: `capture = "gate"`, `"af-xdp"` or `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureKind {
    /// Read from the output gate.
    #[default]
    Gate,
    /// Read from `AF_XDP` sockets on the guest's TAP; from the gate what they cannot take.
    AfXdp,
    /// `AF_XDP` where it can take every frame, else the gate.
    Auto,
}

/// What a backend has read, and what the kernel dropped before it could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureStats {
    /// Frames read, by whichever way.
    pub frames: u64,
    /// Bytes of these frames, without virtio-net headers.
    pub bytes: u64,
    /// Those of `frames` that came by the gate.
    pub gate_frames: u64,
    /// Frames that the kernel dropped because we read too slowly. What a gate drops, its interface
    /// counts (`tx_dropped`).
    pub dropped_ring_full: u64,
    /// Frames that the kernel could not put into our memory, for any other reason.
    pub dropped_by_socket: u64,
    /// Frames longer than any frame can be; none, as far as we know the kernel.
    pub dropped_oversize: u64,
}

/// Guest output, in the order in which each queue of the guest's device sent it.
pub trait CaptureBackend: Send {
    /// Readable whenever [`Self::read_batch`] would return something.
    fn poll_fd(&self) -> BorrowedFd<'_>;

    /// Appends at most `max_frames` waiting frames to `into`, and says how many. Never blocks; 0
    /// means that none is waiting, and `poll_fd` tells of the next. An error means that nothing
    /// will ever come again.
    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize>;

    /// Its frames are whole: their checksums and segment sizes are as the guest meant them, so that
    /// they can still be sent as the guest's.
    fn is_faithful(&self) -> bool;

    /// Totals since the backend was opened.
    fn stats(&self) -> CaptureStats;

    /// What the operator calls this backend.
    fn name(&self) -> &'static str;
}

/// Capture by the output gate.
#[derive(Debug)]
pub struct GateCapture {
    gate: Arc<Gate>,
    stats: CaptureStats,
}

impl GateCapture {
    /// Reads from `gate`, to which the programs redirect guest output.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, stats: CaptureStats::default() }
    }
}

impl CaptureBackend for GateCapture {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.gate.as_fd()
    }

    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize> {
        let mut read = 0;
        while read < max_frames {
            let Some(frame) = self.gate.read_frame()? else { break };
            self.stats.frames += 1;
            self.stats.gate_frames += 1;
            self.stats.bytes += frame.ethernet().len() as u64;
            into.push(frame);
            read += 1;
        }
        Ok(read)
    }

    fn is_faithful(&self) -> bool {
        true
    }

    fn stats(&self) -> CaptureStats {
        self.stats
    }

    fn name(&self) -> &'static str {
        "gate"
    }
}

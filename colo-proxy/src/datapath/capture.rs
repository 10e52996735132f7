//! The backends that read guest output: one trait, two implementations.
//!
//! The gate is the default and always works. `AF_XDP` takes frames from the guest's TAP before the
//! kernel makes packets of them. That is cheaper for small frames, but loses the checksum state and
//! the segment size. So it serves only on the secondary, whose frames are compared and never sent on,
//! and only if [`choose()`] finds that it can take every frame.

mod choose;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use choose::choose;

use colo_proxy_engine::frame::Frame;

use crate::gate::Gate;

/// Which backend the operator asks for: `capture = "gate"`, `"af-xdp"` or `"auto"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureKind {
    /// Read from the output gate.
    #[default]
    Gate,
    /// Read from `AF_XDP` sockets on the guest's TAP. The gate takes the frames that they cannot take.
    AfXdp,
    /// `AF_XDP` if it can take every frame, else the gate.
    Auto,
}

/// Totals of a backend: the frames that it has read, and those that the kernel dropped before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaptureStats {
    /// Frames read, by sockets and gate.
    pub frames: u64,
    /// Bytes of these frames, without virtio-net headers.
    pub bytes: u64,
    /// The part of `frames` that came by the gate.
    pub gate_frames: u64,
    /// Frames that the kernel dropped because the daemon read too slowly. A gate's drops are in the
    /// counters of its interface (`tx_dropped`).
    pub dropped_ring_full: u64,
    /// Frames that the kernel could not put into the socket's memory, for any other reason.
    pub dropped_by_socket: u64,
    /// Frames longer than the limit. No known kernel gives any.
    pub dropped_oversize: u64,
}

/// Guest output, in the order in which each queue of the guest's device sent it.
pub trait CaptureBackend: Send {
    /// Readable whenever [`Self::read_batch`] would return a frame.
    fn poll_fd(&self) -> BorrowedFd<'_>;

    /// Appends at most `max_frames` frames to `into`, and returns their number. Never blocks. 0 means
    /// that there is none now; `poll_fd` becomes readable with the next one. An error means that no
    /// frame will ever come again.
    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize>;

    /// Its frames are complete: checksum states and segment sizes are the guest's, so that the frames
    /// can be sent on as the guest's.
    fn is_faithful(&self) -> bool;

    /// Totals since the backend was opened.
    fn stats(&self) -> CaptureStats;

    /// The operator's name for this backend.
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

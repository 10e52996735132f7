//! Where guest output is read from: one trait, two backends.
//!
//! The gate is the default and always works. `AF_XDP` takes frames from the guest's TAP before the
//! kernel makes packets of them, which is cheaper for small frames, but loses the checksum state
//! and the segment size; so it serves only where frames are compared and never sent on, and only
//! where [`choose`] finds that it can take every frame.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::af_xdp::{self, AfXdp, Refusal, XdpTarget};
use colo_proxy_engine::frame::Frame;

use crate::error_chain::chain;
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

/// What a backend has read, and what the kernel dropped before it could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureStats {
    /// Frames read, by whichever way.
    pub frames: u64,
    /// Octets of these frames, without virtio-net headers.
    pub octets: u64,
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
pub trait Capture: Send {
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

impl Capture for GateCapture {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.gate.as_fd()
    }

    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize> {
        let mut read = 0;
        while read < max_frames {
            let Some(frame) = self.gate.read_frame()? else { break };
            self.stats.frames += 1;
            self.stats.gate_frames += 1;
            self.stats.octets += frame.ethernet().len() as u64;
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

/// Opens the backend `kind` if it can take every frame of the guest, else the gate, with the
/// reason for which `AF_XDP` was refused. The reason is logged.
pub fn choose(
    kind: CaptureKind,
    gate: &Arc<Gate>,
    target: XdpTarget<'_>,
) -> (Box<dyn Capture>, Option<Refusal>) {
    let (netdev, pins) = (target.netdev, target.pins);
    let opened = match kind {
        CaptureKind::Gate => None,
        CaptureKind::AfXdp | CaptureKind::Auto => Some(AfXdp::attach(target, Arc::clone(gate))),
    };
    let refusal = match opened {
        Some(Ok(capture)) => {
            let queues = capture.queues();
            log::info!("{netdev}: guest output captured by AF_XDP on {queues} queue(s)");
            return (Box::new(capture), None);
        }
        Some(Err(refusal)) => {
            let hint = refusal.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let level = if kind == CaptureKind::Auto { log::Level::Info } else { log::Level::Warn };
            let why = chain(&refusal);
            log::log!(level, "{netdev}: captured by the gate, not AF_XDP: {why}{hint}");
            Some(refusal)
        }
        None => None,
    };
    if let Err(error) = af_xdp::remove_leftover(pins) {
        log::warn!("{netdev}: XDP program of a dead daemon: {}", chain(&error));
    }
    (Box::new(GateCapture::new(Arc::clone(gate))), refusal)
}

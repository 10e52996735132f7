//! Capture of guest output by `AF_XDP`: one socket for each receive queue of the guest's TAP.
//!
//! The program `colo_xdp_capture` redirects a frame to the socket of its queue. A queue has no socket
//! if the guest enabled it later, or if the sockets belonged to a daemon that died. Then the program
//! passes the frame, and the TC program behind it sends the frame to the output gate. So this backend
//! reads the gate too, and a frame may be late, but is not lost.
//!
//! It needs native mode. In SKB mode the program would capture released frames again, for ever.

mod assemble;
mod attachment;
mod readiness;
mod socket;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    maps::{Map, MapData, MapError, XskMap},
    programs::{ProgramError, Xdp},
};

use self::{
    attachment::XdpAttachment,
    readiness::Readiness,
    socket::{QueueSocket, SocketError},
};
use super::capture::{CaptureBackend, CaptureStats, GateCapture};
use colo_proxy_engine::frame::Frame;

use crate::gate::Gate;

/// The file that pins the map of sockets, by receive queue.
const SOCKETS_PIN: &str = "xsks";

/// The file that pins the link of `colo_xdp_capture`.
pub(super) const LINK_NAME: &str = "link_colo_xdp_capture";

/// The interface and the program for an [`AfXdp`].
#[derive(Debug)]
pub struct XdpTarget<'a> {
    /// Name of the guest's TAP.
    pub netdev: &'a str,
    /// Its interface index.
    pub ifindex: u32,
    /// `colo_xdp_capture`. It is loaded only when it is needed, because an older kernel may refuse it.
    pub program: &'a mut Xdp,
    /// The directory with the pin of the map `xsks`. Program and link are pinned there too, in place
    /// of a leftover.
    pub pins: &'a Path,
}

/// The reason why `AF_XDP` cannot capture the output of a guest.
#[derive(Debug, thiserror::Error)]
pub enum XdpRefusal {
    #[error(
        "the lanes carry frames without virtio-net headers, and AF_XDP can neither complete their \
         checksums nor segment them"
    )]
    PlainWire,
    #[error("{netdev} has more than {sockets_max} receive queues, and each needs a socket")]
    Queues { netdev: String, sockets_max: u32 },
    #[error("cannot {} on queue {queue} of {netdev}", source.action())]
    Socket { netdev: String, queue: u32, source: SocketError },
    #[error("cannot use the map of sockets pinned at {}", path.display())]
    Map { path: PathBuf, source: MapError },
    #[error("cannot attach to {netdev} in native mode")]
    Attach { netdev: String, source: ProgramError },
    #[error("this kernel attaches XDP programs to {netdev} only by netlink")]
    NoLink { netdev: String },
    #[error("the kernel does not accept the program colo_xdp_capture")]
    Load { source: ProgramError },
    #[error("cannot pin, or remove a pin, at {}", path.display())]
    Pin { path: PathBuf, source: io::Error },
    #[error("cannot watch the sockets of {netdev}")]
    Watch { netdev: String, source: io::Error },
}

impl XdpRefusal {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::PlainWire => Some("use --vnet-hdr-support on both hosts"),
            Self::NoLink { .. } => Some("this kernel is too old: XDP links need Linux 5.9"),
            Self::Attach { source, .. } => attachment::hint(source),
            _ => None,
        }
    }
}

/// Detaches the XDP program that a dead daemon has left in the directory `pins`. The gate captures the
/// output of this instance now.
pub fn remove_leftover(pins: &Path) -> Result<(), XdpRefusal> {
    attachment::remove_leftover(pins)
}

/// Capture by `AF_XDP`; detached when dropped.
pub struct AfXdp {
    // Dropped before the sockets, so that later frames go to the gate.
    _attachment: XdpAttachment,
    netdev: String,
    sockets: Vec<QueueSocket>,
    gate: GateCapture,
    readiness: Readiness,
    /// The source that is read first. Each has its turn, so that none starves the others.
    turn: usize,
}

impl AfXdp {
    /// Opens a socket on every queue of the TAP and attaches the program.
    pub fn attach(target: XdpTarget<'_>, gate: Arc<Gate>) -> Result<Self, XdpRefusal> {
        if gate.vnet_len() == 0 {
            return Err(XdpRefusal::PlainWire);
        }
        let mut xsks = pinned_sockets(target.pins)?;
        let sockets = open_sockets(&target, xsks.len())?;
        for (queue, socket) in (0..).zip(&sockets) {
            let map = |source| XdpRefusal::Map { path: target.pins.join(SOCKETS_PIN), source };
            xsks.set(queue, socket.as_fd(), 0).map_err(map)?;
        }
        let netdev = target.netdev.to_owned();
        let watch = |source| XdpRefusal::Watch { netdev: netdev.clone(), source };
        let readiness = Readiness::new().map_err(watch)?;
        readiness.add(gate.as_fd()).map_err(watch)?;
        for socket in &sockets {
            readiness.add(socket.as_fd()).map_err(watch)?;
        }
        let attachment = XdpAttachment::new(target)?;
        let gate = GateCapture::new(gate);
        Ok(Self { _attachment: attachment, netdev, sockets, gate, readiness, turn: 0 })
    }

    /// Number of queues, each with a socket.
    pub fn queues(&self) -> usize {
        self.sockets.len()
    }
}

impl CaptureBackend for AfXdp {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }

    fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> io::Result<usize> {
        let sources = self.sockets.len() + 1;
        let mut read = 0;
        for i in 0..sources {
            let left = max_frames - read;
            read += match self.sockets.get_mut((self.turn + i) % sources) {
                Some(socket) => socket.read_batch(left, into),
                None => self.gate.read_batch(left, into)?,
            };
        }
        self.turn = (self.turn + 1) % sources;
        Ok(read)
    }

    /// XDP does not keep the checksum state and the segment size.
    fn is_faithful(&self) -> bool {
        false
    }

    fn stats(&self) -> CaptureStats {
        let parts = self.sockets.iter().map(QueueSocket::stats).chain([self.gate.stats()]);
        parts.fold(CaptureStats::default(), sum)
    }

    fn name(&self) -> &'static str {
        "af-xdp"
    }
}

impl fmt::Debug for AfXdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues = self.queues();
        f.debug_struct("AfXdp")
            .field("netdev", &self.netdev)
            .field("queues", &queues)
            .finish_non_exhaustive()
    }
}

fn pinned_sockets(pins: &Path) -> Result<XskMap<MapData>, XdpRefusal> {
    let path = pins.join(SOCKETS_PIN);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(XskMap::try_from)
        .map_err(|source| XdpRefusal::Map { path, source })
}

/// A socket on each queue. The kernel tells how many queues there are by refusing the first that
/// is not there; netlink would give the number of queues that there could be, and sysfs those of
/// an interface in another network namespace.
fn open_sockets(target: &XdpTarget<'_>, sockets_max: u32) -> Result<Vec<QueueSocket>, XdpRefusal> {
    let netdev = || target.netdev.to_owned();
    let mut sockets = Vec::new();
    for queue in 0..=sockets_max {
        match QueueSocket::open(target.ifindex, queue) {
            Ok(_) if queue == sockets_max => {
                return Err(XdpRefusal::Queues { netdev: netdev(), sockets_max });
            }
            Ok(socket) => sockets.push(socket),
            Err(e) if queue > 0 && e.is_no_such_queue() => break,
            Err(source) => return Err(XdpRefusal::Socket { netdev: netdev(), queue, source }),
        }
    }
    Ok(sockets)
}

fn sum(a: CaptureStats, b: CaptureStats) -> CaptureStats {
    CaptureStats {
        frames: a.frames + b.frames,
        bytes: a.bytes + b.bytes,
        gate_frames: a.gate_frames + b.gate_frames,
        dropped_ring_full: a.dropped_ring_full + b.dropped_ring_full,
        dropped_by_socket: a.dropped_by_socket + b.dropped_by_socket,
        dropped_oversize: a.dropped_oversize + b.dropped_oversize,
    }
}

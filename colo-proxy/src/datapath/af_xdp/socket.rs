//! One `AF_XDP` socket with its memory, receiving from one queue in copy mode.
//!
//! The crate `xdp` registers the memory and handles the rings. Binding is done here, because that
//! crate's bind flags lack `XDP_USE_SG`, and without this flag the kernel drops every frame that does
//! not fit into one chunk. The statistics are read here too, because that crate's need its own bind.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::libc;
use xdp::{
    Packet, RingConfigBuilder, Rings, Umem, slab::Slab, socket::XdpSocketBuilder,
    umem::UmemCfgBuilder,
};

use super::assemble::{Assembled, Assembler};
use colo_proxy_engine::frame::Frame;

use crate::datapath::capture::CaptureStats;
use crate::error_chain::chain;

/// Chunks of 4 KiB for each queue, 16 MiB in all: room for 227 frames of 64 KiB, or for 4096 small
/// ones. All rings have this length, a power of two, so none can overflow.
const CHUNKS: u32 = 4096;
/// Descriptors taken from the ring at once.
const WINDOW: usize = 64;

/// The step of opening a socket that failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot map the memory of the AF_XDP socket")]
    Memory(#[source] io::Error),
    #[error("the configuration of the AF_XDP socket is not valid: {0}")]
    Configuration(String),
    #[error("cannot set up the rings of the AF_XDP socket")]
    Rings(#[source] xdp::socket::SocketError),
    #[error("cannot bind the AF_XDP socket")]
    Bind(#[source] io::Error),
}

impl SocketError {
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Memory(_) => "map the memory of an AF_XDP socket",
            Self::Configuration(_) | Self::Rings(_) => "set up an AF_XDP socket",
            Self::Bind(_) => "bind an AF_XDP socket",
        }
    }

    /// The kernel's answer if the interface has no queue with this number.
    pub(super) fn is_no_such_queue(&self) -> bool {
        matches!(self, Self::Bind(e) if e.raw_os_error() == Some(libc::EINVAL))
    }
}

/// A bound socket.
pub(super) struct QueueSocket {
    // Closed before the rings and before the memory that the kernel writes to.
    socket: XdpSocketBuilder,
    rings: Rings,
    umem: Umem,
    assembler: Assembler,
    stats: CaptureStats,
}

impl QueueSocket {
    /// Opens a socket with memory of its own and binds it to `queue` of the interface.
    pub(super) fn open(ifindex: u32, queue: u32) -> Result<Self, SocketError> {
        let configuration = |e: xdp::error::Error| SocketError::Configuration(chain(&e));
        let umem = UmemCfgBuilder { frame_count: CHUNKS, ..UmemCfgBuilder::default() };
        let mut umem =
            Umem::map(umem.build().map_err(configuration)?).map_err(SocketError::Memory)?;
        // This socket sends nothing, but the kernel wants a completion ring with the memory.
        let sizes = RingConfigBuilder {
            rx_count: CHUNKS,
            tx_count: 0,
            fill_count: CHUNKS,
            completion_count: 2,
        };
        let sizes = sizes.build().map_err(configuration)?;
        let mut socket = XdpSocketBuilder::new().map_err(SocketError::Rings)?;
        let (mut rings, _) = socket.build_rings(&umem, sizes).map_err(SocketError::Rings)?;
        // SAFETY: the memory outlives the socket: both are fields of `Self`, the socket first.
        unsafe { rings.fill_ring.enqueue(&mut umem, CHUNKS as usize) };
        bind(&socket, ifindex, queue).map_err(SocketError::Bind)?;
        let stats = CaptureStats::default();
        Ok(Self { socket, rings, umem, assembler: Assembler::default(), stats })
    }

    /// Appends at most `max_frames` frames to `into`, and returns their number.
    pub(super) fn read_batch(&mut self, max_frames: usize, into: &mut Vec<Frame>) -> usize {
        let mut read = 0;
        while read < max_frames {
            // A frame has at least one descriptor, so this many are not too many frames.
            let mut window = Window::new(WINDOW.min(max_frames - read));
            let Some(rx_ring) = &mut self.rings.rx_ring else { break };
            // SAFETY: the packets point into `self.umem`, and end with this turn.
            let received = unsafe { rx_ring.recv(&self.umem, &mut window) };
            if received == 0 {
                break;
            }
            while let Some(packet) = window.pop_back() {
                read += self.take(&packet, into);
                self.umem.free_packet(packet);
            }
            // SAFETY: as in `open`.
            unsafe { self.rings.fill_ring.enqueue(&mut self.umem, received) };
        }
        read
    }

    /// Copies one piece out of the kernel's memory; returns the number of frames that it completed.
    fn take(&mut self, piece: &Packet, into: &mut Vec<Frame>) -> usize {
        match self.assembler.push(piece, piece.is_continued()) {
            Assembled::Unfinished => 0,
            Assembled::Oversize => {
                self.stats.dropped_oversize += 1;
                0
            }
            Assembled::Frame(frame) => {
                self.stats.frames += 1;
                self.stats.bytes += frame.ethernet().len() as u64;
                into.push(frame);
                1
            }
        }
    }

    /// The counts of read frames, and the kernel's counts of dropped ones.
    pub(super) fn stats(&self) -> CaptureStats {
        let kernel = statistics(&self.socket).unwrap_or_default();
        CaptureStats {
            dropped_ring_full: kernel.ring_full,
            dropped_by_socket: kernel.dropped,
            ..self.stats
        }
    }
}

impl AsFd for QueueSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.socket` lives, which owns it.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// Binds for copy mode (a TAP has no other) and frames of several chunks.
fn bind(socket: &XdpSocketBuilder, ifindex: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY | libc::XDP_USE_SG,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address lives across the call and is `len` bytes long.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Frames that the kernel dropped at a socket.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    ring_full: u64,
    dropped: u64,
}

fn statistics(socket: &XdpSocketBuilder) -> io::Result<Dropped> {
    // SAFETY: integers only; all zeroes is a value.
    let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which `statistics` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Dropped { ring_full: statistics.rx_ring_full, dropped: statistics.rx_dropped })
}

/// Packets on their way from the ring to a frame, first in, first out, with an exact bound.
struct Window {
    packets: VecDeque<Packet>,
    len_max: usize,
}

impl Window {
    fn new(len_max: usize) -> Self {
        Self { packets: VecDeque::with_capacity(len_max), len_max }
    }
}

impl Slab for Window {
    fn available(&self) -> usize {
        self.len_max - self.packets.len()
    }

    fn len(&self) -> usize {
        self.packets.len()
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn push_front(&mut self, packet: Packet) -> Option<Packet> {
        if self.available() == 0 {
            return Some(packet);
        }
        self.packets.push_front(packet);
        None
    }

    fn pop_back(&mut self) -> Option<Packet> {
        self.packets.pop_back()
    }
}

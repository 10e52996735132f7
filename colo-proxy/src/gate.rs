//! The gate: a TAP of the daemon's. The daemon reads the frames that the kernel redirects into it.
//! The kernel redirects onward the frames that the daemon writes into it.
//!
//! A gate carries frames between programs and the daemon and nothing else. So it has no address,
//! no IPv6, no ARP, and an MTU that every redirect fits. It stays down until the programs that
//! guard it are attached ([`Gate::set_up`]).

pub(crate) mod batch;
mod device;
pub(crate) mod readable;

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use bytes::Bytes;
use nix::libc;

use colo_proxy_engine::frame::{FRAME_MAX, Frame, VNET_HDR_LEN};

/// The device that makes TAPs.
const TUN_DEVICE: &str = "/dev/net/tun";
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum in the frame covers only the pseudo-header.
const NEEDS_CSUM: u8 = 1;
/// The virtio-net header of a frame that needs neither a checksum nor segmentation.
const PLAIN_HDR: [u8; VNET_HDR_LEN] = [0; VNET_HDR_LEN];

/// Options for a new gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateOptions {
    /// Interface name. The kernel puts a number in the place of `%d`, as in `colo-out%d`.
    pub name_template: String,
    /// Frames come and go with a virtio-net header of 12 bytes. GSO frames stay whole, and partial
    /// checksums stay partial. Without it the kernel segments frames and completes checksums.
    pub vnet_hdr: bool,
    /// Frames that the kernel queues for us before it drops some.
    pub queue_len: u32,
}

impl Default for GateOptions {
    fn default() -> Self {
        // With the kernel's default, 1000 frames, a flood loses most of its frames.
        Self { name_template: "colo-gate%d".into(), vnet_hdr: true, queue_len: 10_000 }
    }
}

/// Why a gate cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("cannot open {TUN_DEVICE}")]
    Device { source: io::Error },
    #[error(
        "interface name {name:?} is not valid: it needs 1 to {} bytes, without a slash and a zero byte",
        libc::IFNAMSIZ - 1
    )]
    Name { name: String },
    #[error("cannot {action} gate {name}")]
    Configure { action: &'static str, name: String, source: io::Error },
}

impl GateError {
    /// The remedy for the operator, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        let (Self::Device { source } | Self::Configure { source, .. }) = self else { return None };
        match source.raw_os_error()? {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Some("load the tun module: modprobe tun"),
            libc::EPERM | libc::EACCES => Some("run as root, or with CAP_NET_ADMIN"),
            libc::EBUSY | libc::EEXIST => Some("another process has an interface of this name"),
            _ => None,
        }
    }
}

/// The kernel's verdict on a frame that was written to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Written {
    /// The kernel took it.
    Sent,
    /// The kernel has no room now, and did not take the frame.
    WouldBlock,
    /// The kernel did not take the frame and never will. It is shorter than an Ethernet header or
    /// longer than a gate takes, or its virtio-net header does not describe it.
    Malformed,
}

/// An open TAP. The host loses it when this is dropped.
#[derive(Debug)]
pub struct Gate {
    fd: OwnedFd,
    name: String,
    ifindex: u32,
    vnet_len: usize,
}

impl Gate {
    /// Opens and configures a TAP in the network namespace of this thread, and leaves it down.
    pub fn open(options: &GateOptions) -> Result<Self, GateError> {
        device::open(options)
    }

    /// Brings the interface up. Until then it neither takes nor gives a frame.
    pub fn set_up(&self) -> Result<(), GateError> {
        device::set_up(&self.name)
    }

    /// The name that the kernel gave the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface index. No other interface of this namespace has it while the gate lives.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Bytes of the virtio-net header that frames of this gate have: 12 or 0.
    pub fn vnet_len(&self) -> usize {
        self.vnet_len
    }

    /// Reads one frame. `None` if none is there. An error means that the gate is gone.
    pub fn read_frame(&self) -> io::Result<Option<Frame>> {
        loop {
            let mut buffer = Vec::with_capacity(FRAME_MAX);
            let len = match read_into_spare(self.fd.as_fd(), &mut buffer) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Gives the rest back to the allocator, so that a frame that is held for long costs
            // only its own size.
            buffer.shrink_to_fit();
            // The kernel puts the header before every frame. A frame without it cannot happen, and is
            // skipped.
            if let Some(frame) = Frame::new(Bytes::from(buffer), self.vnet_len) {
                return Ok(Some(frame));
            }
        }
    }

    /// Writes one frame, with the header that this gate has, without copying it. An error means
    /// that the gate is down or gone. A fault of the frame itself is a verdict.
    pub fn write_frame(&self, frame: &Frame) -> io::Result<Written> {
        let Some((head, tail)) = self.header_for(frame) else {
            return Ok(Written::Malformed);
        };
        if frame.ethernet().len() > FRAME_MAX {
            return Ok(Written::Malformed);
        }
        let parts = [IoSlice::new(head), IoSlice::new(tail), IoSlice::new(frame.ethernet())];
        loop {
            match nix::sys::uio::writev(&self.fd, &parts) {
                Ok(_) => return Ok(Written::Sent),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN | nix::Error::ENOBUFS | nix::Error::ENOMEM) => {
                    return Ok(Written::WouldBlock);
                }
                Err(nix::Error::EINVAL | nix::Error::E2BIG | nix::Error::EMSGSIZE) => {
                    return Ok(Written::Malformed);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The header of `frame` in the length of this gate, in two parts. `None` if the gate cannot
    /// take the frame with any.
    fn header_for<'a>(&self, frame: &'a Frame) -> Option<(&'a [u8], &'static [u8])> {
        let vnet = frame.vnet();
        match (self.vnet_len, vnet.len()) {
            // Behind a gate without header, nobody can complete a checksum or segment a frame.
            (0, 0) => Some((&[], &[])),
            (0, _) => is_plain(vnet).then_some((&[], &[])),
            (_, 0) => Some((&[], &PLAIN_HDR)),
            // The legacy header lacks the number of merged buffers. A TAP ignores that number.
            (_, 10) => Some((vnet, &PLAIN_HDR[10..])),
            // A header with a hash (20) starts like one without.
            (_, 12 | 20) => vnet.get(..VNET_HDR_LEN).map(|head| (head, &[][..])),
            _ => None,
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Gate {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// Forbids the kernel to speak IPv6 on an interface of ours.
pub(crate) fn disable_ipv6(name: &str) -> Result<(), GateError> {
    device::disable_ipv6(name)
}

/// Forbids the kernel to merge segments that arrive on an interface of ours.
pub(crate) fn disable_gro(name: &str) -> Result<(), GateError> {
    device::disable_gro(name)
}

/// The header asks for neither a checksum nor segmentation.
fn is_plain(vnet: &[u8]) -> bool {
    match vnet {
        [flags, gso_type, ..] => flags & NEEDS_CSUM == 0 && *gso_type == 0,
        _ => false,
    }
}

/// One read(2) into the spare capacity of the empty `buffer`.
fn read_into_spare(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    // SAFETY: read(2) writes at most `spare.len()` bytes to `spare`, which this call borrows
    // exclusively and which is valid for that many; uninitialised memory is fine to write to.
    let read = unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len()) };
    let len = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel initialised the first `len` bytes, and `len` is at most the capacity.
    unsafe { buffer.set_len(len) };
    Ok(len)
}

//! The gate: a TAP that the daemon holds. What the kernel redirects to it, we read; what we write
//! to it, the kernel redirects onwards.
//!
//! A gate carries frames between programs and the daemon and nothing else. So it has no address,
//! no IPv6, no ARP, and an MTU that every redirect fits; and it stays down until the programs that
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

/// Where a TAP comes from.
const TUN_DEVICE: &str = "/dev/net/tun";
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum in the frame is that of the pseudo-header only.
const NEEDS_CSUM: u8 = 1;
/// The virtio-net header of a whole frame with nothing left to do.
const PLAIN_HDR: [u8; VNET_HDR_LEN] = [0; VNET_HDR_LEN];

/// How a gate is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateOptions {
    /// Interface name, where the kernel fills in a number for `%d`, such as `colo-out%d`.
    pub name_template: String,
    /// Frames come and go with a 12-octet virtio-net header, GSO frames whole and partial
    /// checksums as they are. Without it the kernel segments and completes every checksum, and
    /// frames are plain.
    pub vnet_hdr: bool,
    /// Frames that the kernel queues for us before it drops.
    pub queue_len: u32,
}

impl Default for GateOptions {
    fn default() -> Self {
        // 1000 frames, the kernel's default, lose up to two thirds in a flood.
        Self { name_template: "colo-gate%d".into(), vnet_hdr: true, queue_len: 10_000 }
    }
}

/// Why a gate could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("cannot open {TUN_DEVICE}")]
    Device { source: io::Error },
    #[error("interface name {name:?} does not fit in {} octets", libc::IFNAMSIZ - 1)]
    Name { name: String },
    #[error("cannot {action} gate {name}")]
    Configure { action: &'static str, name: String, source: io::Error },
}

impl GateError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        let (Self::Device { source } | Self::Configure { source, .. }) = self else { return None };
        match source.raw_os_error()? {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Some("load the tun module: modprobe tun"),
            libc::EPERM | libc::EACCES => Some("run as root, or with CAP_NET_ADMIN"),
            libc::EBUSY | libc::EEXIST => Some("another process holds an interface of this name"),
            _ => None,
        }
    }
}

/// What became of a frame that was written to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Written {
    /// The kernel took it.
    Sent,
    /// The kernel has no room now; the frame was not taken.
    WouldBlock,
    /// The frame is shorter than an Ethernet header, longer than a gate takes, or its virtio-net
    /// header describes something else than the frame; it was not taken and never will be.
    Malformed,
}

/// An open TAP; it disappears from the host when this is dropped.
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

    /// Brings the interface up; until then it neither takes nor gives a frame.
    pub fn set_up(&self) -> Result<(), GateError> {
        device::set_up(&self.name)
    }

    /// The interface name that the kernel gave.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface index, which no other interface of this namespace will have while we live.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Length of the virtio-net header that frames of this gate have: 12, or 0.
    pub fn vnet_len(&self) -> usize {
        self.vnet_len
    }

    /// Reads one frame; `None` where none is waiting. An error means that the gate is gone.
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
            // Gives the tail back to the allocator where it lies, so that a frame held for long
            // costs its own size.
            buffer.shrink_to_fit();
            // The kernel puts the header before every frame, so one without it does not exist.
            if let Some(frame) = Frame::new(Bytes::from(buffer), self.vnet_len) {
                return Ok(Some(frame));
            }
        }
    }

    /// Writes one frame, with the header that this gate has, without copying it. An error means
    /// that the gate is down or gone; what is wrong with the frame itself is a verdict.
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

    /// The header of `frame` in the length of this gate, in two parts; `None` where it cannot be
    /// had.
    fn header_for<'a>(&self, frame: &'a Frame) -> Option<(&'a [u8], &'static [u8])> {
        let vnet = frame.vnet();
        match (self.vnet_len, vnet.len()) {
            // Nothing can complete a checksum or segment a frame behind a gate without header.
            (0, 0) => Some((&[], &[])),
            (0, _) => is_plain(vnet).then_some((&[], &[])),
            (_, 0) => Some((&[], &PLAIN_HDR)),
            // The legacy header lacks the number of merged buffers, which a TAP ignores.
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

/// Keeps the kernel from speaking IPv6 on an interface of ours.
pub(crate) fn disable_ipv6(name: &str) -> Result<(), GateError> {
    device::disable_ipv6(name)
}

/// Keeps the kernel from putting segments together that come in by an interface of ours.
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
    // SAFETY: read(2) writes at most `spare.len()` octets to `spare`, which this call borrows
    // exclusively and which is valid for that many; uninitialised memory is fine to write to.
    let read = unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len()) };
    let len = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel initialised the first `len` octets, and `len` is at most the capacity.
    unsafe { buffer.set_len(len) };
    Ok(len)
}

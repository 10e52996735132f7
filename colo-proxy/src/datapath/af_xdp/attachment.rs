//! The attachment of the program `colo_xdp_capture` to the guest's TAP.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, XdpMode,
    links::{FdLink, PinnedLink},
};
use nix::libc;

use super::{LINK_NAME, XdpRefusal, XdpTarget};
use crate::datapath::detach::detach_pinned;
use crate::error_chain::chain;

/// The file that pins the program.
const PROGRAM_NAME: &str = "prog_colo_xdp_capture";

/// A native XDP attachment, pinned.
///
/// The pins show it to operators, and end with it. A program without sockets lets every frame pass, so
/// after the death of a daemon the TC programs decide.
pub(super) struct XdpAttachment {
    _link: PinnedLink,
    link_pin: Pin,
    program_pin: Pin,
}

impl XdpAttachment {
    /// Loads the program if it is not loaded yet, attaches it in native mode by a link, and pins both in
    /// place of a leftover.
    pub(super) fn new(target: XdpTarget<'_>) -> Result<Self, XdpRefusal> {
        let XdpTarget { netdev, ifindex, program, pins } = target;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(source) => return Err(XdpRefusal::Load { source }),
        }
        remove_leftover(pins)?;
        let attach = |source| XdpRefusal::Attach { netdev: netdev.to_owned(), source };
        let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(attach)?;
        let link = program.take_link(id).map_err(attach)?;
        // Before Linux 5.9 there are no XDP links, and this is a netlink attachment.
        let link =
            FdLink::try_from(link).map_err(|_| XdpRefusal::NoLink { netdev: netdev.to_owned() })?;
        let path = pins.join(PROGRAM_NAME);
        program.pin(&path).map_err(|e| pin_refusal(&path, io::Error::other(e)))?;
        let program_pin = Pin::at(path)?;
        let path = pins.join(LINK_NAME);
        let link = link.pin(&path).map_err(|e| pin_refusal(&path, io::Error::other(e)))?;
        Ok(Self { _link: link, link_pin: Pin::at(path)?, program_pin })
    }
}

impl Drop for XdpAttachment {
    fn drop(&mut self) {
        if self.link_pin.is_ours() {
            warn_of(&self.link_pin, detach_pinned(&self.link_pin.path));
        }
        if self.program_pin.is_ours() {
            warn_of(&self.program_pin, std::fs::remove_file(&self.program_pin.path));
        }
    }
}

/// Detaches the program that a dead daemon has left in the directory `pins`. Without it the TC program
/// captures.
pub(super) fn remove_leftover(pins: &Path) -> Result<(), XdpRefusal> {
    let path = pins.join(LINK_NAME);
    detach_pinned(&path).map_err(|e| pin_refusal(&path, e))?;
    let path = pins.join(PROGRAM_NAME);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin_refusal(&path, e)),
        _ => Ok(()),
    }
}

/// A file in bpffs that this daemon has made.
struct Pin {
    path: PathBuf,
    /// Another attachment may have replaced the file since.
    inode: u64,
}

impl Pin {
    fn at(path: PathBuf) -> Result<Self, XdpRefusal> {
        let found = std::fs::symlink_metadata(&path).map_err(|e| pin_refusal(&path, e))?;
        Ok(Self { path, inode: found.ino() })
    }

    fn is_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

fn pin_refusal(path: &Path, source: io::Error) -> XdpRefusal {
    XdpRefusal::Pin { path: path.to_owned(), source }
}

fn warn_of(pin: &Pin, removed: io::Result<()>) {
    if let Err(error) = removed {
        log::warn!("cannot remove the pin {}: {}", pin.path.display(), chain(&error));
    }
}

/// A hint for the operator after a failed attachment.
pub(super) fn hint(source: &ProgramError) -> Option<&'static str> {
    let ProgramError::SyscallError(call) = source else { return None };
    match call.io_error.raw_os_error()? {
        libc::EOPNOTSUPP => Some(
            "the driver of this interface has no native XDP, and in SKB mode released frames would \
             be captured again",
        ),
        libc::EBUSY => Some("another XDP program is attached to this interface"),
        _ => None,
    }
}

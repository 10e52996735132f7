//! The program `colo_xdp_capture` on the guest's TAP, for as long as this lives.

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

use super::{LINK_NAME, Refusal, XdpTarget};
use crate::datapath::detach::detach_pinned;
use crate::error_chain::chain;

/// The file that pins the program.
const PROGRAM_NAME: &str = "prog_colo_xdp_capture";

/// A native XDP attachment, pinned.
///
/// The pins are for operators to see, and end with the attachment: a program without sockets lets
/// everything pass, so what is to happen after the death of a daemon is the TC programs' matter.
pub(super) struct Attachment {
    _link: PinnedLink,
    link_pin: Pin,
    program_pin: Pin,
}

impl Attachment {
    /// Loads the program if need be, attaches it in native mode by a link, and pins both in place
    /// of a leftover.
    pub(super) fn new(target: XdpTarget<'_>) -> Result<Self, Refusal> {
        let XdpTarget { netdev, ifindex, program, pins } = target;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(source) => return Err(Refusal::Load { source }),
        }
        remove_leftover(pins)?;
        let attach = |source| Refusal::Attach { netdev: netdev.to_owned(), source };
        let id = program.attach_to_if_index(ifindex, XdpMode::Driver).map_err(attach)?;
        let link = program.take_link(id).map_err(attach)?;
        // Not a link but a netlink attachment where the kernel has no XDP links (before 5.9).
        let link =
            FdLink::try_from(link).map_err(|_| Refusal::NoLink { netdev: netdev.to_owned() })?;
        let path = pins.join(PROGRAM_NAME);
        program.pin(&path).map_err(|e| pin_refusal(&path, io::Error::other(e)))?;
        let program_pin = Pin::at(path)?;
        let path = pins.join(LINK_NAME);
        let link = link.pin(&path).map_err(|e| pin_refusal(&path, io::Error::other(e)))?;
        Ok(Self { _link: link, link_pin: Pin::at(path)?, program_pin })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.link_pin.is_ours() {
            warn_of(&self.link_pin, detach_pinned(&self.link_pin.path));
        }
        if self.program_pin.is_ours() {
            warn_of(&self.program_pin, std::fs::remove_file(&self.program_pin.path));
        }
    }
}

/// Detaches what a dead daemon has left in the directory `pins`. Where there is no attachment, the
/// TC program captures.
pub(super) fn remove_leftover(pins: &Path) -> Result<(), Refusal> {
    let path = pins.join(LINK_NAME);
    detach_pinned(&path).map_err(|e| pin_refusal(&path, e))?;
    let path = pins.join(PROGRAM_NAME);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(pin_refusal(&path, e)),
        _ => Ok(()),
    }
}

/// A file that we have made in bpffs.
struct Pin {
    path: PathBuf,
    /// Another attachment may have put its own in the same place since.
    inode: u64,
}

impl Pin {
    fn at(path: PathBuf) -> Result<Self, Refusal> {
        let found = std::fs::symlink_metadata(&path).map_err(|e| pin_refusal(&path, e))?;
        Ok(Self { path, inode: found.ino() })
    }

    fn is_ours(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

fn pin_refusal(path: &Path, source: io::Error) -> Refusal {
    Refusal::Pin { path: path.to_owned(), source }
}

fn warn_of(pin: &Pin, removed: io::Result<()>) {
    if let Err(error) = removed {
        log::warn!("cannot remove the pin {}: {}", pin.path.display(), chain(&error));
    }
}

/// What the operator can do about a failed attachment.
pub(super) fn hint(source: &ProgramError) -> Option<&'static str> {
    let ProgramError::SyscallError(call) = source else { return None };
    match call.io_error.raw_os_error()? {
        libc::EOPNOTSUPP => Some(
            "the driver of this interface has no native XDP; in SKB mode what is released would \
             be captured again",
        ),
        libc::EBUSY => Some("another XDP program is attached to this interface"),
        _ => None,
    }
}

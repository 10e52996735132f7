//! The program `colo_xdp_capture` on the guest's TAP, for as long as this lives.

use std::{io, os::unix::fs::MetadataExt, path::PathBuf};

use aya::programs::{
    ProgramError, XdpMode,
    links::{FdLink, PinnedLink},
};
use nix::libc;

use super::{Refusal, XdpTarget, detach::detach_pinned};

/// The file that pins the link.
const LINK_PIN: &str = "link_colo_xdp_capture";

/// A native XDP attachment, pinned.
pub(super) struct Attachment {
    _link: PinnedLink,
    pin: PathBuf,
    /// Of the pin: another attachment may have put its own in place of ours.
    inode: u64,
}

impl Attachment {
    /// Attaches in native mode by a link, and pins it in place of a leftover.
    pub(super) fn new(target: XdpTarget<'_>) -> Result<Self, Refusal> {
        let netdev = || target.netdev.to_owned();
        let path = target.pins.join(LINK_PIN);
        let pin = |source| Refusal::Pin { netdev: netdev(), path: path.clone(), source };
        // The link of a dead daemon. Until ours is there, the TC program captures.
        detach_pinned(&path).map_err(pin)?;
        let attach = |source| Refusal::Attach { netdev: netdev(), source };
        let program = target.program;
        let id = program.attach_to_if_index(target.ifindex, XdpMode::Driver).map_err(attach)?;
        let link = program.take_link(id).map_err(attach)?;
        // Not a link but a netlink attachment where the kernel has no XDP links (before 5.9).
        let link = FdLink::try_from(link).map_err(|_| Refusal::NoLink { netdev: netdev() })?;
        let link = link.pin(&path).map_err(|e| pin(io::Error::other(e)))?;
        let inode = std::fs::symlink_metadata(&path).map_err(pin)?.ino();
        Ok(Self { _link: link, pin: path, inode })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.pin).is_ok_and(|m| m.ino() == self.inode);
        if ours && let Err(error) = detach_pinned(&self.pin) {
            log::warn!("cannot detach the link pinned at {}: {error}", self.pin.display());
        }
    }
}

/// What the operator can do about a failed attachment.
pub(super) fn hint(source: &ProgramError) -> &'static str {
    let ProgramError::SyscallError(call) = source else { return "" };
    match call.io_error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "; hint: its driver has no native XDP, and SKB mode would capture what is released"
        }
        Some(libc::EBUSY) => "; hint: another XDP program is attached to it",
        _ => "",
    }
}

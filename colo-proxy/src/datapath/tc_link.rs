//! Links of TC programs: reads the interface of a pinned link, and detaches it.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::programs::MultiProgLink as _;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;

use super::DatapathError;
use super::detach::detach as syscall_detach;

/// The link that is pinned at `path`, if it is on `ifindex`.
pub(super) fn on_interface(
    path: &Path,
    ifindex: u32,
) -> Result<Option<SchedClassifierLink>, DatapathError> {
    let link = if path.exists() { Some(open(path)?) } else { None };
    Ok(link.filter(|link| ifindex_of(link) == Some(ifindex)))
}

fn open(path: &Path) -> Result<SchedClassifierLink, DatapathError> {
    let pinned = PinnedLink::from_pin(path)
        .map_err(|source| DatapathError::Link { path: path.to_owned(), source })?;
    from_pinned(pinned)
}

pub(super) fn from_pinned(pinned: PinnedLink) -> Result<SchedClassifierLink, DatapathError> {
    FdLink::from(pinned).try_into().map_err(|source| DatapathError::LinkKind { source })
}

pub(super) fn detach(link: &SchedClassifierLink) -> Result<(), DatapathError> {
    let fd = link.fd().map_err(|source| DatapathError::LinkKind { source })?;
    syscall_detach(fd).map_err(|source| DatapathError::Detach { source })
}

/// Detaches the program of the link that is pinned at `path`. The pin stays.
pub(super) fn detach_pinned(path: &Path) -> Result<(), DatapathError> {
    detach(&open(path)?)
}

/// The link that is pinned at `path` is on an interface that exists, in any namespace.
pub(super) fn is_live(path: &Path) -> bool {
    let link: Option<SchedClassifierLink> =
        PinnedLink::from_pin(path).ok().and_then(|pinned| FdLink::from(pinned).try_into().ok());
    link.is_some_and(|link| ifindex_of(&link).is_some())
}

/// The interface of a link; `None` if it is gone. This reads `fdinfo`, because aya does not show this
/// part of `bpf_link_info`.
pub(super) fn ifindex_of(link: &SchedClassifierLink) -> Option<u32> {
    let fd = link.fd().ok()?.as_fd().as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let ifindex = text.lines().find_map(|line| line.strip_prefix("ifindex:"))?.trim().parse();
    ifindex.ok().filter(|ifindex| *ifindex != 0)
}

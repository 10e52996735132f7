//! Taking a program off its hook now.
//!
//! A link that loses its pin and its last descriptor is detached some time later, by a worker of
//! the kernel: whoever is told that the guest's network is free again may rely on it, and whoever
//! attaches XDP in between is told that the interface is busy. aya offers no way to detach before
//! that.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::libc::c_int;

use super::syscall::{LINK_DETACH, OBJ_GET, bpf};

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkAttr {
    link_fd: u32,
}

/// Detaches the link that is pinned at `path`, and removes the pin. Nothing there is fine.
pub(super) fn detach_pinned(path: &Path) -> io::Result<()> {
    let link = match open_pinned(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    detach(link.as_fd())?;
    std::fs::remove_file(path)
}

/// Detaches the program of `link`, which stays as a link to nothing.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr { link_fd: link.as_raw_fd() as u32 };
    // SAFETY: the kernel reads one `LinkAttr`; the command takes no pointer in it.
    unsafe { bpf(LINK_DETACH, &mut attr) }.map(drop)
}

fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads one `ObjectAttr`, and the string that it points to, which lives
    // across the call and ends with a zero.
    let fd = unsafe { bpf(OBJ_GET, &mut attr) }?;
    // SAFETY: the descriptor is new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

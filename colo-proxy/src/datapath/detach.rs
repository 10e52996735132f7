//! Detaches a program from its hook at once.
//!
//! If a link only loses its pin and its last descriptor, a worker of the kernel detaches it some time
//! later. But once the daemon has reported that the guest's network is free, that must be true. And in
//! between, an attempt to attach XDP fails because the interface is busy. aya cannot detach earlier.

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

/// Detaches the link that is pinned at `path`, and removes the pin. Without a pin it does nothing.
pub(super) fn detach_pinned(path: &Path) -> io::Result<()> {
    let link = match open_pinned(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    detach(link.as_fd())?;
    std::fs::remove_file(path)
}

/// Detaches the program of `link`. The link stays, without an interface.
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
    // SAFETY: the descriptor is new and open, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

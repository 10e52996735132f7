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

use nix::libc::{self, c_int, c_long};

/// `enum bpf_cmd`.
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_DETACH: c_int = 34;

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
    let attr = LinkAttr { link_fd: link.as_raw_fd() as u32 };
    // SAFETY: the kernel reads one `LinkAttr`; the command takes no pointer in it.
    unsafe { bpf(BPF_LINK_DETACH, &attr) }.map(drop)
}

fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads one `ObjectAttr`, and the string that it points to, which lives
    // across the call and ends with a zero.
    let fd = unsafe { bpf(BPF_OBJ_GET, &attr) }?;
    // SAFETY: the descriptor is new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// bpf(2).
///
/// # Safety
/// `A` must be what `command` reads of `union bpf_attr`, and every pointer in it valid for it.
unsafe fn bpf<A>(command: c_int, attr: &A) -> io::Result<c_long> {
    // SAFETY: the kernel reads as many octets as `attr` has; the rest is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) } {
        result @ 0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

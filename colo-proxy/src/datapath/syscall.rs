//! bpf(2), for the commands that aya does not offer.

use std::io;

use nix::libc::{self, c_int, c_long};

/// `enum bpf_cmd`.
pub(super) const OBJ_GET: c_int = 7;
pub(super) const MAP_LOOKUP_BATCH: c_int = 24;
pub(super) const LINK_DETACH: c_int = 34;

/// bpf(2).
///
/// # Safety
/// `A` must be the part of `union bpf_attr` that `command` reads, and its pointers must be valid for
/// that command.
pub(super) unsafe fn bpf<A>(command: c_int, attr: &mut A) -> io::Result<c_long> {
    let attr: *mut A = attr;
    // SAFETY: the kernel reads, and for some commands writes, as many bytes as `A` has. The caller
    // promises the rest.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) } {
        result @ 0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Taking a program off its hook now.
//!
//! When the last descriptor or pin of a link goes, the kernel detaches its program some time later;
//! whoever is told that the guest's network is free again may rely on it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;

/// `BPF_LINK_DETACH` of `enum bpf_cmd`, which aya does not offer.
const BPF_LINK_DETACH: libc::c_int = 34;

/// Detaches the program of `link`, which stays as a link to nothing.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // The part of `union bpf_attr` that belongs to the command is the descriptor alone.
    let attributes = link.as_raw_fd();
    // SAFETY: the kernel reads as many octets of the attributes as it is told there are.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

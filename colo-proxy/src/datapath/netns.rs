//! The network namespace of this thread.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::libc;

use super::DatapathError;

/// The kernel's number of the calling thread's network namespace (`SO_NETNS_COOKIE`). The kernel never
/// uses it again for another one. An interface index has a meaning only together with it.
pub fn cookie() -> Result<u64, DatapathError> {
    let read = || -> io::Result<u64> {
        let socket = UnixDatagram::unbound()?;
        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the option's value has 64 bits, and `len` is the length of the room for it.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    };
    read().map_err(|source| DatapathError::NetnsCookie { source })
}

//! Which network namespace this thread is in.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;

use nix::libc;

use super::DatapathError;

/// The kernel's number of the calling thread's network namespace (`SO_NETNS_COOKIE`), which is
/// never used again for another one. Interface indexes mean something only together with it.
pub fn cookie() -> Result<u64, DatapathError> {
    let read = || -> io::Result<u64> {
        let socket = UnixDatagram::unbound()?;
        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the option's value is 64 bits, and `len` says that there is room for as many.
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

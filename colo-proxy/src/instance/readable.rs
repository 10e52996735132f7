//! Waiting for a descriptor that we do not read through tokio: gates, AF_XDP sockets, ring buffers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Readiness of a descriptor; reading is the owner's business.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Watches the open file behind `fd` by a descriptor of its own, so that the owner keeps its.
    pub(crate) fn new(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        // SAFETY: the OwnedFd is moved in, is never replaced, and closes only when the AsyncFd is
        // dropped, so what `as_raw_fd` returns stays valid and open for the life of the AsyncFd.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits until there is something to read and lets `read` read; `read` says whether it found
    /// the descriptor empty. Can be dropped while it waits.
    pub(crate) async fn read<T>(
        &self,
        read: impl FnOnce() -> io::Result<(T, Drained)>,
    ) -> io::Result<T> {
        let mut guard = self.0.readable().await?;
        let (value, drained) = read()?;
        if drained == Drained::Yes {
            guard.clear_ready();
        }
        Ok(value)
    }
}

/// Whether a reader stopped because there was nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Yes,
    No,
}

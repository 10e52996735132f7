//! Readiness of descriptors that we do not read through tokio: gates, AF_XDP sockets, ring buffers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Readiness of a descriptor. The owner does the reading.
#[derive(Debug)]
pub(crate) struct Readable {
    fd: AsyncFd<OwnedFd>,
    /// The last reader stopped before the descriptor was empty.
    has_more: AtomicBool,
}

impl Readable {
    /// Watches the open file behind `fd` with a descriptor of its own, so that the owner can do
    /// what it wants with the other one.
    pub(crate) fn new(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        // SAFETY: the OwnedFd is moved in, is never replaced, and closes only when the AsyncFd is
        // dropped, so what `as_raw_fd` returns stays valid and open for the life of the AsyncFd.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { fd: registered?, has_more: AtomicBool::new(false) })
    }

    /// Waits until there is something to read, and then calls `read`, which says whether it found
    /// the descriptor empty. Can be dropped while it waits.
    ///
    /// Other tasks share the thread, those of other guests too. After a batch that left something
    /// behind, they get their turn first. Without that, a reader that always finds more would never
    /// yield.
    pub(crate) async fn read<T>(
        &self,
        read: impl FnOnce() -> io::Result<(T, Drained)>,
    ) -> io::Result<T> {
        if self.has_more.load(Relaxed) {
            tokio::task::yield_now().await;
            self.has_more.store(false, Relaxed);
        }
        let mut guard = self.fd.readable().await?;
        let (value, drained) = read()?;
        match drained {
            Drained::Yes => guard.clear_ready(),
            Drained::No => self.has_more.store(true, Relaxed),
        }
        Ok(value)
    }
}

/// Whether a reader has emptied its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    const TURNS: u32 = 10_000;

    #[tokio::test]
    async fn a_reader_that_always_finds_more_gives_others_their_turn() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(b"x").expect("room");
        let flood = Readable::new(&ours).expect("it can be watched");
        let done = Rc::new(Cell::new(0));
        let counter = done.clone();
        let beside = LocalSet::new();
        beside.spawn_local(async move {
            loop {
                counter.set(counter.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        let reading = async {
            for _ in 0..TURNS {
                flood.read(|| Ok(((), Drained::No))).await.expect("it can be read");
            }
        };
        beside.run_until(reading).await;
        assert!(done.get() >= TURNS / 2, "{} turns", done.get());
    }
}

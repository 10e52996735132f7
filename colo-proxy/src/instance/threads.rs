//! The threads that serve the guests of a daemon: as many as there are processors, and no more than
//! there are guests.
//!
//! Waking a thread takes longer than all work on a frame. If many guests are busy, each with a few
//! frames, a thread that serves several of them finds the next guest's frames when it has handled those
//! of the last. It need not be woken.

use std::future::Future;
use std::thread::JoinHandle;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{self, LocalSet};

/// Turns of the tasks beside the guests (lanes, sockets) between two looks for events. Each guest with
/// work has one turn, too. QEMU's event of a checkpoint must not wait behind many batches of frames.
const EVENT_INTERVAL: u32 = 8;

/// Starts a task on its thread.
type Start = Box<dyn FnOnce() + Send>;

/// They end when this is dropped, with all guests that they serve.
#[derive(Debug)]
pub struct GuestThreads {
    all: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    starts: Option<mpsc::UnboundedSender<Start>>,
    handle: Option<JoinHandle<()>>,
}

impl GuestThreads {
    /// For so many guests.
    pub fn start(guests: usize) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let all: io::Result<Vec<Thread>> =
            (0..guests.clamp(1, processors)).map(Thread::start).collect();
        Ok(Self { all: all? })
    }

    /// Runs the future of `make` on the thread of the guest with this number. `None` if the thread is
    /// gone.
    pub(super) fn spawn<T, F>(
        &self,
        guest: usize,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Option<task::JoinHandle<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let thread = self.all.get(guest.checked_rem(self.all.len())?)?;
        let (tell, started) = std::sync::mpsc::channel();
        let start: Start = Box::new(move || {
            let _gone = tell.send(task::spawn_local(make()));
        });
        thread.starts.as_ref()?.send(start).ok()?;
        started.recv().ok()
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
        let (starts, to_start) = mpsc::unbounded_channel();
        let handle = thread::Builder::new()
            .name(format!("colo-guests-{number}"))
            .spawn(move || serve(&runtime, to_start))?;
        Ok(Self { starts: Some(starts), handle: Some(handle) })
    }
}

fn serve(runtime: &Runtime, mut to_start: mpsc::UnboundedReceiver<Start>) {
    LocalSet::new().block_on(runtime, async {
        while let Some(start) = to_start.recv().await {
            start();
        }
    });
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.starts = None;
        if let Some(handle) = self.handle.take() {
            // A panic has been reported where it happened.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn wait<T>(started: Option<task::JoinHandle<T>>) -> Result<T, task::JoinError> {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(started.expect("its thread"))
    }

    fn id(threads: &GuestThreads, guest: usize) -> thread::ThreadId {
        wait(threads.spawn(guest, || async { thread::current().id() })).expect("no panic")
    }

    #[test]
    fn guests_share_what_threads_there_are() {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = GuestThreads::start(processors * 3).expect("threads");
        let ids = |guests: std::ops::Range<usize>| -> HashSet<_> {
            guests.map(|guest| id(&threads, guest)).collect()
        };
        assert_eq!(ids(0..processors).len(), processors, "as many as there are processors");
        assert_eq!(ids(0..processors * 3).len(), processors);
        assert_eq!(id(&threads, 0), id(&threads, processors));
        let one = GuestThreads::start(1).expect("a thread");
        assert_eq!(id(&one, 0), id(&one, 1), "no more than there are guests");
    }

    #[test]
    fn a_panic_ends_one_guest_and_no_other() {
        let threads = GuestThreads::start(1).expect("a thread");
        let (other, go_on) = tokio::sync::oneshot::channel::<u32>();
        let waits = threads.spawn(0, || go_on);
        let panics = threads.spawn(1, || async { assert!(thread::panicking(), "on purpose") });
        assert!(wait(panics).expect_err("it panics").is_panic());
        other.send(7).expect("it is there");
        assert_eq!(wait(waits).expect("no panic"), Ok(7));
    }

    #[test]
    fn what_is_served_ends_with_the_threads() {
        let threads = GuestThreads::start(1).expect("a thread");
        let never = threads.spawn(0, std::future::pending::<()>);
        drop(threads);
        assert!(wait(never).expect_err("it is over").is_cancelled());
    }
}

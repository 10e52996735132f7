//! Questions to the kernel about a lane's tunnel and the interfaces behind it, on a thread of its own.
//!
//! Route netlink takes a lock that any process on the host may own for long, and sendmsg(2) blocks
//! until it is free. The guest's thread would release no output meanwhile. So that thread only hands
//! over a question, and finds the answer later. The answer was true at some moment between the two.
//! The kernel's drop counters are totals: a late answer covers more or less time, but nothing counts
//! twice and nothing is left out. An answer cannot belong to another lane, because a thread ends with
//! its lane.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Questions that may be queued for the thread, and likewise answers for the owner.
const QUEUED_MAX: usize = 1;

/// Asks one question at a time. When this is dropped, the thread ends as soon as the kernel lets it.
#[derive(Debug)]
pub(super) struct KernelQueries<A> {
    questions: SyncSender<Vec<u32>>,
    answers: Receiver<A>,
    is_asking: bool,
}

impl<A: Send + 'static> KernelQueries<A> {
    /// Starts the thread, in the network namespace of this one.
    pub(super) fn start(mut ask: impl FnMut(&[u32]) -> A + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Vec<u32>>(QUEUED_MAX);
        let (answered, answers) = sync_channel(QUEUED_MAX);
        std::thread::Builder::new().name("colo-queries".into()).spawn(move || {
            for ifindexes in asked {
                if answered.send(ask(&ifindexes)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers, is_asking: false })
    }

    /// The last question has no answer yet.
    pub(super) fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// Asks about these interfaces, unless the last question has no answer yet.
    pub(super) fn ask(&mut self, ifindexes: Vec<u32>) {
        if !self.is_asking {
            self.is_asking = self.questions.try_send(ifindexes).is_ok();
        }
    }

    /// The answer to the last question, once it is there.
    pub(super) fn answer(&mut self) -> Option<A> {
        let answer = self.answers.try_recv().ok()?;
        self.is_asking = false;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;
    use std::time::{Duration, Instant};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn await_answer(queries: &mut KernelQueries<Vec<u32>>) -> Vec<u32> {
        let until = Instant::now() + TIMEOUT;
        loop {
            if let Some(answer) = queries.answer() {
                return answer;
            }
            assert!(Instant::now() < until, "no answer");
            std::thread::yield_now();
        }
    }

    /// The kernel blocks the thread that asks, and the owner goes on.
    #[test]
    fn a_kernel_that_does_not_answer_stops_nobody() {
        let (unlock, lock) = sync_channel::<()>(0);
        let mut queries = KernelQueries::start(move |ifindexes: &[u32]| {
            let _unlocked = lock.recv();
            ifindexes.to_vec()
        })
        .expect("a thread");
        queries.ask(vec![1, 2]);
        queries.ask(vec![3]);
        assert!(queries.is_asking());
        assert_eq!(queries.answer(), None);
        unlock.send(()).expect("it waits");
        assert_eq!(await_answer(&mut queries), [1, 2], "the question that was asked");
        assert!(!queries.is_asking());
        queries.ask(vec![4]);
        unlock.send(()).expect("it waits");
        assert_eq!(await_answer(&mut queries), [4]);
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let (alive, ended) = sync_channel::<()>(0);
        let queries = KernelQueries::start(move |_: &[u32]| {
            let _kept = &alive;
        })
        .expect("a thread");
        drop(queries);
        assert_eq!(ended.recv_timeout(TIMEOUT), Err(RecvTimeoutError::Disconnected));
    }
}

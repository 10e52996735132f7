//! What has become of a lane's tunnel and of the interfaces behind it, asked on a thread of its own.
//!
//! Route netlink takes a lock that anybody on the host may hold for long, and waits for it in
//! sendmsg(2): the guest's thread would not release output meanwhile. So it only hands over the
//! question, and finds the answer later. That says what was true at some moment between the two; how
//! much is dropped is a total, so an answer that is late is one that covers more or less, and nothing
//! is counted twice or left out. It cannot be of another lane: a thread ends with its own.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// At most one question waits, and at most one answer.
const WAITING_MAX: usize = 1;

/// Asks one question at a time. The thread ends when this is dropped, as soon as the kernel lets it.
#[derive(Debug)]
pub(super) struct KernelQueries<A> {
    questions: SyncSender<Vec<u32>>,
    answers: Receiver<A>,
    is_asking: bool,
}

impl<A: Send + 'static> KernelQueries<A> {
    /// Starts the thread, in the network namespace of this one.
    pub(super) fn start(mut ask: impl FnMut(&[u32]) -> A + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Vec<u32>>(WAITING_MAX);
        let (answered, answers) = sync_channel(WAITING_MAX);
        std::thread::Builder::new().name("colo-queries".into()).spawn(move || {
            for ifindexes in asked {
                if answered.send(ask(&ifindexes)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers, is_asking: false })
    }

    /// The last question has yet to be answered.
    pub(super) fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// Asks after these interfaces, unless the last question has yet to be answered.
    pub(super) fn ask(&mut self, ifindexes: Vec<u32>) {
        if !self.is_asking {
            self.is_asking = self.questions.try_send(ifindexes).is_ok();
        }
    }

    /// What has been answered since, if anything.
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

    fn await_answer(lookout: &mut KernelQueries<Vec<u32>>) -> Vec<u32> {
        let until = Instant::now() + TIMEOUT;
        loop {
            if let Some(answer) = lookout.answer() {
                return answer;
            }
            assert!(Instant::now() < until, "no answer");
            std::thread::yield_now();
        }
    }

    /// The kernel lets nobody ask, and whoever wanted to know goes on.
    #[test]
    fn a_kernel_that_does_not_answer_keeps_nobody_waiting() {
        let (unlock, lock) = sync_channel::<()>(0);
        let mut lookout = KernelQueries::start(move |ifindexes: &[u32]| {
            let _unlocked = lock.recv();
            ifindexes.to_vec()
        })
        .expect("a thread");
        lookout.ask(vec![1, 2]);
        lookout.ask(vec![3]);
        assert!(lookout.is_asking());
        assert_eq!(lookout.answer(), None);
        unlock.send(()).expect("it waits");
        assert_eq!(await_answer(&mut lookout), [1, 2], "the question that was asked");
        assert!(!lookout.is_asking());
        lookout.ask(vec![4]);
        unlock.send(()).expect("it waits");
        assert_eq!(await_answer(&mut lookout), [4]);
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let (alive, ended) = sync_channel::<()>(0);
        let lookout = KernelQueries::start(move |_: &[u32]| {
            let _kept = &alive;
        })
        .expect("a thread");
        drop(lookout);
        assert_eq!(ended.recv_timeout(TIMEOUT), Err(RecvTimeoutError::Disconnected));
    }
}

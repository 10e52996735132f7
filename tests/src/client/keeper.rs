//! Long-lived connections that keep sending requests, each on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::{Conversation, Latency};

/// A connection in use.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    seen: Arc<KeeperState>,
    worker: JoinHandle<KeeperResult>,
    name: String,
}

/// The state of a connection that is in use.
#[derive(Debug, Default)]
struct KeeperState {
    answers: AtomicU64,
    /// In nanoseconds, since the last question.
    longest_gap: AtomicU64,
}

/// The results of a long-lived connection.
#[derive(Debug)]
pub struct KeeperResult {
    pub name: String,
    pub answers: u64,
    pub latency: Latency,
    /// The longest time between the starts of two answers, and its beginning.
    pub longest_gap: Duration,
    pub gap_began: Instant,
    /// Why it ended before anybody stopped it.
    pub error: Option<anyhow::Error>,
}

impl Keeper {
    /// Requests `count` bytes again and again, with `pause` between an answer and the next request.
    /// It ends when it is stopped, or when an answer is wrong or missing.
    pub fn start(conversation: Conversation, count: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(KeeperState::default());
        let name = conversation.name().to_owned();
        let worker = std::thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || keep(conversation, count, pause, &stop, &seen)
        });
        Self { stop, seen, worker, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers so far, all of them right.
    pub fn answers(&self) -> u64 {
        self.seen.answers.load(Ordering::Acquire)
    }

    /// The longest time between two answers since the last question. A gap that is not over yet
    /// belongs to the next question.
    pub fn take_gap(&self) -> Duration {
        Duration::from_nanos(self.seen.longest_gap.swap(0, Ordering::Relaxed))
    }

    /// It has ended by itself, which is an error.
    pub fn is_over(&self) -> bool {
        self.worker.is_finished()
    }

    /// Waits until it has had `more` answers from now on.
    pub fn wait_for_answers(&self, more: u64, timeout: Duration) -> Result<()> {
        self.wait_until(self.answers() + more, timeout)
    }

    /// Waits until it has had this many answers in all.
    fn wait_until(&self, target: u64, timeout: Duration) -> Result<()> {
        crate::process::eventually(&format!("{}: {target} answers", self.name), timeout, || {
            if self.is_over() {
                return Err(anyhow!("{}: is over", self.name));
            }
            Ok((self.answers() >= target).then_some(()))
        })
    }

    /// Stops the requests and closes the connection in good order.
    pub fn stop(self) -> Result<KeeperResult> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().map_err(|_| anyhow!("{}: its thread panicked", self.name))
    }
}

/// Waits until each of them has had `more` answers from now on.
pub fn wait_for_all(keepers: &[Keeper], more: u64, timeout: Duration) -> Result<()> {
    let targets: Vec<u64> = keepers.iter().map(|keeper| keeper.answers() + more).collect();
    keepers.iter().zip(targets).try_for_each(|(keeper, target)| keeper.wait_until(target, timeout))
}

fn keep(
    mut conversation: Conversation,
    count: u64,
    pause: Duration,
    stop: &AtomicBool,
    seen: &KeeperState,
) -> KeeperResult {
    let now = Instant::now();
    let mut kept = KeeperResult {
        name: conversation.name().to_owned(),
        answers: 0,
        latency: Latency::default(),
        longest_gap: Duration::ZERO,
        gap_began: now,
        error: None,
    };
    let mut last = now;
    while !stop.load(Ordering::Relaxed) {
        match conversation.ask(count) {
            Ok(took) => kept.latency.add(took),
            Err(error) => {
                kept.error = Some(error);
                return kept;
            }
        }
        let now = Instant::now();
        let gap = now - last;
        if gap > kept.longest_gap {
            (kept.longest_gap, kept.gap_began) = (gap, last);
        }
        seen.longest_gap.fetch_max(gap.as_nanos() as u64, Ordering::Relaxed);
        last = now;
        kept.answers += 1;
        seen.answers.store(kept.answers, Ordering::Release);
        std::thread::sleep(pause);
    }
    kept.error = conversation.close().err();
    kept
}

//! Every kind of traffic at once, for a given time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::{Calls, Conversation, echo, ping};
use crate::network::{Family, Lab};

/// The amounts of traffic, all of it checked.
#[derive(Debug, Default)]
pub struct MixedTotals {
    pub answers: AtomicU64,
    pub bulk_octets: AtomicU64,
    pub short_connections: AtomicU64,
    pub calls: AtomicU64,
    pub datagrams: AtomicU64,
}

type Job = fn(&Lab, Family, Instant, &MixedTotals) -> Result<()>;

/// Long connections, short ones, bulk in both directions, connections that the guest opens, UDP and
/// ICMP, over both IP versions. They run until `duration` is over or something is wrong.
pub fn mixed(lab: &Lab, duration: Duration) -> Result<MixedTotals> {
    let done = MixedTotals::default();
    let until = Instant::now() + duration;
    let jobs: [(&str, Job); 5] = [
        ("long connection", long),
        ("bulk", bulk),
        ("short connections", short),
        ("calls", calls),
        ("datagrams", datagrams),
    ];
    scope(|scope| {
        let run = |(name, job): (&'static str, Job), family| {
            let done = &done;
            let worker = move || {
                job(lab, family, until, done).with_context(|| format!("{name}, {family:?}"))
            };
            scope.spawn(worker)
        };
        let workers: Vec<ScopedJoinHandle<'_, Result<()>>> =
            Family::BOTH.into_iter().flat_map(|family| jobs.map(|job| run(job, family))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))
        })
    })?;
    Ok(done)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn long(lab: &Lab, family: Family, until: Instant, done: &MixedTotals) -> Result<()> {
    let mut conversation = Conversation::open(&lab.client, family)?;
    for len in (1..6000).cycle().step_by(37) {
        if Instant::now() > until {
            break;
        }
        conversation.ask(len)?;
        conversation.echo(len)?;
        add(&done.answers, 2);
        std::thread::sleep(Duration::from_millis(2));
    }
    conversation.close()
}

fn bulk(lab: &Lab, family: Family, until: Instant, done: &MixedTotals) -> Result<()> {
    const LEN: u64 = 4_000_003;
    let mut conversation = Conversation::open(&lab.client, family)?;
    while Instant::now() < until {
        conversation.down(LEN)?;
        conversation.up(LEN)?;
        add(&done.bulk_octets, 2 * LEN);
    }
    conversation.close()
}

fn short(lab: &Lab, family: Family, until: Instant, done: &MixedTotals) -> Result<()> {
    while Instant::now() < until {
        let mut conversation = Conversation::open(&lab.client, family)?;
        conversation.ask(300)?;
        conversation.down(20_000)?;
        conversation.close()?;
        add(&done.short_connections, 1);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn calls(lab: &Lab, family: Family, until: Instant, done: &MixedTotals) -> Result<()> {
    let calls = Calls::new(&lab.client, family)?;
    while Instant::now() < until {
        let mut conversation = calls.call()?;
        conversation.ask(700)?;
        conversation.up(20_000)?;
        conversation.close()?;
        add(&done.calls, 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn datagrams(lab: &Lab, family: Family, until: Instant, done: &MixedTotals) -> Result<()> {
    while Instant::now() < until {
        for len in [32, 600, 1400] {
            add(&done.datagrams, echo(&lab.client, family, 10, len)?.latency.count() as u64);
        }
        add(&done.datagrams, ping(&lab.client, family, 2, 100)?.latency.count() as u64);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

//! The demonstrations: a service on two hosts continues after the death of one.
//!
//! [`stand_ins`] has guests that are namespaces, [`real`] has guests in QEMU under COLO.

mod connections;
mod real;
mod report;
mod stand_ins;
mod traffic;
mod view;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cleanup;
use crate::daemon::{DaemonStatus, StatusAsker};
use report::DemoReport;
use view::View;

/// The time between two reads of the daemons' status for the live view.
const REFRESH: Duration = Duration::from_millis(150);

/// The kind of guests.
#[derive(Clone, Debug)]
pub enum Guests {
    StandIns,
    /// Guests in QEMU. Their downloads stay in this folder.
    Real(PathBuf),
}

/// Runs the demonstration. It returns `Ok(true)` if every check held.
pub fn run(guests: &Guests, plain: bool) -> Result<bool> {
    cleanup::on_signals()?;
    let view = View::new(plain);
    match guests {
        Guests::StandIns => perform(&view, stand_ins::Stage::build),
        Guests::Real(cache) => perform(&view, |view| real::Stage::build(view, cache)),
    }
}

/// One demonstration: its steps, and its daemons.
trait Play {
    /// The number of its last step, the summary.
    const SUMMARY: u32;

    fn run(&mut self, view: &View, report: &mut DemoReport) -> Result<()>;

    fn watched(&self) -> Watched;

    /// The logs of the daemons, if something went wrong.
    fn show_logs(&self, view: &View);
}

fn perform<P: Play>(view: &View, build: impl FnOnce(&View) -> Result<P>) -> Result<bool> {
    let began = Instant::now();
    let mut report = DemoReport::default();
    view.say("colo-proxy demo: two hosts, one guest on each, one client, all in namespaces");
    let mut play = build(view)?;
    let result = live(view, &mut play, &mut report);
    view.quiet();
    if let Err(error) = &result {
        report.check("the demo", false, format!("{error:#}"));
        play.show_logs(view);
    }
    drop(play);
    report.note("the whole demo", format!("{:.1} s", began.elapsed().as_secs_f64()));
    view.say(&report.table(P::SUMMARY));
    Ok(report.held())
}

/// Runs the steps, and draws the status of the daemons meanwhile.
fn live(view: &View, play: &mut impl Play, report: &mut DemoReport) -> Result<()> {
    let watched = play.watched();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while view.is_live() && !done.load(Ordering::Relaxed) {
                let askers = watched.lock().clone();
                let lines = askers
                    .iter()
                    .filter_map(|(host, asker)| Some(describe(host, &asker.status().ok()?)));
                view.live(&lines.collect::<Vec<_>>());
                std::thread::sleep(REFRESH);
            }
        });
        let result = play.run(view, report);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// The daemons that the live view asks, with the names of their hosts.
#[derive(Clone, Debug, Default)]
struct Watched(Arc<Mutex<Vec<(&'static str, StatusAsker)>>>);

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, StatusAsker)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, daemons: Vec<(&'static str, StatusAsker)>) {
        *self.lock() = daemons;
    }
}

/// One line of the live view.
fn describe(host: &str, status: &DaemonStatus) -> String {
    let n = |key| status.number(key).unwrap_or_default();
    let count = |counts: std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
    format!(
        "{host} {:<11} flows {:<4} held {:<4} compared {:<7} released {:<7} divergences {} \
         checkpoints {} drops {}",
        status.mode().unwrap_or_default(),
        n("flows"),
        n("held_frames"),
        n("compared_frames"),
        n("released_frames"),
        n("divergences"),
        count(status.checkpoints()),
        count(status.drops()),
    )
}

//! The demonstration: a service on two hosts that outlives one of them, in five steps.
//!
//! 1. plain traffic, as the reference;
//! 2. the same under protection;
//! 3. a divergence, found and named;
//! 4. the primary host killed in the middle of it all;
//! 5. a summary.

mod report;
mod steps;
mod traffic;
mod view;

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cleanup;
use crate::daemon::Status;
use report::Report;
use steps::Stage;
use view::View;

/// Between two looks at the daemons for the live view.
const REFRESH: Duration = Duration::from_millis(150);

/// Runs it; `Ok(true)` where all of it held.
pub fn run(plain: bool) -> Result<bool> {
    let began = Instant::now();
    cleanup::on_signals()?;
    let view = View::new(plain);
    let mut report = Report::default();
    view.say("colo-proxy demo: two hosts, one guest on each, one client, all in namespaces");
    let mut stage = Stage::build(&view)?;
    let result = live(&view, &mut stage, &mut report);
    view.quiet();
    if let Err(error) = &result {
        report.check("the demo", false, format!("{error:#}"));
        stage.show_logs(&view);
    }
    drop(stage);
    report.note("the whole demo", format!("{:.1} s", began.elapsed().as_secs_f64()));
    view.say(&report.table());
    Ok(report.held())
}

/// The steps, with the status of the daemons drawn meanwhile.
fn live(view: &View, stage: &mut Stage, report: &mut Report) -> Result<()> {
    let watched = stage.watched();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while view.is_live() && !done.load(Ordering::Relaxed) {
                let askers = watched.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let lines = askers
                    .iter()
                    .filter_map(|(host, asker)| Some(describe(host, &asker.status().ok()?)));
                view.live(&lines.collect::<Vec<_>>());
                std::thread::sleep(REFRESH);
            }
        });
        let result = stage.run(view, report);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// One line of the live view.
fn describe(host: &str, status: &Status) -> String {
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

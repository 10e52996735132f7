//! The daemon: starts every instance, prints `ready`, and ends in good order.

use std::time::Duration;

use anyhow::Context;
use colo_proxy::config::Guest;
use colo_proxy::instance::{GuestThreads, Instance, InstanceDirs};
use colo_proxy::status::RUNTIME_DIR;
use tokio::signal::unix::{SignalKind, signal};

use super::state_dir::StateDir;

/// Time between two checks whether an instance has ended by itself.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn serve(guests: Vec<Guest>, state_dir: StateDir) -> anyhow::Result<()> {
    let dirs = InstanceDirs { runtime: RUNTIME_DIR.into(), state: state_dir.path };
    let threads = GuestThreads::start(guests.len()).context("cannot start a thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_on(&threads, guests, &dirs))
}

async fn serve_on(
    threads: &GuestThreads,
    guests: Vec<Guest>,
    dirs: &InstanceDirs,
) -> anyhow::Result<()> {
    // Signals are caught before the first instance starts, so that none ends the daemon while an
    // instance is half attached.
    let mut signals = Signals::new()?;
    let mut instances = Vec::new();
    let mut started = Ok(());
    for (number, guest) in guests.into_iter().enumerate() {
        let netdev = guest.netdev.clone();
        match Instance::start(guest, dirs, threads, number).await {
            Ok(instance) => instances.push(instance),
            Err(error) => {
                started = Err(error).with_context(|| format!("cannot serve {netdev}"));
                break;
            }
        }
    }
    if started.is_ok() {
        eprintln!("colo-proxy: ready");
        tokio::select! {
            () = signals.next() => {}
            () = all_ended(&instances) => {}
        }
    }
    instances.iter().for_each(Instance::stop);
    for instance in instances {
        started = started.and(instance.ended().await.map_err(Into::into));
    }
    started
}

/// The signals that end a daemon in good order.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for all instances: if one guest cannot go on, the others are served on.
async fn all_ended(instances: &[Instance]) {
    let mut tick = tokio::time::interval(WATCH_INTERVAL);
    while !instances.iter().all(Instance::is_finished) {
        tick.tick().await;
    }
}

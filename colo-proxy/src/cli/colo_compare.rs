//! Runs the engine between QEMU's sockets until a signal ends it.

use anyhow::Context;
use colo_proxy::colo_compare::{self, CompareOptions};

use super::daemon::Signals;

pub(super) fn serve(options: CompareOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Signals are caught before the first socket exists, so that no file is left behind.
        let mut signals = Signals::new()?;
        let started = || eprintln!("colo-proxy: ready");
        let served = colo_compare::run(options, started, signals.next());
        served.await.context("cannot compare")
    })
}

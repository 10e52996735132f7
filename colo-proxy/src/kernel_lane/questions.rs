//! The questions to the kernel about the tunnel, and about the interfaces behind it.

use std::io;

use colo_proxy_engine::log_limit::LogLimit;
use colo_proxy_engine::pair::Role;

use super::KernelLane;
use super::kernel_queries::KernelQueries;
use crate::datapath::Datapath;
use crate::error_chain::chain;
use crate::tunnel::{self, LinkAnswer, LinkQuerier, TunnelError};

/// Ticks between two looks at the tunnel and at the interfaces behind it. A look takes a few requests to
/// the kernel, and a loss in the tunnel is found no sooner. The time is longer if the kernel answers
/// slowly.
const LOOK_TICKS: u32 = 4;

/// Starts the thread that asks about the tunnel of this guest, and about the interfaces behind it.
pub(super) fn queries(name: String) -> io::Result<KernelQueries<Vec<(u32, LinkAnswer)>>> {
    let (mut querier, mut log) = (None, LogLimit::default());
    KernelQueries::start(move |ifindexes| {
        let (answer, failed) = ask(&mut querier, LinkQuerier::new, |all| all.links(ifindexes));
        if answer.is_none()
            && let Some(more) = log.admit(std::time::Instant::now())
        {
            let why = failed.map(|error| format!(": {}", chain(&error))).unwrap_or_default();
            log::warn!(
                "{name}: kernel lane: the kernel does not answer questions about its interfaces{why}; \
                 asking again{more}"
            );
        }
        answer.unwrap_or_else(|| tunnel::unanswered(ifindexes))
    })
}

/// The answer of `querier`, or the reason why there is no querier. A querier without any answer may have
/// lost its connection, so the next question goes to another one.
fn ask<A, E>(
    querier: &mut Option<A>,
    make: impl FnOnce() -> Result<A, E>,
    links: impl FnOnce(&A) -> Vec<(u32, LinkAnswer)>,
) -> (Option<Vec<(u32, LinkAnswer)>>, Option<E>) {
    let present = match querier.take().map_or_else(make, Ok) {
        Ok(present) => present,
        Err(error) => return (None, Some(error)),
    };
    let answer = links(&present);
    if answer.iter().all(|(_, answer)| *answer == LinkAnswer::Unanswered) {
        return (None, None);
    }
    *querier = Some(present);
    (Some(answer), None)
}

impl KernelLane {
    /// Takes the kernel's answer, if there is one. Fails if the tunnel is gone or down.
    pub(super) fn look(&mut self) -> Result<(), TunnelError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(answer) = open.queries.answer() else { return Ok(()) };
        let Some(((_, tunnel), behind)) = answer.split_first() else { return Ok(()) };
        let gone = open.tunnel.check(*tunnel);
        // The question about an idle lane is only about its tunnel.
        let is_asked = !behind.is_empty();
        let dropped = if is_asked { open.drops.look(behind.iter().copied()) } else { 0 };
        open.back_off.on_loss(dropped);
        self.log_loss(dropped);
        gone
    }

    /// The drops behind the lane to report now. On a secondary they are its guest's input, which a slow
    /// guest keeps losing. On a primary they are the secondary's output, for which a client waits.
    pub(super) fn dropped_behind(&mut self) -> u64 {
        let Some(open) = &mut self.open else { return 0 };
        match self.role {
            Role::Primary => open.back_off.take(),
            Role::Secondary => open.back_off.on_tick(),
        }
    }

    /// Asks the kernel about the tunnel and the interfaces behind it, when that is due.
    pub(super) fn ask(&mut self, datapath: &Datapath) {
        let behind = self.behind(datapath);
        let Some(open) = &mut self.open else { return };
        open.ticks += 1;
        if open.ticks < LOOK_TICKS || open.queries.is_asking() {
            return;
        }
        open.ticks = 0;
        // A frame is dropped when it comes or never, so an idle lane need not ask. Frames that come
        // before the answer are a matter of the next question.
        let arrived = open.slots.arrived();
        let has_come = std::mem::replace(&mut open.arrived_at_look, arrived) != arrived;
        let is_idle = !std::mem::take(&mut open.has_written) && !has_come;
        let mut ifindexes = vec![open.tunnel.ifindex()];
        if !is_idle || open.drops.is_owed {
            ifindexes.extend(behind);
        }
        open.queries.ask(ifindexes);
    }

    /// The interfaces into which the programs put the frames that have come through the lane.
    pub(super) fn behind(&self, datapath: &Datapath) -> [u32; 2] {
        let settings = datapath.settings();
        match self.role {
            Role::Primary => settings.return_gate_ifindex,
            Role::Secondary => [settings.netdev_ifindex, settings.input_gate_ifindex],
        }
    }
}

#[cfg(test)]
mod tests;

//! Real guests in QEMU under COLO. Each host has a daemon, and QEMU has no part of a proxy. The
//! demonstration has six steps:
//!
//! 1. one guest, not protected yet, as the reference;
//! 2. a second one joins: the same under protection, with periodic checkpoints;
//! 3. guests that differ, and a checkpoint for each difference;
//! 4. the first host killed in the middle of it all;
//! 5. a new secondary joins there, and then the second host is killed;
//! 6. a summary.

mod pauses;
mod quick_ack;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::connections::{DemoConnections, DemoLoad};
use super::report::DemoReport;
use super::traffic::{self, Amount, ms};
use super::view::View;
use super::{Play, Watched};
use crate::client::{Calls, Conversation, Latency};
use crate::counters::{self, checksum_errors};
use crate::daemon::DaemonStatus;
use crate::network::{Family, HostSide};
use crate::qemu::emulator::Emulator;
use crate::qemu::protected::{Protected, colo_frame};
use crate::qemu::{Image, QemuGuest};
use pauses::Pauses;

const TIMEOUT: Duration = Duration::from_secs(30);
/// An automatic takeover needs a fence. These guests must be equal before anybody asks for it.
const CONFIG: &str = "[guest.checkpoints]\ninterval_max_ms = 500\nspacing_max_ms = 100\n\
                      [guest.takeover]\nfence = \"FENCE\"\n";
/// The times are long, because emulated processors are slow.
const AMOUNT: Amount = Amount { requests: 500, bulk_len: 32 << 20, datagrams: 500, calls: 20 };
const LOAD: DemoLoad =
    DemoLoad { by_client: 5, by_guest: 5, pause: Duration::from_millis(20), answers: 30 };
/// Answers in which the guests differ, on each of four connections.
const DIFFERENCES: usize = 5;
const ASK_LEN: u64 = 1000;

/// The lab and what runs in it.
pub(super) struct Stage {
    pair: Protected,
    watched: Watched,
}

impl Stage {
    pub(super) fn build(view: &View, cache: &Path) -> Result<Self> {
        let emulator = Emulator::with_colo(cache)?;
        view.say(&format!("   QEMU {}, which emulates both processors", emulator.release()?));
        let mut pair = Protected::new(emulator, Image::build(cache)?, true)?;
        CONFIG.clone_into(&mut pair.more);
        for side in HostSide::BOTH {
            pair.write_fence(side, "")?;
        }
        pair.start_primary(HostSide::Primary)?;
        view.say("   client, switch, hosta and hostb are up; a guest has booted on hosta");
        let stage = Self { pair, watched: Watched::default() };
        stage.watch();
        Ok(stage)
    }

    /// The live view shows the daemons that run now.
    fn watch(&self) {
        let names = [(HostSide::Primary, "hosta"), (HostSide::Secondary, "hostb")];
        let running = names
            .into_iter()
            .filter_map(|(side, name)| Some((name, self.pair.half(side).ok()?.daemon.asker())));
        self.watched.set(running.collect());
    }

    fn guest(&self, side: HostSide) -> Result<&QemuGuest> {
        Ok(&self.pair.half(side)?.guest)
    }

    fn alone(&self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(1, "One guest, not protected yet: the reference");
        for (what, found) in traffic::run(&self.pair.lab, AMOUNT)?.rows() {
            view.say(&report.note(&format!("alone: {what}"), found));
        }
        Ok(())
    }

    /// A second guest receives the state of the one that runs on `primary`.
    fn join(&mut self, primary: HostSide, view: &View, report: &mut DemoReport) -> Result<()> {
        let secondary = primary.other();
        self.pair.start_secondary(secondary)?;
        self.watch();
        view.say(&format!("   QEMU on host{} waits for a state", secondary.letter()));
        let qmp = self.guest(primary)?.qmp()?;
        let (place, start) = (qmp.place(), Instant::now());
        self.pair.protect(primary)?;
        let took = ms(start.elapsed());
        let still = ms(Pauses::since(qmp, place).longest());
        let found = format!("{took}, for {still} of which the guest stood still");
        let what = format!("host{}: `colo-proxy protect`", primary.letter());
        view.say(&report.note(&what, found));
        Ok(())
    }

    fn protected(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(2, "A second guest joins: the same traffic under protection, with a checkpoint every 500 ms");
        self.join(HostSide::Primary, view, report)?;
        let daemon = &self.pair.half(HostSide::Primary)?.daemon;
        let before = daemon.status()?;
        let qmp = self.guest(HostSide::Primary)?.qmp()?;
        let place = qmp.place();
        for (what, found) in traffic::run(&self.pair.lab, AMOUNT)?.rows() {
            view.say(&report.note(&format!("protected: {what}"), found));
        }
        view.say(&report.check("every byte that the client got", true, "right".into()));
        let after = daemon.status()?;
        let compared = after.number("compared_frames")? - before.number("compared_frames")?;
        let found = format!("{compared}; {} released", after.number("released_frames")?);
        view.say(&report.check("frames compared", compared > 0, found));
        let asked = asked_since(&before, &after);
        view.say(&report.check("requested checkpoints", asked.is_empty(), format!("{asked:?}")));
        let pauses = Pauses::since(qmp, place);
        let held = pauses.count() > 0;
        view.say(&report.check("periodic checkpoints under load, pause", held, pauses.to_string()));
        self.idle(view, report)
    }

    /// The pause of a guest that has little to copy.
    fn idle(&self, view: &View, report: &mut DemoReport) -> Result<()> {
        let status = self.pair.half(HostSide::Primary)?.daemon.status()?;
        let quick_ack = &colo_frame(&status)["quick_ack"];
        let held = quick_ack["state"] == "on";
        view.say(&report.check("quick acknowledgments between the hosts", held, state(quick_ack)));
        if held {
            for (how, pauses) in ["with", "without"].iter().zip(quick_ack::compare(&self.pair)?) {
                let what = format!("pause of an idle guest {how} them");
                view.say(&report.note(&what, pauses.to_string()));
            }
        }
        Ok(())
    }

    fn differ(&self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(3, "The guests differ: each takes its answers from its own clock");
        let daemon = &self.pair.half(HostSide::Primary)?.daemon;
        let before = daemon.status()?;
        let qmp = self.guest(HostSide::Primary)?.qmp()?;
        let place = qmp.place();
        let answers = self.clocks()?;
        let after = self.pair.wait_nothing_held(HostSide::Primary)?;
        let total = answers.count();
        let [p50, max] = [50.0, 100.0].map(|rank| ms(answers.percentile(rank)));
        let found = format!("{total} of {total}, held until a checkpoint: median {p50}, max {max}");
        view.say(&report.check("answers that only the primary knew", true, found));
        let found = after.number("divergences")? - before.number("divergences")?;
        let asked = asked_since(&before, &after);
        let held = found > 0 && asked.contains_key("payload");
        let found = format!("{found}; requested: {asked:?}");
        view.say(&report.check("divergences found, checkpoints requested", held, found));
        let pauses = Pauses::since(qmp, place);
        view.say(&report.note("their pause", pauses.to_string()));
        let named = after.divergences().pop().context("the status names no divergence")?;
        view.say(&report.note("the last one", named.to_string()));
        Ok(())
    }

    /// The connections must continue with right bytes after each of these answers.
    fn clocks(&self) -> Result<Latency> {
        let client = &self.pair.lab.client;
        let mut answers = Latency::default();
        for family in Family::BOTH {
            let calls = Calls::new(client, family)?;
            for mut conversation in [Conversation::open(client, family)?, calls.call()?] {
                for _ in 0..DIFFERENCES {
                    conversation.ask(ASK_LEN)?;
                    answers.add(conversation.clock(ASK_LEN)?.took);
                }
                conversation.ask(ASK_LEN)?;
                conversation.close()?;
            }
        }
        Ok(answers)
    }

    fn first_failover(&mut self, view: &View, report: &mut DemoReport) -> Result<DemoConnections> {
        view.step(4, "kill -9 of QEMU and the daemon on hosta, during long-lived connections");
        let connections = DemoConnections::open(&self.pair.lab, LOAD)?;
        view.say(&format!("   {}, all busy", connections.opened()));
        self.fail_over(HostSide::Primary, connections, view, report)
    }

    fn second_failover(
        &mut self,
        connections: DemoConnections,
        view: &View,
        report: &mut DemoReport,
    ) -> Result<()> {
        view.step(
            5,
            "A new secondary joins on hosta, then kill -9 of QEMU and the daemon on hostb",
        );
        self.pair.become_primary(HostSide::Secondary)?;
        connections.take_gaps();
        self.join(HostSide::Secondary, view, report)?;
        let connections = alive(connections, "the new secondary joined")?;
        let gaps = connections.take_gaps();
        view.say(&report.note("gap in the answers meanwhile", gaps.to_string()));
        let connections = self.fail_over(HostSide::Secondary, connections, view, report)?;
        let (held, found) = connections.close()?;
        view.say(&report.check("the same connections in the end", held, found));
        self.afterwards(view, report)
    }

    /// The host of `dies` is gone, and nobody reports that to the other host.
    fn fail_over(
        &mut self,
        dies: HostSide,
        connections: DemoConnections,
        view: &View,
        report: &mut DemoReport,
    ) -> Result<DemoConnections> {
        let survives = dies.other();
        let host = format!("host{}", dies.letter());
        self.pair.write_fence(survives, "")?;
        connections.take_gaps();
        let start = Instant::now();
        self.pair.kill(dies)?;
        self.pair.wait_failed_over(survives, TIMEOUT)?;
        let took = start.elapsed();
        self.watch();
        let what = format!("{host} killed: failed over by itself");
        view.say(&report.note(&what, format!("after {}, fence included", ms(took))));
        let connections = alive(connections, &format!("{host} was killed"))?;
        let found = format!("{0} of {0}, every byte right", connections.count());
        view.say(&report.check(&format!("{host} killed: connections that continued"), true, found));
        let gaps = connections.take_gaps();
        view.say(&report.note(&format!("{host} killed: gap in the answers"), gaps.to_string()));
        Ok(connections)
    }

    fn afterwards(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        traffic::once(&self.pair.lab)?;
        view.say(&report.check("new connections and datagrams afterwards", true, "served".into()));
        let mut errors = checksum_errors(&counters::read(&self.pair.lab.client)?);
        errors.extend(checksum_errors(&self.pair.half_mut(HostSide::Primary)?.guest.counters()?));
        let held = errors.is_empty();
        let found = if held { "none".into() } else { format!("{errors:?}") };
        view.say(&report.check("checksum errors at any stack", held, found));
        Ok(())
    }
}

fn state(quick_ack: &Value) -> String {
    let part = |name: &str| quick_ack[name].as_str();
    format!("{} {}", part("state").unwrap_or("unknown"), part("why").unwrap_or_default())
}

/// The checkpoints that the comparison has requested, by reason. A join also requests one.
fn asked_since(before: &DaemonStatus, after: &DaemonStatus) -> BTreeMap<String, u64> {
    let before = before.checkpoints();
    let since = |(reason, count): (String, u64)| {
        let more = count.saturating_sub(before.get(&reason).copied().unwrap_or_default());
        (more > 0).then_some((reason, more))
    };
    after.checkpoints().into_iter().filter_map(since).collect()
}

/// Returns all connections, after further answers. If some have ended, the error says how.
fn alive(connections: DemoConnections, after: &str) -> Result<DemoConnections> {
    if let Err(late) = connections.go_on() {
        let (_, found) = connections.close()?;
        bail!("connections that continued after {after}: {found} ({late:#})");
    }
    Ok(connections)
}

impl Play for Stage {
    const SUMMARY: u32 = 6;

    fn run(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        self.alone(view, report)?;
        self.protected(view, report)?;
        self.differ(view, report)?;
        let connections = self.first_failover(view, report)?;
        self.second_failover(connections, view, report)
    }

    fn watched(&self) -> Watched {
        self.watched.clone()
    }

    fn show_logs(&self, view: &View) {
        view.say(&self.pair.logs());
    }
}

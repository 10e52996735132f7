//! Guests that are namespaces, in five steps.
//!
//! 1. plain traffic, as the reference;
//! 2. the same under protection;
//! 3. a divergence, found and named;
//! 4. the primary host killed in the middle of it all;
//! 5. a summary.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::connections::{DemoConnections, DemoLoad};
use super::report::DemoReport;
use super::traffic::{self, Amount, ms};
use super::view::View;
use super::{Play, Watched};
use crate::client::Conversation;
use crate::counters::{self, checksum_errors};
use crate::daemon::{Daemon, DaemonStatus, PairOptions};
use crate::guest::{GuestOptions, StandInGuest};
use crate::network::{Family, HostSide, Lab, LabOptions};
use crate::protocol::SERVICE_PORT;
use crate::stand_in::packet::TCP;
use crate::stand_in::tap::TapOffloads;

const TIMEOUT: Duration = Duration::from_secs(15);
/// The work that is in progress in step 4.
const LOAD: DemoLoad =
    DemoLoad { by_client: 4, by_guest: 2, pause: Duration::from_millis(2), answers: 300 };
const AMOUNT: Amount = Amount { requests: 5000, bulk_len: 128 << 20, datagrams: 4000, calls: 40 };
const ASK_LEN: u64 = 1500;
const NOT_RUNNING: &str = "the daemon is not running";

/// The lab and what runs in it. Fields are dropped in this order: daemons, guests, network.
pub(super) struct Stage {
    primary: Option<Daemon>,
    secondary: Option<Daemon>,
    primary_guest: Option<StandInGuest>,
    secondary_guest: Option<StandInGuest>,
    lab: Lab,
    watched: Watched,
}

impl Stage {
    pub(super) fn build(view: &View) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let options = GuestOptions::of(HostSide::Primary, TapOffloads::On);
        let primary_guest = StandInGuest::start(&lab, HostSide::Primary, options)?;
        view.say("   client, switch, hosta and hostb are up; a guest runs on hosta's tap0");
        Ok(Self {
            primary: None,
            secondary: None,
            primary_guest: Some(primary_guest),
            secondary_guest: None,
            lab,
            watched: Watched::default(),
        })
    }

    fn plain(&self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(1, "Plain traffic, no protection, no second guest: the reference");
        for (what, found) in traffic::run(&self.lab, AMOUNT)?.rows() {
            view.say(&report.note(&format!("plain: {what}"), found));
        }
        Ok(())
    }

    /// The secondary's daemon starts first, because its guest must not send to the LAN.
    fn protect(&mut self, view: &View) -> Result<()> {
        view.step(2, "The same traffic under protection");
        let options = PairOptions::default();
        let secondary = Daemon::start(&self.lab, HostSide::Secondary, &options)?;
        let guest_options = GuestOptions::of(HostSide::Secondary, TapOffloads::On);
        self.secondary_guest =
            Some(StandInGuest::start(&self.lab, HostSide::Secondary, guest_options)?);
        let primary = Daemon::start(&self.lab, HostSide::Primary, &options)?;
        primary.wait_protected()?;
        self.watched.set(vec![
            ("hosta primary  ", primary.asker()),
            ("hostb secondary", secondary.asker()),
        ]);
        (self.primary, self.secondary) = (Some(primary), Some(secondary));
        view.say("   colo-proxy primary on hosta, colo-proxy secondary on hostb: protected");
        Ok(())
    }

    fn protected(&self, view: &View, report: &mut DemoReport) -> Result<()> {
        let before = self.primary_status()?;
        let measured = traffic::run(&self.lab, AMOUNT)?;
        for (what, found) in measured.rows() {
            view.say(&report.note(&format!("protected: {what}"), found));
        }
        view.say(&report.check("every byte that the client got", true, "right".into()));
        let after = self.primary_status()?;
        let compared = after.number("compared_frames")? - before.number("compared_frames")?;
        let released = after.number("released_frames")?;
        let found =
            format!("{compared}; {released} released, {} held", after.number("held_frames")?);
        view.say(&report.check("frames compared", compared > 0, found));
        let asked = after.checkpoints();
        view.say(&report.check("requested checkpoints", asked.is_empty(), format!("{asked:?}")));
        Ok(())
    }

    fn diverge(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(3, "The secondary's guest computes one byte differently");
        let before = self.primary_status()?;
        let mut conversation = Conversation::open(&self.lab.client, Family::V4)?;
        conversation.ask(ASK_LEN)?;
        let stand_in = &mut self.secondary_guest.as_mut().context("no secondary guest")?.stand_in;
        stand_in.flip(TCP, SERVICE_PORT, 100)?;
        conversation.ask(ASK_LEN)?;
        let flipped = stand_in.flipped(TIMEOUT)?;
        view.say(&format!(
            "   the secondary sent {:#04x} instead of {:#04x} in a segment to port {}",
            flipped.is, flipped.was, flipped.peer_port
        ));
        for _ in 0..LOAD.answers {
            conversation.ask(ASK_LEN)?;
        }
        conversation.close()?;
        view.say(&report.check("the client got the primary's bytes", true, "yes".into()));
        let primary = self.primary()?;
        let divergences = before.number("divergences")?;
        let after = primary.wait_status("a divergence", TIMEOUT, |status| {
            status.number("divergences").is_ok_and(|n| n > divergences)
                && !status.checkpoints().is_empty()
        })?;
        let asked = after.checkpoints();
        let held = asked.contains_key("payload");
        view.say(&report.check(
            "divergence found, checkpoint requested",
            held,
            format!("{asked:?}"),
        ));
        let expected = (flipped.peer_port, flipped.was, flipped.is);
        let named = after
            .divergences()
            .into_iter()
            .find(|found| (found.peer_port, found.primary_byte, found.secondary_byte) == expected);
        let held = named.is_some();
        let found = named.map_or_else(|| "no".into(), |named| named.to_string());
        view.say(&report.check("divergence named", held, found));
        Ok(())
    }

    fn kill_primary(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        view.step(4, "kill -9 of the primary host, during long-lived connections");
        let connections = DemoConnections::open(&self.lab, LOAD)?;
        view.say(&format!("   {}, all busy", connections.opened()));
        connections.take_gaps();
        let took = self.fail_over()?;
        view.say(&format!("   primary killed; `colo-proxy failover` done after {}", ms(took)));
        let went_on = connections.go_on();
        let gaps = connections.take_gaps();
        let (held, found) = connections.close()?;
        let held = held && went_on.is_ok();
        view.say(&report.check("connections that continued", held, found));
        let found = format!("{gaps}; failover itself {}", ms(took));
        view.say(&report.note("gap in the answers", found));
        self.afterwards(view, report)
    }

    /// The host dies. The demo plays the cluster manager and asks the other host to take over.
    fn fail_over(&mut self) -> Result<Duration> {
        let mut primary = self.primary.take().context(NOT_RUNNING)?;
        self.watched.lock().remove(0);
        let mut guest = self.primary_guest.take().context("no primary guest")?;
        let secondary = self.secondary.as_ref().context(NOT_RUNNING)?;
        let start = Instant::now();
        primary.process.signal(Signal::SIGKILL)?;
        guest.kill()?;
        secondary.failover_forced()?;
        Ok(start.elapsed())
    }

    fn afterwards(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        traffic::once(&self.lab)?;
        view.say(&report.check("new connections and datagrams afterwards", true, "served".into()));
        let guest = self.secondary_guest.as_mut().context("no secondary guest")?;
        let mut errors = checksum_errors(&counters::read(&self.lab.client)?);
        errors.extend(checksum_errors(&guest.counters()?));
        let counts = guest.stand_in.counts()?;
        let bad = counts.to_guest.bad_sums + counts.from_guest.bad_sums;
        let held = errors.is_empty() && bad == 0;
        let found = if held { "none".into() } else { format!("{errors:?}, {:?}", counts.bad) };
        view.say(&report.check("checksum errors at any stack", held, found));
        Ok(())
    }

    fn primary_status(&self) -> Result<DaemonStatus> {
        self.primary()?.status()
    }

    fn primary(&self) -> Result<&Daemon> {
        self.primary.as_ref().context(NOT_RUNNING)
    }
}

impl Play for Stage {
    const SUMMARY: u32 = 5;

    fn run(&mut self, view: &View, report: &mut DemoReport) -> Result<()> {
        self.plain(view, report)?;
        self.protect(view)?;
        self.protected(view, report)?;
        self.diverge(view, report)?;
        self.kill_primary(view, report)
    }

    fn watched(&self) -> Watched {
        self.watched.clone()
    }

    fn show_logs(&self, view: &View) {
        for daemon in [&self.primary, &self.secondary].into_iter().flatten() {
            view.say(&format!("--- log of {}", daemon.process.name()));
            view.say(&daemon.process.stderr());
        }
    }
}

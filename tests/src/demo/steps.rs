//! The steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::report::Report;
use super::traffic::{self, ms};
use super::view::View;
use crate::client::{Calls, Conversation, Keeper, echo, wait_for_all};
use crate::counters::{self, checksum_errors};
use crate::daemon::{Asker, Daemon, PairOptions, Status};
use crate::guest::{Guest, GuestOptions};
use crate::network::{Family, Lab, LabOptions, Side};
use crate::protocol::SERVICE_PORT;
use crate::stand_in::packet::TCP;
use crate::stand_in::tap::Offloads;

const TIMEOUT: Duration = Duration::from_secs(15);
/// Long-lived connections in step 4, of each IP version.
const BY_CLIENT: usize = 4;
const BY_GUEST: usize = 2;
const ASK_LEN: u64 = 1500;
const PAUSE: Duration = Duration::from_millis(2);
/// Answers that each must have had before the host dies, and after it.
const ANSWERS: u64 = 300;
const NOT_RUNNING: &str = "the daemon is not running";

/// The lab and what runs in it. Fields are dropped in this order: daemons, guests, network.
pub(super) struct Stage {
    primary: Option<Daemon>,
    secondary: Option<Daemon>,
    primary_guest: Option<Guest>,
    secondary_guest: Option<Guest>,
    lab: Lab,
    watched: Watched,
}

/// The daemons that the live view asks.
pub(super) type Watched = Arc<Mutex<Vec<(&'static str, Asker)>>>;

impl Stage {
    pub(super) fn build(view: &View) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let options = GuestOptions::of(Side::Primary, Offloads::On);
        let primary_guest = Guest::start(&lab, Side::Primary, options)?;
        view.say("   client, switch, hosta and hostb are up; a guest runs on hosta's tap0");
        Ok(Self {
            primary: None,
            secondary: None,
            primary_guest: Some(primary_guest),
            secondary_guest: None,
            lab,
            watched: Arc::default(),
        })
    }

    pub(super) fn watched(&self) -> Watched {
        Arc::clone(&self.watched)
    }

    pub(super) fn run(&mut self, view: &View, report: &mut Report) -> Result<()> {
        self.plain(view, report)?;
        self.protect(view)?;
        self.protected(view, report)?;
        self.diverge(view, report)?;
        self.kill_primary(view, report)
    }

    fn plain(&self, view: &View, report: &mut Report) -> Result<()> {
        view.step(1, "Plain traffic, no protection, no second guest: the reference");
        for (what, found) in traffic::run(&self.lab)?.rows() {
            view.say(&report.note(&format!("plain: {what}"), found));
        }
        Ok(())
    }

    /// The secondary's daemon first: its guest must not speak to the LAN.
    fn protect(&mut self, view: &View) -> Result<()> {
        view.step(2, "The same under protection");
        let options = PairOptions::default();
        let secondary = Daemon::start(&self.lab, Side::Secondary, &options)?;
        let guest_options = GuestOptions::of(Side::Secondary, Offloads::On);
        self.secondary_guest = Some(Guest::start(&self.lab, Side::Secondary, guest_options)?);
        let primary = Daemon::start(&self.lab, Side::Primary, &options)?;
        primary.wait_protected()?;
        *self.lock() =
            vec![("hosta primary  ", primary.asker()), ("hostb secondary", secondary.asker())];
        (self.primary, self.secondary) = (Some(primary), Some(secondary));
        view.say("   colo-proxy primary on hosta, colo-proxy secondary on hostb: protected");
        Ok(())
    }

    fn protected(&self, view: &View, report: &mut Report) -> Result<()> {
        let before = self.primary_status()?;
        let measured = traffic::run(&self.lab)?;
        for (what, found) in measured.rows() {
            view.say(&report.note(&format!("protected: {what}"), found));
        }
        view.say(&report.check("every octet that the client got", true, "right".into()));
        let after = self.primary_status()?;
        let compared = after.number("compared_frames")? - before.number("compared_frames")?;
        let released = after.number("released_frames")?;
        let found =
            format!("{compared}; {released} released, {} held", after.number("held_frames")?);
        view.say(&report.check("frames compared", compared > 0, found));
        let asked = after.checkpoints();
        view.say(&report.check("checkpoints asked for", asked.is_empty(), format!("{asked:?}")));
        Ok(())
    }

    fn diverge(&mut self, view: &View, report: &mut Report) -> Result<()> {
        view.step(3, "The secondary's guest computes something else, in one octet");
        let before = self.primary_status()?;
        let mut conversation = Conversation::open(&self.lab.client, Family::V4)?;
        conversation.ask(ASK_LEN)?;
        let stand_in = &mut self.secondary_guest.as_mut().context("no secondary guest")?.stand_in;
        stand_in.flip(TCP, SERVICE_PORT, 100)?;
        conversation.ask(ASK_LEN)?;
        let flipped = stand_in.flipped(TIMEOUT)?;
        view.say(&format!(
            "   the secondary said {:#04x} instead of {:#04x} in a segment to port {}",
            flipped.is, flipped.was, flipped.peer_port
        ));
        for _ in 0..ANSWERS {
            conversation.ask(ASK_LEN)?;
        }
        conversation.close()?;
        view.say(&report.check("the client got the primary's octets", true, "yes".into()));
        let primary = self.primary()?;
        let divergences = before.number("divergences")?;
        let after = primary.wait_status("a divergence", TIMEOUT, |status| {
            status.number("divergences").is_ok_and(|n| n > divergences)
                && !status.checkpoints().is_empty()
        })?;
        let asked = after.checkpoints();
        let held = asked.contains_key("payload");
        view.say(&report.check(
            "divergence found, checkpoint asked for",
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

    fn kill_primary(&mut self, view: &View, report: &mut Report) -> Result<()> {
        view.step(4, "kill -9 of the primary host, in the middle of long-lived connections");
        let keepers = self.keepers()?;
        wait_for_all(&keepers, ANSWERS, TIMEOUT)?;
        let opened = format!("{} by the client, {} by the guest", 2 * BY_CLIENT, 2 * BY_GUEST);
        view.say(&format!("   {opened}, all busy"));
        let took = self.fail_over()?;
        view.say(&format!("   primary killed; `colo-proxy failover` done after {}", ms(took)));
        let survived = wait_for_all(&keepers, ANSWERS, TIMEOUT);
        let mut gaps = Vec::new();
        let mut errors = Vec::new();
        let total = keepers.len();
        for keeper in keepers {
            let kept = keeper.stop()?;
            match kept.error {
                Some(error) => errors.push(format!("{}: {error:#}", kept.name)),
                None => gaps.push(kept.longest_gap),
            }
        }
        let held = survived.is_ok() && errors.is_empty();
        let found = match errors.first() {
            Some(first) => format!("{} of {total}: {first}", gaps.len()),
            None => format!("{} of {total}, every octet right", gaps.len()),
        };
        view.say(&report.check("connections that went on", held, found));
        gaps.sort_unstable();
        let gap = |gap: Option<&Duration>| gap.map_or_else(|| "none".into(), |gap| ms(*gap));
        let found = format!(
            "shortest {}, longest {}; failover itself {}",
            gap(gaps.first()),
            gap(gaps.last()),
            ms(took)
        );
        view.say(&report.note("gap in the answers", found));
        self.afterwards(view, report)
    }

    fn keepers(&self) -> Result<Vec<Keeper>> {
        let mut keepers = Vec::new();
        for family in Family::BOTH {
            let calls = Calls::new(&self.lab.client, family)?;
            let by_client = (0..BY_CLIENT).map(|_| Conversation::open(&self.lab.client, family));
            for conversation in by_client.chain((0..BY_GUEST).map(|_| calls.call())) {
                keepers.push(Keeper::start(conversation?, ASK_LEN, PAUSE));
            }
        }
        Ok(keepers)
    }

    /// The host dies, and the cluster manager, which is us, tells the other one.
    fn fail_over(&mut self) -> Result<Duration> {
        let mut primary = self.primary.take().context(NOT_RUNNING)?;
        self.lock().remove(0);
        let mut guest = self.primary_guest.take().context("no primary guest")?;
        let secondary = self.secondary.as_ref().context(NOT_RUNNING)?;
        let start = Instant::now();
        primary.process.signal(Signal::SIGKILL)?;
        guest.kill()?;
        secondary.failover()?;
        Ok(start.elapsed())
    }

    fn afterwards(&mut self, view: &View, report: &mut Report) -> Result<()> {
        for family in Family::BOTH {
            let mut conversation = Conversation::open(&self.lab.client, family)?;
            conversation.ask(ASK_LEN)?;
            conversation.close()?;
            echo(&self.lab.client, family, 20, 100)?;
        }
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

    /// What the daemons wrote, where something went wrong.
    pub(super) fn show_logs(&self, view: &View) {
        for daemon in [&self.primary, &self.secondary].into_iter().flatten() {
            view.say(&format!("--- log of {}", daemon.process.name()));
            view.say(&daemon.process.stderr());
        }
    }

    fn primary_status(&self) -> Result<Status> {
        self.primary()?.status()
    }

    fn primary(&self) -> Result<&Daemon> {
        self.primary.as_ref().context(NOT_RUNNING)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(&'static str, Asker)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Many guests on one host, protected by one daemon: the rate of all together, and the share of
//! each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::guest::{MeasuredGuest, Mover};
use super::load::{self, LoadResult};
use super::stack::LANE;
use crate::daemon::{Daemon, DaemonStatus, PairOptions};
use crate::network::{HostSide, Lab, LabOptions, LabSlot};
use crate::phrases;
use crate::process::eventually;

const GUESTS: u8 = 64;
/// The daemon loads and removes the programs for each guest.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
const PROTECTED_TIMEOUT: Duration = Duration::from_mins(1);

/// The pair of hosts with all their guests. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct ManyGuests {
    /// The primary's and the secondary's.
    daemons: Option<[Daemon; 2]>,
    guests: Vec<MeasuredGuest>,
    slots: Vec<LabSlot>,
    lab: Lab,
}

impl ManyGuests {
    /// The primary's guests, without a proxy.
    pub(super) fn build() -> Result<Self> {
        let slots: Vec<LabSlot> = (0..GUESTS).map(LabSlot).collect();
        let lab = Lab::new(LabOptions { slots: GUESTS, ..LabOptions::default() })?;
        let mut many = Self { daemons: None, guests: Vec::new(), slots, lab };
        many.start(HostSide::Primary)?;
        Ok(many)
    }

    /// Starts the secondary's guests, and the daemons.
    pub(super) fn protect(&mut self) -> Result<()> {
        let secondary = self.daemon(HostSide::Secondary)?;
        self.start(HostSide::Secondary)?;
        let primary = self.daemon(HostSide::Primary)?;
        eventually("protected guests", PROTECTED_TIMEOUT, || {
            Ok(are_protected(&primary.statuses()?, self.slots.len()).then_some(()))
        })
        .with_context(|| primary.process.stderr())?;
        self.daemons = Some([primary, secondary]);
        Ok(())
    }

    /// Ends the daemons. They take longer than most children may.
    pub(super) fn finish(mut self) -> Result<()> {
        for daemon in self.daemons.iter_mut().flatten() {
            daemon.process.signal(Signal::SIGTERM)?;
            daemon.process.wait(READY_TIMEOUT)?;
        }
        Ok(())
    }

    fn start(&mut self, side: HostSide) -> Result<()> {
        for slot in &self.slots {
            self.guests.push(MeasuredGuest::start(&self.lab, side, *slot, Mover::StandIn)?);
        }
        Ok(())
    }

    fn daemon(&self, side: HostSide) -> Result<Daemon> {
        let options = PairOptions { lane: LANE, ..PairOptions::default() };
        let guest = |slot: &LabSlot| options.config(side, *slot, "");
        let config: String = self.slots.iter().map(guest).collect();
        Daemon::run_config_within(self.lab.host(side), &config, READY_TIMEOUT)
    }

    /// First many connections to one guest, then one connection to each guest.
    pub(super) fn measure(&self, time: Duration) -> Result<LoadResult> {
        let asked = self.asked()?;
        let client = &self.lab.client;
        let to_one = vec![LabSlot(0); self.slots.len()];
        let one: f64 = load::exchanges_with_all(client, &to_one, time)?.iter().sum();
        let each = load::exchanges_with_all(client, &self.slots, time)?;
        let all: f64 = each.iter().sum();
        let least = each.iter().copied().min_by(f64::total_cmp).unwrap_or_default();
        let most = each.iter().copied().max_by(f64::total_cmp).unwrap_or_default();
        let figures = [
            ("one_rate", one),
            ("rate", all),
            ("share", all / one),
            ("fairness", least / most),
            ("asked", (self.asked()? - asked) as f64),
        ];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(LoadResult { figures, latency: None })
    }

    fn asked(&self) -> Result<u64> {
        let Some([primary, _]) = &self.daemons else { return Ok(0) };
        let all = primary.statuses()?;
        ensure!(are_protected(&all, self.slots.len()), "{}", primary.process.stderr());
        Ok(all.iter().flat_map(|status| status.checkpoints().into_values()).sum())
    }
}

fn are_protected(all: &[DaemonStatus], guests: usize) -> bool {
    let protected = all
        .iter()
        .filter(|status| status.mode().is_ok_and(|mode| mode == phrases::mode::PROTECTED));
    protected.count() == guests
}

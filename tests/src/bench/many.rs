//! Many guests on one host, protected by one daemon: what they reach together, and whether each gets
//! its share.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::guest::{Guest, Mover};
use super::load::{self, Found};
use crate::daemon::{Daemon, PairOptions};
use crate::network::{Lab, LabOptions, Side, Slot};
use crate::process::eventually;

const GUESTS: u8 = 64;
/// The programs are loaded for each guest.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
const PROTECTED_TIMEOUT: Duration = Duration::from_mins(1);

/// The pair of hosts with all their guests. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Many {
    primary: Daemon,
    _secondary: Daemon,
    _guests: Vec<Guest>,
    slots: Vec<Slot>,
    lab: Lab,
}

impl Many {
    pub(super) fn build() -> Result<Self> {
        let slots: Vec<Slot> = (0..GUESTS).map(Slot).collect();
        let lab = Lab::new(LabOptions { slots: GUESTS, ..LabOptions::default() })?;
        let mut guests = Vec::new();
        let mut start = |side| -> Result<()> {
            for slot in &slots {
                guests.push(Guest::start(&lab, side, *slot, Mover::StandIn)?);
            }
            Ok(())
        };
        let config = |side| -> String {
            slots.iter().map(|slot| PairOptions::default().config(side, *slot, "")).collect()
        };
        start(Side::Primary)?;
        let daemon = |side| {
            Daemon::run_config_within(lab.host(side), &config(side), READY_TIMEOUT)
        };
        let secondary = daemon(Side::Secondary)?;
        start(Side::Secondary)?;
        let primary = daemon(Side::Primary)?;
        eventually("protected guests", PROTECTED_TIMEOUT, || {
            let all = primary.statuses()?;
            let protected =
                all.iter().filter(|status| status.mode().is_ok_and(|mode| mode == "protected"));
            Ok((protected.count() == slots.len()).then_some(()))
        })
        .with_context(|| primary.process.stderr())?;
        Ok(Self { primary, _secondary: secondary, _guests: guests, slots, lab })
    }

    /// As many connections to one guest, then one to each.
    pub(super) fn measure(&self, time: Duration) -> Result<Found> {
        let asked = self.asked()?;
        let client = &self.lab.client;
        let to_one = vec![Slot(0); self.slots.len()];
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
        Ok(Found { figures, latency: None })
    }

    fn asked(&self) -> Result<u64> {
        let all = self.primary.statuses()?;
        Ok(all.iter().flat_map(|status| status.checkpoints().into_values()).sum())
    }
}

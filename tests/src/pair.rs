//! A protected pair in a lab: both guests, both daemons, and the checks at the end.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::counters::{self, checksum_errors};
use crate::daemon::{Daemon, PairOptions, output};
use crate::guest::{GuestOptions, StandInGuest};
use crate::network::{HostSide, Lab, LabHost, LabOptions};
use crate::phrases;
use crate::stand_in::tap::TapOffloads;

/// The time in which a primary must give up a secondary that never came.
const LATE: Duration = Duration::from_secs(20);

/// The settings of a pair.
#[derive(Clone, Debug)]
pub struct PairSetup {
    pub lab: LabOptions,
    /// The offloads of the guests.
    pub offloads: TapOffloads,
    pub daemons: PairOptions,
    /// Lines for the `[[guest]]` of each daemon's configuration file. Without them, the daemons get
    /// flags.
    pub config: Option<[String; 2]>,
    /// The primary's daemon starts first, and waits for longer than its timeout.
    pub secondary_late: bool,
}

impl Default for PairSetup {
    fn default() -> Self {
        Self {
            lab: LabOptions::default(),
            offloads: TapOffloads::On,
            daemons: PairOptions::default(),
            config: None,
            secondary_late: false,
        }
    }
}

/// A running pair. Fields are dropped in this order.
#[derive(Debug)]
pub struct LabPair {
    pub primary: Daemon,
    pub secondary: Daemon,
    pub primary_guest: StandInGuest,
    pub secondary_guest: StandInGuest,
    pub lab: Arc<Lab>,
    setup: PairSetup,
}

impl LabPair {
    /// Starts everything and waits until the pair is protected.
    ///
    /// The secondary's daemon starts before its guest, whose first frame must not reach the LAN.
    /// The primary's daemon starts last, because a late secondary costs a checkpoint.
    pub fn start(setup: PairSetup) -> Result<Self> {
        let lab = Arc::new(Lab::new(setup.lab.clone())?);
        let guest = |side| StandInGuest::start(&lab, side, GuestOptions::of(side, setup.offloads));
        let mut primary = None;
        if setup.secondary_late {
            let early = setup.daemon(&lab, HostSide::Primary)?;
            early.wait_status("unprotected", LATE, |s| {
                s.mode().is_ok_and(|m| m == phrases::mode::UNPROTECTED)
            })?;
            primary = Some(early);
        }
        let primary_guest = guest(HostSide::Primary)?;
        let (secondary, secondary_guest) = if setup.lab.persistent_tap {
            (setup.daemon(&lab, HostSide::Secondary)?, guest(HostSide::Secondary)?)
        } else {
            // Without a guest there is no TAP, so its host is off the LAN meanwhile.
            let host = lab.host(HostSide::Secondary);
            host.unplug()?;
            let secondary_guest = guest(HostSide::Secondary)?;
            let secondary = setup.daemon(&lab, HostSide::Secondary)?;
            host.plug()?;
            (secondary, secondary_guest)
        };
        let primary = match primary {
            Some(primary) => primary,
            None => setup.daemon(&lab, HostSide::Primary)?,
        };
        primary.wait_protected()?;
        Ok(Self { primary, secondary, primary_guest, secondary_guest, lab, setup })
    }

    /// Starts the daemon of `side` again. The old one must have ended.
    pub fn restart(&mut self, side: HostSide) -> Result<()> {
        let daemon = self.setup.daemon(&self.lab, side)?;
        match side {
            HostSide::Primary => self.primary = daemon,
            HostSide::Secondary => self.secondary = daemon,
        }
        Ok(())
    }

    /// Does `kill -9` of the primary's daemon and guest, then `failover` on the secondary. Returns
    /// how long the failover took.
    pub fn fail_over(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.primary.process.signal(Signal::SIGKILL)?;
        self.primary_guest.kill()?;
        self.secondary.failover_forced()?;
        let took = start.elapsed();
        self.primary.process.kill()?;
        Ok(took)
    }

    /// The pair is protected and has requested no checkpoint.
    pub fn expect_no_checkpoints(&self) -> Result<()> {
        let status = self.primary.status()?;
        let asked = status.checkpoints();
        ensure!(asked == BTreeMap::new(), "checkpoints {asked:?}: {status:#?}");
        ensure!(status.number("divergences")? == 0, "divergences: {status:#?}");
        ensure!(status.mode()? == phrases::mode::PROTECTED, "not protected: {status:#?}");
        ensure!(status.number("compared_frames")? > 0, "nothing was compared: {status:#?}");
        Ok(())
    }

    /// No living network stack and no stand-in has seen a wrong checksum.
    pub fn expect_right_sums(&mut self) -> Result<()> {
        let client = checksum_errors(&counters::read(&self.lab.client)?);
        ensure!(client.is_empty(), "the client saw {client:?}");
        for guest in [&mut self.primary_guest, &mut self.secondary_guest] {
            if guest.stand_in.process.exited().is_some() {
                continue;
            }
            let side = guest.side;
            let errors = checksum_errors(&guest.counters()?);
            ensure!(errors.is_empty(), "{side:?} guest saw {errors:?}");
            let counts = guest.stand_in.counts()?;
            let bad = counts.to_guest.bad_sums + counts.from_guest.bad_sums;
            ensure!(bad == 0, "{side:?} stand-in saw {counts:#?}");
        }
        Ok(())
    }

    /// Ends the living daemons, and checks that they leave nothing on the hosts.
    pub fn finish(mut self) -> Result<()> {
        self.expect_right_sums()?;
        for daemon in [&mut self.primary, &mut self.secondary] {
            if daemon.process.exited().is_some() {
                continue;
            }
            // After a takeover, the translated connections depend on the programs, which stay.
            let stays = daemon.status()?.mode()? == phrases::mode::SERVING;
            let status = daemon.process.terminate()?;
            let (name, log) = (daemon.process.name(), daemon.process.stderr());
            ensure!(status.success(), "{name}: {status}; its log:\n{log}");
            let side = if name.ends_with('a') { HostSide::Primary } else { HostSide::Secondary };
            let left = left_on(self.lab.host(side))?;
            ensure!(left.is_empty() || stays, "{name} left {left:?}; its log:\n{log}");
        }
        Ok(())
    }
}

impl PairSetup {
    fn daemon(&self, lab: &Lab, side: HostSide) -> Result<Daemon> {
        match &self.config {
            None => Daemon::start(lab, side, &self.daemons),
            Some(more) => {
                let [primary, secondary] = more;
                let more = if side == HostSide::Primary { primary } else { secondary };
                let config = self.daemons.config(side, crate::network::LabSlot(0), more);
                Daemon::run_config(lab.host(side), &config)
            }
        }
    }
}

/// Links, pins and sockets on a host that do not belong to the lab.
pub fn left_on(host: &LabHost) -> Result<Vec<String>> {
    let mut left: Vec<String> = links(host)?
        .into_iter()
        .filter(|name| !matches!(name.as_str(), "lo" | "br0" | "up0" | "repl0"))
        .filter(|name| !name.starts_with("tap"))
        .collect();
    let mut find = Command::new("find");
    find.args(["/sys/fs/bpf/colo-proxy", "/run/colo-proxy", "-mindepth", "1"]);
    // A missing folder counts as an empty one.
    left.extend(output(host, find)?.stdout.lines().map(str::to_owned));
    Ok(left)
}

/// The names of a host's links.
pub fn links(host: &LabHost) -> Result<Vec<String>> {
    let text = host.namespace.output("ip", &["-json", "link"])?;
    let links: Vec<serde_json::Value> =
        serde_json::from_str(&text).with_context(|| format!("reading `{text}`"))?;
    let name = |link: &serde_json::Value| Some(link.get("ifname")?.as_str()?.to_owned());
    Ok(links.iter().filter_map(name).collect())
}

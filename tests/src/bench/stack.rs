//! One of the chains that are compared: a lab of its own with its guests and their protection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::frame::CountingFrame;
use super::guest::{MeasuredGuest, Mover};
use super::load::{self, LoadResult};
use super::machine::{self, Meter};
use super::results::{BenchChain, Figures};
use crate::daemon::{Daemon, PairOptions};
use crate::network::{HostSide, Lab, LabOptions, LabSlot};
use crate::phrases;
use crate::process::eventually;
use crate::qemu::filters::Filters;

/// How long the client's link must be quiet before the next measurement begins.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_TIMEOUT: Duration = Duration::from_secs(20);

/// How frames travel between the hosts of a pair of ours. The link has no other traffic here.
pub(super) const LANE: &str = "kernel";

/// The link between the hosts, on both hosts.
const LINK: &str = "repl0";

/// The offloads of the guests' TAPs, and the link between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BenchWire {
    /// Frames as on a wire. QEMU's hub moves them.
    Frames,
    /// Segmentation offload up to the client. The lab's pump moves the frames, because a hub has no
    /// offloads.
    Offloads,
    /// As [`BenchWire::Frames`], but the link between the hosts is slower than a guest.
    SlowLink,
}

/// The limit of a host's output to the other host on a slow link.
const SLOW_LINK: &str = "tbf rate 100mbit burst 64kb latency 50ms";

/// Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) chain: BenchChain,
    protection: StackProtection,
    pub(super) primary: MeasuredGuest,
    _secondary: Option<MeasuredGuest>,
    pub(super) lab: Lab,
}

#[derive(Debug)]
enum StackProtection {
    None,
    Qemu(CountingFrame),
    Ours { primary: Daemon, secondary: Daemon },
}

/// The settings of a pair of ours.
struct Setup {
    chain: BenchChain,
    lane: &'static str,
    /// Lines for the secondary's configuration.
    more: &'static str,
}

/// The requests of a pair so far.
#[derive(Clone, Debug, Default)]
struct PairRequests {
    checkpoints: u64,
    made: u64,
    divergences: u64,
    drops: u64,
    /// The reasons of checkpoints and drops.
    reasons: BTreeMap<String, u64>,
}

impl Stack {
    pub(super) fn build(chain: BenchChain, wire: BenchWire) -> Result<Self> {
        let (vnet_hdr, real_wire) = match wire {
            BenchWire::Frames | BenchWire::SlowLink => (false, true),
            BenchWire::Offloads => (true, false),
        };
        let lab = Lab::new(LabOptions { vnet_hdr, real_wire, ..LabOptions::default() })?;
        if wire == BenchWire::SlowLink {
            for side in [HostSide::Primary, HostSide::Secondary] {
                let command = format!("tc qdisc add dev {LINK} root {SLOW_LINK}");
                let words: Vec<&str> = command.split(' ').collect();
                lab.host(side).namespace.output(words[0], &words[1..])?;
            }
        }
        match chain {
            BenchChain::None => alone(lab, wire),
            BenchChain::Qemu => qemu(lab, wire),
            BenchChain::Ours => ours(lab, wire, Setup { chain, lane: LANE, more: "" }),
            BenchChain::Streams => ours(lab, wire, Setup { chain, lane: "stream", more: "" }),
            BenchChain::AfXdp => {
                let more = "capture = \"af-xdp\"\n";
                ours(lab, wire, Setup { chain, lane: "stream", more })
            }
            BenchChain::Digests => {
                let more = "return = \"digest\"\n";
                ours(lab, wire, Setup { chain, lane: "stream", more })
            }
        }
        .with_context(|| format!("building the lab of {}", chain.name()))
    }

    /// Puts a load on the chain. Adds the load's cost and the requests to the figures.
    pub(super) fn measure(
        &self,
        load: impl FnOnce(&Self) -> Result<LoadResult>,
    ) -> Result<LoadResult> {
        self.settle()?;
        let asked = self.asked()?;
        let returned = self.returned()?;
        let meter = Meter::read(&self.lab.client)?;
        let mut found = load(self).with_context(|| format!("measuring {}", self.chain.name()))?;
        let cost = Meter::read(&self.lab.client)?.seconds_per_million(meter);
        found.figures.insert("cpu_s_per_mpacket".to_owned(), cost);
        found.figures.extend(self.asked()?.since(&asked));
        if let Some(octets) = found.figures.get(load::OCTETS).filter(|octets| **octets > 0.0) {
            let returned = (self.returned()? - returned) as f64;
            found.figures.insert("returned".to_owned(), returned / octets);
        }
        Ok(found)
    }

    /// The bytes that the secondary's host has sent to the primary's, with all headers.
    fn returned(&self) -> Result<u64> {
        machine::sent(&self.lab.host(HostSide::Secondary).namespace, LINK)
    }

    /// `kill -9` of the primary's daemon and guest. Returns the process of the secondary's daemon.
    pub(super) fn kill_primary(&mut self) -> Result<u32> {
        let StackProtection::Ours { primary, secondary } = &mut self.protection else {
            bail!("{} has no daemons", self.chain.name());
        };
        primary.process.kill()?;
        self.primary.kill()?;
        Ok(secondary.process.pid())
    }

    /// Waits until no frame is on its way.
    fn settle(&self) -> Result<()> {
        if let StackProtection::Qemu(frame) = &self.protection {
            frame.checkpoint()?;
        }
        let mut last = (machine::packets(&self.lab.client)?, Instant::now());
        eventually("a quiet link", QUIET_TIMEOUT, || {
            let packets = machine::packets(&self.lab.client)?;
            if packets != last.0 {
                last = (packets, Instant::now());
            }
            Ok((last.1.elapsed() > QUIET).then_some(()))
        })
    }

    fn asked(&self) -> Result<PairRequests> {
        match &self.protection {
            StackProtection::None => Ok(PairRequests::default()),
            StackProtection::Qemu(frame) => Ok(PairRequests {
                checkpoints: frame.requests(),
                made: frame.checkpoints(),
                ..PairRequests::default()
            }),
            StackProtection::Ours { primary, .. } => {
                let status = primary.status()?;
                let mode = status.mode()?;
                ensure!(
                    mode == phrases::mode::PROTECTED,
                    "{mode}: {status:#?}\n{}",
                    primary.process.stderr()
                );
                let (checkpoints, drops) = (status.checkpoints(), status.drops());
                let named = |kind, counts: &BTreeMap<String, u64>| {
                    let named = |(name, n): (&String, &u64)| (format!("{kind}_{name}"), *n);
                    counts.iter().map(named).collect::<Vec<_>>()
                };
                Ok(PairRequests {
                    checkpoints: checkpoints.values().sum(),
                    made: status.number("epoch")?,
                    divergences: status.number("divergences")?,
                    drops: drops.values().sum(),
                    reasons: [named("asked", &checkpoints), named("drop", &drops)]
                        .concat()
                        .into_iter()
                        .collect(),
                })
            }
        }
    }
}

impl PairRequests {
    fn since(&self, before: &Self) -> Figures {
        let mut figures: Figures = [
            ("asked", self.checkpoints - before.checkpoints),
            ("checkpoints", self.made - before.made),
            ("divergences", self.divergences - before.divergences),
            ("drops", self.drops - before.drops),
        ]
        .map(|(name, count)| (name.to_owned(), count as f64))
        .into();
        for (reason, count) in &self.reasons {
            let more = count - before.reasons.get(reason).unwrap_or(&0);
            if more > 0 {
                figures.insert(reason.clone(), more as f64);
            }
        }
        figures
    }
}

impl BenchWire {
    fn mover(self) -> Mover {
        match self {
            Self::Frames | Self::SlowLink => Mover::Hub(Vec::new()),
            Self::Offloads => Mover::StandIn,
        }
    }
}

fn alone(lab: Lab, wire: BenchWire) -> Result<Stack> {
    let primary = MeasuredGuest::start(&lab, HostSide::Primary, LabSlot(0), wire.mover())?;
    Ok(Stack {
        chain: BenchChain::None,
        protection: StackProtection::None,
        primary,
        _secondary: None,
        lab,
    })
}

/// As in QEMU's documentation. The secondary's TAP is on no bridge, because nothing else would keep
/// its guest off the LAN.
fn qemu(lab: Lab, wire: BenchWire) -> Result<Stack> {
    ensure!(wire != BenchWire::Offloads, "QEMU's hub has no offloads");
    let filters = Filters { vnet_hdr: false };
    lab.host(HostSide::Secondary).unplug_tap(LabSlot(0))?;
    let folder = tempfile::tempdir().context("making a folder for a socket")?;
    let notify = folder.path().join("notify");
    let mut arguments = filters.primary();
    arguments.extend(filters.compare_notifying(&notify));
    let primary = MeasuredGuest::start(&lab, HostSide::Primary, LabSlot(0), Mover::Hub(arguments))?;
    let frame = CountingFrame::connect(&notify)?;
    let arguments = Mover::Hub(filters.secondary_once());
    let secondary = MeasuredGuest::start(&lab, HostSide::Secondary, LabSlot(0), arguments)?;
    Ok(Stack {
        chain: BenchChain::Qemu,
        protection: StackProtection::Qemu(frame),
        primary,
        _secondary: Some(secondary),
        lab,
    })
}

/// The secondary's daemon starts before its guest, whose first frame must not reach the LAN. The
/// primary's daemon starts last, because a late secondary costs a checkpoint.
fn ours(lab: Lab, wire: BenchWire, Setup { chain, lane, more }: Setup) -> Result<Stack> {
    // AF_XDP loses the state of checksums. Plain frames between the hosts must have complete
    // checksums.
    let vnet_hdr = lab.options.vnet_hdr || chain == BenchChain::AfXdp;
    let options = PairOptions { vnet_hdr, lane, ..PairOptions::default() };
    let guest = MeasuredGuest::start(&lab, HostSide::Primary, LabSlot(0), wire.mover())?;
    let config = options.config(HostSide::Secondary, LabSlot(0), more);
    let secondary = Daemon::run_config(lab.host(HostSide::Secondary), &config)?;
    let secondary_guest =
        MeasuredGuest::start(&lab, HostSide::Secondary, LabSlot(0), wire.mover())?;
    let primary = Daemon::start(&lab, HostSide::Primary, &options)?;
    primary.wait_protected()?;
    for daemon in [&primary, &secondary] {
        daemon.wait_status("the lane in use", QUIET_TIMEOUT, |status| {
            let is_used = status.0.pointer("/detail/lanes/kernel/used") == Some(&true.into());
            is_used == (lane == LANE)
        })?;
    }
    if chain == BenchChain::AfXdp {
        let status = secondary.status()?;
        let capture = status.0.pointer("/detail/capture").and_then(|name| name.as_str());
        ensure!(capture == Some("af-xdp"), "{capture:?}: {}", secondary.process.stderr());
    }
    Ok(Stack {
        chain,
        protection: StackProtection::Ours { primary, secondary },
        primary: guest,
        _secondary: Some(secondary_guest),
        lab,
    })
}

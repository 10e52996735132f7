//! Two real guests on the two TAPs, booted separately. They show what a stand-in cannot.
//!
//! They have a virtio-net card with all its offloads. Their two kernels choose sequence numbers and
//! timestamps independently, and delay acknowledgments at different paces.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use colo_lab::client::{Calls, Conversation, Keeper, echo, ping};
use colo_lab::counters::{self, checksum_errors};
use colo_lab::daemon::{self, Daemon, DaemonStatus, PairOptions};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabOptions};
use colo_lab::phrases;
use colo_lab::qemu::{self, Image, QemuGuest};

const TIMEOUT: Duration = Duration::from_secs(30);
/// One byte, one segment, several segments, several GSO frames.
const REQUEST_LENS: [u64; 4] = [1, 1000, 10_000, 300_000];
const DATAGRAM_LENS: [usize; 3] = [4, 200, 1400];
const BULK_LEN: u64 = 8 << 20;
const DATAGRAMS: u32 = 50;
/// The answers that each long-lived connection has before the host dies, and again after it.
const ANSWERS: u64 = 30;

#[lab_test(root, qemu)]
fn real_guests_are_protected_and_outlive_the_primary_host() -> Result<()> {
    let mut pair = Pair::start(&PairOptions::default())?;
    pair.traffic()?;
    pair.expect_agreement()?;
    pair.expect_translation()?;
    pair.outlive_the_primary()
}

/// The wire between the hosts then carries segments with complete checksums, also for frames that
/// the guests hand over without.
#[lab_test(root, qemu)]
fn real_guests_are_protected_over_a_wire_without_headers() -> Result<()> {
    let mut pair = Pair::start(&PairOptions { vnet_hdr: false, ..PairOptions::default() })?;
    pair.traffic()?;
    pair.expect_agreement()?;
    pair.outlive_the_primary()
}

/// Both hosts with their programs. Fields are dropped in this order.
struct Pair {
    primary: Daemon,
    secondary: Daemon,
    guests: [QemuGuest; 2],
    lab: Lab,
}

impl Pair {
    /// The secondary's daemon starts first, because its guest must not send to the LAN.
    fn start(options: &PairOptions) -> Result<Self> {
        let image = Image::build(&qemu::cache(env!("CARGO_TARGET_TMPDIR"))?)?;
        let lab = Lab::new(LabOptions::default())?;
        let secondary = Daemon::start(&lab, HostSide::Secondary, options)?;
        let mut guests = [
            QemuGuest::boot(&lab, HostSide::Primary, &image)?,
            QemuGuest::boot(&lab, HostSide::Secondary, &image)?,
        ];
        for guest in &mut guests {
            guest.wait_ready()?;
        }
        let primary = Daemon::start(&lab, HostSide::Primary, options)?;
        primary.wait_protected()?;
        Ok(Self { primary, secondary, guests, lab })
    }

    /// All kinds of client traffic, with every byte checked.
    fn traffic(&mut self) -> Result<()> {
        self.every_kind_of_traffic().with_context(|| self.logs())
    }

    fn every_kind_of_traffic(&self) -> Result<()> {
        let client = &self.lab.client;
        for family in Family::BOTH {
            let calls = Calls::new(client, family)?;
            for mut conversation in [Conversation::open(client, family)?, calls.call()?] {
                for len in REQUEST_LENS {
                    conversation.ask(len)?;
                    conversation.echo(len)?;
                }
                conversation.down(BULK_LEN)?;
                conversation.up(BULK_LEN)?;
                conversation.close()?;
            }
            for len in DATAGRAM_LENS {
                echo(client, family, DATAGRAMS, len)?;
                ping(client, family, DATAGRAMS, len.max(8))?;
            }
        }
        Ok(())
    }

    /// Everything was compared, nothing differed, and no stack saw a wrong checksum.
    fn expect_agreement(&mut self) -> Result<()> {
        let status = self.primary.wait_status("nothing held", TIMEOUT, nothing_held)?;
        ensure!(status.mode()? == phrases::mode::PROTECTED, "{status:#?}");
        ensure!(status.number("compared_frames")? > 0, "{status:#?}");
        let (asked, divergences) = (status.checkpoints(), status.number("divergences")?);
        if !asked.is_empty() || divergences > 0 {
            bail!("false checkpoints: {asked:?}, {divergences} divergences\n{}", self.logs());
        }
        let [primary, secondary] = &mut self.guests;
        expect_right_sums(&[
            ("client", &counters::read(&self.lab.client)?),
            ("primary", &primary.counters()?),
            ("secondary", &secondary.counters()?),
        ])
    }

    /// The guests chose different numbers. Otherwise, the test would prove less.
    fn expect_translation(&self) -> Result<()> {
        let conversation = Conversation::open(&self.lab.client, Family::V4)?;
        let instance = self.secondary.status()?.text("instance")?;
        let flows = format!("/sys/fs/bpf/colo-proxy/{instance}/flows");
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["--json", "map", "dump", "pinned", &flows]);
        let dump = daemon::output(self.lab.host(HostSide::Secondary), bpftool)?;
        ensure!(dump.success, "{}", dump.stderr);
        let all: serde_json::Value = serde_json::from_str(&dump.stdout)?;
        let mut offsets = Vec::new();
        collect(&all, "seq_offset", &mut offsets);
        ensure!(offsets.iter().any(|offset| *offset != 0), "no flow is translated: {all:#}");
        conversation.close()
    }

    /// Connections that either side opened continue with the right bytes on the secondary.
    fn outlive_the_primary(mut self) -> Result<()> {
        let mut keepers = Vec::new();
        for family in Family::BOTH {
            let calls = Calls::new(&self.lab.client, family)?;
            for conversation in [
                Conversation::open(&self.lab.client, family)?,
                Conversation::open(&self.lab.client, family)?,
                calls.call()?,
            ] {
                keepers.push(Keeper::start(conversation, 1500, Duration::from_millis(5)));
            }
        }
        keepers.iter().try_for_each(|keeper| keeper.wait_for_answers(ANSWERS, TIMEOUT))?;
        self.primary.process.kill()?;
        let [primary, secondary] = &mut self.guests;
        primary.kill()?;
        self.secondary.failover_forced()?;
        let went_on = keepers.iter().try_for_each(|k| k.wait_for_answers(ANSWERS, TIMEOUT));
        for keeper in keepers {
            let kept = keeper.stop()?;
            if let Some(error) = kept.error {
                let log = self.secondary.process.stderr();
                return Err(error.context(format!("{} did not go on; {log}", kept.name)));
            }
            println!("{}: longest gap {:?}", kept.name, kept.longest_gap);
        }
        went_on?;
        for family in Family::BOTH {
            let mut conversation = Conversation::open(&self.lab.client, family)?;
            conversation.ask(10_000)?;
            conversation.close()?;
        }
        expect_right_sums(&[
            ("client", &counters::read(&self.lab.client)?),
            ("secondary", &secondary.counters()?),
        ])
    }

    /// The logs and states to look at after a failure.
    fn logs(&mut self) -> String {
        let mut text = String::new();
        for guest in &mut self.guests {
            let counters = guest.counters().map(|counters| {
                let told = counters.into_iter().filter(|(_, value)| *value > 0);
                told.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
            });
            let _ = writeln!(text, "{}: {counters:?}", guest.process.name());
        }
        for (daemon, side) in
            [(&self.primary, HostSide::Primary), (&self.secondary, HostSide::Secondary)]
        {
            let links = self.lab.host(side).namespace.output("ip", &["-s", "-o", "link"]);
            let status = daemon.status().map(|status| status.0.to_string());
            let log = daemon.process.stderr();
            let name = daemon.process.name();
            let _ = writeln!(text, "{name}:\n{log}\n{status:?}\n{links:?}");
        }
        text
    }
}

fn nothing_held(status: &DaemonStatus) -> bool {
    status.number("held_frames").is_ok_and(|held| held == 0)
}

fn expect_right_sums(stacks: &[(&str, &counters::Counters)]) -> Result<()> {
    for (name, counters) in stacks {
        let segments = counters.get("Tcp.InSegs").copied().unwrap_or_default();
        ensure!(segments > 0, "the {name} has received no segment: {counters:?}");
        let errors = checksum_errors(counters);
        ensure!(errors.is_empty(), "wrong checksums at the {name}: {errors:?}");
    }
    Ok(())
}

/// Every number under the key `name`, at any place.
fn collect(value: &serde_json::Value, name: &str, found: &mut Vec<u64>) {
    match value {
        serde_json::Value::Object(object) => {
            found.extend(object.get(name).and_then(serde_json::Value::as_u64));
            object.values().for_each(|value| collect(value, name, found));
        }
        serde_json::Value::Array(array) => array.iter().for_each(|v| collect(v, name, found)),
        _ => {}
    }
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

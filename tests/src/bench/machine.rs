//! The machine of a measurement: its parts, and how busy it is.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::daemon;
use crate::namespace::Namespace;
use crate::process::eventually;

/// How long the machine is watched at rest.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// The heading of a table of figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MachineInfo {
    pub date: String,
    pub processor: String,
    pub processors: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub qemu: String,
    pub colo_proxy: String,
    /// The revision of the source.
    pub revision: String,
}

impl MachineInfo {
    pub fn look() -> Result<Self> {
        let cpus = read("/proc/cpuinfo")?;
        let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
        let processor = cpus.lines().find(|line| line.starts_with("model name")).and_then(value);
        let memory = read("/proc/meminfo")?;
        let memory_kib: Option<f64> =
            memory.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        let daemon = daemon::binary()?;
        Ok(Self {
            date: said("date", &["-u", "+%Y-%m-%d"])?,
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            processors: cpus.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: memory_kib.context("no memory in /proc/meminfo")? / f64::from(1 << 20),
            kernel: said("uname", &["-srm"])?,
            qemu: said("qemu-system-x86_64", &["--version"])?,
            colo_proxy: said(&daemon.to_string_lossy(), &["--version"])?,
            // If the source is no checkout, its version is used.
            revision: said("git", &["rev-parse", "--short=10", "HEAD"])
                .unwrap_or_else(|_| "unknown".to_owned()),
        })
    }
}

/// The first line that a program prints.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    let text = String::from_utf8_lossy(&done.stdout);
    let line = text.lines().next().filter(|_| done.status.success());
    line.map(str::to_owned).with_context(|| format!("{program} {arguments:?} said nothing"))
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

/// A meter of the whole machine: the processors' time, and the frames at the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    busy_seconds: f64,
    packets: u64,
}

impl Meter {
    pub(super) fn read(client: &Namespace) -> Result<Self> {
        let busy = busy_ticks(&read("/proc/stat")?).context("no `cpu` line in /proc/stat")?;
        let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(Self { busy_seconds: busy as f64 / ticks_a_second as f64, packets: packets(client)? })
    }

    /// The seconds of all processors per million frames, since the meter started.
    pub(super) fn seconds_per_million(self, since: Self) -> f64 {
        let packets = self.packets.saturating_sub(since.packets).max(1);
        (self.busy_seconds - since.busy_seconds) * 1e6 / packets as f64
    }
}

/// The share of one processor that is in use while nothing is measured.
pub(super) fn idle_use(client: &Namespace) -> Result<f64> {
    let (before, began) = (Meter::read(client)?, Instant::now());
    eventually("the end of a pause", IDLE_TIME * 10, || {
        Ok((began.elapsed() >= IDLE_TIME).then_some(()))
    })?;
    let after = Meter::read(client)?;
    Ok((after.busy_seconds - before.busy_seconds) / began.elapsed().as_secs_f64())
}

/// Frames that the client's link has carried, both ways.
pub(super) fn packets(client: &Namespace) -> Result<u64> {
    let [_, received, _, sent] = traffic(client, "eth0")?;
    Ok(received + sent)
}

/// Bytes that a link has sent.
pub(super) fn sent(namespace: &Namespace, link: &str) -> Result<u64> {
    let [_, _, sent, _] = traffic(namespace, link)?;
    Ok(sent)
}

/// Bytes and frames that a link has received, and those that it has sent.
fn traffic(namespace: &Namespace, link: &str) -> Result<[u64; 4]> {
    // `/proc/net` is the namespace of the process, not of the thread.
    let text = namespace.run(|| read("/proc/thread-self/net/dev"))?;
    traffic_of(&text, link).with_context(|| format!("there is no {link}"))
}

/// User, nice, system and interrupts. Idle and waiting do not count. The guests of a hypervisor are
/// already in the user time.
fn busy_ticks(stat: &str) -> Option<u64> {
    let numbers: Vec<u64> = stat
        .lines()
        .find(|line| line.starts_with("cpu "))?
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _wait, hard, soft, ..] = numbers[..] else { return None };
    Some(user + nice + system + hard + soft)
}

/// The line of `/proc/net/dev` about one link.
fn traffic_of(text: &str, link: &str) -> Option<[u64; 4]> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some([*numbers.first()?, *numbers.get(1)?, *numbers.get(8)?, *numbers.get(9)?])
}

#[cfg(test)]
mod tests {
    use super::{busy_ticks, traffic_of};

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  10 1 20 900 70 3 4 5 2 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("intr 5"), None);
    }

    #[test]
    fn a_link_is_found_by_its_name() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 2 0 0 0 0 0 0 1 2 0\n\
                    \x20 eth0: 600 10 0 0 0 0 0 0 700 11 0 0 0 0 0 0\n";
        assert_eq!(traffic_of(text, "eth0"), Some([600, 10, 700, 11]));
        assert_eq!(traffic_of(text, "eth1"), None);
    }
}

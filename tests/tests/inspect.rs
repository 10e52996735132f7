//! An operator looks at a running pair with `bpftool`: maps have named fields, programs have
//! readable names and count their runs, and every pin is where the README says.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use colo_lab::client::Conversation;
use colo_lab::daemon::output;
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide};
use colo_lab::pair::{LabPair, PairSetup, left_on};
use serde_json::Value;

const PINS: &str = "/sys/fs/bpf/colo-proxy/tap0";

/// The output of `bpftool -j ARGUMENTS` on the host of `side`.
fn bpftool(pair: &LabPair, side: HostSide, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new("bpftool");
    command.arg("-j").args(arguments);
    let output = output(pair.lab.host(side), command)?;
    ensure!(output.success, "bpftool {arguments:?}: {}", output.stderr);
    serde_json::from_str(&output.stdout).with_context(|| format!("reading {}", output.stdout))
}

fn dump(pair: &LabPair, side: HostSide, map: &str) -> Result<Value> {
    let path = format!("{PINS}/{map}");
    let dump = bpftool(pair, side, &["map", "dump", "pinned", &path])?;
    // The first entry. With BTF, its fields have names.
    Ok(dump.get(0).context("the map is empty")?["formatted"].clone())
}

#[lab_test(root)]
fn maps_have_named_fields_and_programs_count_their_runs() -> Result<()> {
    let pair = LabPair::start(PairSetup::default())?;
    let _counting = Counting::start()?;
    let mut conversation = Conversation::open(&pair.lab.client, Family::V4)?;
    conversation.ask(1000)?;

    let flow = dump(&pair, HostSide::Secondary, "flows")?;
    assert_eq!(flow["key"]["guest_port"], 7000, "{flow:#}");
    assert_ne!(flow["value"]["seq_offset"], 0, "two guests chose alike: {flow:#}");
    let settings = dump(&pair, HostSide::Primary, "settings")?;
    assert_eq!(settings["value"]["mode"], 1, "{settings:#}");

    let programs: [(HostSide, &[&str]); 2] = [
        (HostSide::Primary, &["colo_mirror", "colo_capture", "colo_release", "colo_gate_guard"]),
        (
            HostSide::Secondary,
            &["colo_to_guest", "colo_from_guest", "colo_input", "colo_gate_guard"],
        ),
    ];
    for (side, names) in programs {
        for name in names {
            let path = format!("{PINS}/prog_{name}");
            let shown = bpftool(&pair, side, &["prog", "show", "pinned", &path])?;
            assert_eq!(shown["name"], *name, "{shown:#}");
            assert!(shown["run_cnt"].as_u64() > Some(0), "{name} has not run: {shown:#}");
            let program = shown["id"].as_u64().context("a program has an id")?;
            let links = links_of(&pair, side, program)?;
            let expected = if *name == "colo_gate_guard" { 2 } else { 1 };
            assert_eq!(links, expected, "links of {name}");
        }
    }
    conversation.close()?;
    for side in [HostSide::Primary, HostSide::Secondary] {
        let pins = left_on(pair.lab.host(side))?;
        assert!(pins.iter().any(|path| path == &format!("{PINS}/flows")), "{pins:?}");
    }
    pair.finish()
}

/// The links to `program` that this host's pins hold.
fn links_of(pair: &LabPair, side: HostSide, program: u64) -> Result<usize> {
    let mut count = 0;
    for path in left_on(pair.lab.host(side))?.iter().filter(|path| path.contains("/link_")) {
        let link = bpftool(pair, side, &["link", "show", "pinned", path])?;
        count += usize::from(link["prog_id"].as_u64() == Some(program));
    }
    Ok(count)
}

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel counts runs of programs while this value lives.
struct Counting(String);

impl Counting {
    fn start() -> Result<Self> {
        let before = std::fs::read_to_string(STATISTICS).context("reading bpf_stats_enabled")?;
        std::fs::write(STATISTICS, "1").context("writing bpf_stats_enabled")?;
        Ok(Self(before))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = std::fs::write(STATISTICS, &self.0);
    }
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

//! The benchmark: one run does the same work without a proxy, through QEMU's own chain and through
//! colo-proxy, in alternation.
//!
//! ```text
//!   client ── lan ──┬── hosta: br0 ─ tap0 ═ QEMU's hub ═ guest: eth0, service
//!                   └── hostb: br0 ─ tap0 ═ QEMU's hub ═ guest: eth0, service
//! ```
//!
//! Each of the three has a lab of its own, and all labs exist all the time. The same program moves
//! the frames of every guest: a QEMU without a machine that joins two TAPs by a hub. In QEMU's
//! chain, the filters and the compare are in that process, as they are beside a real guest.
//! colo-proxy's daemons are processes beside it.

mod compare;
mod failover;
mod frame;
mod guest;
mod histogram;
mod hub;
mod load;
mod machine;
mod many;
mod plot;
mod reason;
mod report;
mod results;
mod row;
pub mod service;
mod stack;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

pub use histogram::Histogram;
pub use results::{BenchChain, Figures, Results};
pub use row::BenchRow;
pub use table::{entries, plain};

/// Writes the figures of a run, and the table and plots from them.
pub use report::write;

use crate::cleanup;
use compare::CompareBench;
use load::LoadResult;
use machine::MachineInfo;
use many::ManyGuests;
use row::Setting;
use stack::{BenchWire, Stack};

/// The rounds of a smoke run, and the seconds of each of its measurements.
const QUICK: (u32, f64) = (1, 0.3);
/// With so many rounds, the medians are good enough for a file.
const ROUNDS_ENOUGH: u32 = 5;

/// What to measure: the options of the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchOptions {
    /// The number of rounds. Each round measures everything once.
    #[arg(long, default_value_t = ROUNDS_ENOUGH)]
    pub rounds: u32,
    /// The seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// One short round, which shows that everything works.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    pub quick: bool,
    /// Measure only this row. The option can be repeated.
    #[arg(long, value_name = "ROW", value_parser = known_row)]
    pub only: Vec<String>,
    /// Write BENCHMARKS.md and docs/bench. A full run of five rounds or more always does so.
    #[arg(long, conflicts_with = "quick")]
    pub write: bool,
    /// Measure nothing. Make BENCHMARKS.md and the plots again from this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rounds", "seconds", "only"])]
    pub from: Option<PathBuf>,
}

fn known_row(id: &str) -> Result<String, String> {
    let known = || BenchRow::ALL.map(BenchRow::id).join(", ");
    BenchRow::of(id)
        .map(|row| row.id().to_owned())
        .ok_or_else(|| format!("the rows are {}", known()))
}

impl BenchOptions {
    /// The smoke run of these rows.
    pub fn quick(rows: &[BenchRow]) -> Self {
        let only = rows.iter().map(|row| row.id().to_owned()).collect();
        Self { rounds: QUICK.0, seconds: QUICK.1, quick: true, only, write: false, from: None }
    }

    /// The words to type after the command.
    pub fn arguments(&self) -> Vec<String> {
        if let Some(file) = &self.from {
            return vec!["--from".to_owned(), file.display().to_string()];
        }
        let mut arguments = Vec::new();
        if self.quick {
            arguments.push("--quick".to_owned());
        } else {
            arguments.extend(["--rounds".to_owned(), self.rounds.to_string()]);
            arguments.extend(["--seconds".to_owned(), self.seconds.to_string()]);
        }
        for row in &self.only {
            arguments.extend(["--only".to_owned(), row.clone()]);
        }
        arguments.extend(self.write.then(|| "--write".to_owned()));
        arguments
    }

    /// Whether the run writes files. A run that only shows that everything works writes none.
    pub fn writes(&self) -> bool {
        self.write || !self.quick && self.only.is_empty() && self.rounds >= ROUNDS_ENOUGH
    }

    fn rows(&self) -> Vec<BenchRow> {
        let wanted =
            |row: &BenchRow| self.only.is_empty() || self.only.iter().any(|o| o == row.id());
        BenchRow::ALL.into_iter().filter(wanted).collect()
    }

    fn extent(&self) -> (u32, f64) {
        if self.quick { QUICK } else { (self.rounds, self.seconds) }
    }
}

/// Measures. It calls `say` with a line for each step.
pub fn measure(options: &BenchOptions, say: &dyn Fn(&str)) -> Result<Results> {
    let (rounds, seconds) = options.extent();
    ensure!(rounds > 0 && seconds > 0.0, "a run needs at least one round and more than 0 seconds");
    cleanup::on_signals()?;
    let mut run = Run {
        quick: options.quick,
        time: Duration::try_from_secs_f64(seconds).context("the number of seconds is too large")?,
        say,
        results: Results {
            machine: MachineInfo::look()?,
            command: ["cargo xtask bench".to_owned()]
                .into_iter()
                .chain(options.arguments())
                .collect::<Vec<_>>()
                .join(" "),
            rounds,
            seconds,
            samples: Vec::new(),
            distributions: Vec::new(),
        },
    };
    let of = |wanted: fn(Setting) -> bool| -> Vec<BenchRow> {
        options.rows().into_iter().filter(|row| wanted(row.setting())).collect()
    };
    run.side_by_side(BenchWire::Frames, &of(|setting| setting == Setting::Frames))?;
    run.side_by_side(BenchWire::Offloads, &of(|setting| setting == Setting::Offloads))?;
    run.side_by_side(BenchWire::SlowLink, &of(|setting| setting == Setting::SlowLink))?;
    run.compares(&of(|setting| matches!(setting, Setting::Compare(_))))?;
    run.failovers(&of(|setting| setting == Setting::Failover))?;
    run.many_guests(&of(|setting| setting == Setting::ManyGuests))?;
    Ok(run.results)
}

/// A run in the making.
struct Run<'a> {
    quick: bool,
    time: Duration,
    say: &'a dyn Fn(&str),
    results: Results,
}

impl Run<'_> {
    /// Measures rows in labs that exist side by side. The first chain changes with every round, so
    /// that no chain always follows the same other one.
    fn side_by_side(&mut self, wire: BenchWire, rows: &[BenchRow]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let stacks: Result<Vec<Stack>> =
            first.chains().iter().map(|chain| Stack::build(*chain, wire)).collect();
        let mut stacks = stacks?;
        // The labs that are not measured take this from the one that is.
        if let Some(stack) = stacks.first().filter(|_| !self.quick) {
            let used = 100.0 * machine::idle_use(&stack.lab.client)?;
            (self.say)(&format!("{} labs at rest use {used:.1} % of a processor", stacks.len()));
            let figures = [(results::AT_REST.to_owned(), used)].into();
            self.results.add(results::AT_REST, BenchChain::None, 0, figures);
        }
        for round in 0..self.results.rounds {
            for row in rows {
                for stack in &stacks {
                    self.one(*row, stack, round)?;
                }
            }
            stacks.rotate_left(1);
        }
        Ok(())
    }

    fn one(&mut self, row: BenchRow, stack: &Stack, round: u32) -> Result<()> {
        let time = self.time;
        let found = stack.measure(|stack| load(row, stack, time)).with_context(|| row.title())?;
        self.add(row, stack.chain, round, found);
        Ok(())
    }

    fn compares(&mut self, rows: &[BenchRow]) -> Result<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let benches: Result<Vec<CompareBench>> =
            first.chains().iter().map(|chain| CompareBench::build(*chain)).collect();
        let mut benches = benches?;
        for round in 0..self.results.rounds {
            for row in rows {
                let Setting::Compare(len) = row.setting() else { continue };
                for bench in &mut benches {
                    let found = bench.pairs(len, self.time).with_context(|| row.title())?;
                    self.add(*row, bench.chain, round, found);
                }
            }
            benches.rotate_left(1);
        }
        Ok(())
    }

    fn failovers(&mut self, rows: &[BenchRow]) -> Result<()> {
        for row in rows {
            for round in 0..self.results.rounds {
                let found = failover::once().with_context(|| row.title())?;
                self.add(*row, BenchChain::Ours, round, found);
            }
        }
        Ok(())
    }

    fn many_guests(&mut self, rows: &[BenchRow]) -> Result<()> {
        let Some(row) = rows.first() else { return Ok(()) };
        let mut many = ManyGuests::build().with_context(|| row.title())?;
        for chain in [BenchChain::None, BenchChain::Ours] {
            if chain == BenchChain::Ours {
                many.protect().with_context(|| row.title())?;
            }
            for round in 0..self.results.rounds {
                let found = many.measure(self.time).with_context(|| row.title())?;
                self.add(*row, chain, round, found);
            }
        }
        many.finish()
    }

    fn add(&mut self, row: BenchRow, chain: BenchChain, round: u32, found: LoadResult) {
        let figures: Vec<String> = found
            .figures
            .iter()
            .map(|(name, value)| format!("{name} {}", table::number(Some(*value))))
            .collect();
        let (id, figures) = (row.id(), figures.join(", "));
        (self.say)(&format!("{} {id} {}: {figures}", round + 1, chain.name()));
        if let Some(latency) = &found.latency {
            self.results.add_latency(id, chain, latency);
        }
        self.results.add(id, chain, round, found.figures);
    }
}

fn load(row: BenchRow, stack: &Stack, time: Duration) -> Result<LoadResult> {
    let client = &stack.lab.client;
    match row {
        BenchRow::TcpRr => load::exchanges(client, time),
        BenchRow::Udp64 => load::datagrams(client, 64, time),
        BenchRow::Udp1400 => load::datagrams(client, 1400, time),
        BenchRow::Up | BenchRow::GsoUp => load::up(client, &stack.primary, time),
        BenchRow::Down | BenchRow::GsoDown | BenchRow::SlowLinkDown => load::down(client, time),
        _ => bail!("this row is not measured in labs side by side"),
    }
}

#[cfg(test)]
mod tests {
    use super::{BenchOptions, BenchRow};
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: BenchOptions,
    }

    fn parse(words: &str) -> Option<BenchOptions> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        Line::try_parse_from(words).ok().map(|line| line.options)
    }

    #[test]
    fn arguments_say_what_was_typed() {
        for words in [
            "--rounds 3 --seconds 1",
            "--quick --only tcp-rr --only failover",
            "--rounds 5 --seconds 0.5 --write",
            "--from docs/bench/results.json",
        ] {
            assert_eq!(parse(words).unwrap().arguments().join(" "), words);
        }
        for nonsense in ["--only nothing", "--quick --rounds 2", "--from x --only tcp-rr"] {
            assert!(parse(nonsense).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn only_a_whole_run_writes_unasked() {
        for (words, writes) in [
            ("", true),
            ("--rounds 4", false),
            ("--only tcp-rr", false),
            ("--only tcp-rr --write", true),
            ("--quick", false),
        ] {
            assert_eq!(parse(words).unwrap().writes(), writes, "{words}");
        }
    }

    #[test]
    fn rows_are_chosen() {
        assert_eq!(parse("").unwrap().rows(), BenchRow::ALL);
        assert_eq!(BenchOptions::quick(&[BenchRow::Udp64]).rows(), [BenchRow::Udp64]);
    }
}

//! Writes what a run has found: BENCHMARKS.md, and the plots.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::plot::{Plot, Series};
use super::reason;
use super::results::{AT_REST, BenchChain, Results};
use super::row::BenchRow;
use super::table::{TableEntry, entries, number};

/// The folder of all files but the table, seen from the root of the source.
const FOLDER: &str = "docs/bench";
const RESULTS: &str = "results.json";
const LATENCY: &str = "latency.svg";
const FLOWS: &str = "flows.svg";
/// The file with the output of the compare engine's benchmark: [`Engine`] objects.
const ENGINE: &str = "engine.json";

/// Labs at rest use less than this of a processor. More comes from another program.
const NOISY_PERCENT: f64 = 20.0;
const NOISY: &str = "\n**Something else was running on this machine. All figures are worse than on a quiet \
    machine. Do not trust the ratios.**\n";

/// The cost of one pair in a compare engine that knows this many flows.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Engine {
    flows: f64,
    ns_per_pair: f64,
}

/// Writes the table and the plots below `root`, and with `raw` also the figures.
pub fn write(results: &Results, root: &Path, raw: bool) -> Result<()> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    if raw {
        results.write(&folder.join(RESULTS))?;
    }
    let put = |name: &str, plot: Option<Plot>| -> Result<bool> {
        let Some(svg) = plot.and_then(|plot| plot.svg()) else { return Ok(false) };
        let path = folder.join(name);
        std::fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        Ok(true)
    };
    let mut plots = Vec::new();
    if put(LATENCY, latency(results))? {
        plots.push((LATENCY, "Distribution of the latency of one exchange"));
    }
    if put(FLOWS, flows(&folder.join(ENGINE))?)? {
        plots.push((FLOWS, "Cost of a pair in the compare engine against the number of flows"));
    }
    let path = root.join("BENCHMARKS.md");
    std::fs::write(&path, markdown(results, &plots))
        .with_context(|| format!("writing {}", path.display()))
}

/// The share of exchanges that take at most a given number of microseconds.
fn latency(results: &Results) -> Option<Plot> {
    let row = BenchRow::TcpRr;
    let series = |chain: BenchChain, color| {
        let found = results.distributions.iter().find(|d| d.row == row.id() && d.chain == chain)?;
        let points = found.histogram.cumulative();
        let points = points.into_iter().map(|(ns, share)| (ns as f64 / 1e3, 100.0 * share));
        Some(Series { name: chain.name().to_owned(), color, points: points.collect() })
    };
    let colors = [
        (BenchChain::None, "#777"),
        (BenchChain::Qemu, "#d55e00"),
        (BenchChain::Ours, "#0072b2"),
        (BenchChain::Streams, "#009e73"),
    ];
    let series: Vec<Series> =
        colors.into_iter().filter_map(|(chain, color)| series(chain, color)).collect();
    (!series.is_empty()).then(|| Plot {
        title: format!("{}: latency", row.title()),
        x_title: "microseconds",
        y_title: "% of exchanges that take no longer",
        y_max: 100.0,
        series,
    })
}

/// The plot of cost against flows, if the engine's benchmark has left its output.
fn flows(engine: &Path) -> Result<Option<Plot>> {
    let text = match std::fs::read_to_string(engine) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", engine.display())),
    };
    let costs: Vec<Engine> =
        serde_json::from_str(&text).with_context(|| format!("reading {}", engine.display()))?;
    let highest = costs.iter().map(|cost| cost.ns_per_pair).max_by(f64::total_cmp);
    let points = costs.iter().map(|cost| (cost.flows, cost.ns_per_pair)).collect();
    Ok(highest.map(|highest| Plot {
        title: "Compare engine: one pair of equal frames".to_owned(),
        x_title: "flows",
        y_title: "ns a pair",
        // A round number, about a fifth above the highest value.
        y_max: (highest * 1.2 / 50.0).ceil() * 50.0,
        series: vec![Series { name: "colo-proxy".to_owned(), color: "#0072b2", points }],
    }))
}

/// The whole file.
fn markdown(results: &Results, plots: &[(&str, &str)]) -> String {
    let mut text = head(results);
    let all = entries(results);
    for row in BenchRow::ALL {
        let of_row: Vec<&TableEntry> = all.iter().filter(|entry| entry.row == row).collect();
        if !of_row.is_empty() {
            text += &section(row, &of_row);
        }
    }
    for (file, title) in plots {
        let _ = writeln!(text, "\n## {title}\n\n![{title}]({FOLDER}/{file})");
    }
    text + FOOT
}

fn head(results: &Results) -> String {
    let rest = results.highest(AT_REST, BenchChain::None, AT_REST);
    let rest = rest.map(|used| {
        let line = format!("| at rest | {used:.0} % of one processor in use |\n");
        if used > NOISY_PERCENT { line + NOISY } else { line }
    });
    let (machine, rounds, seconds) = (&results.machine, results.rounds, results.seconds);
    format!(
        "# Benchmarks\n\n\
         Made by `{}`. Do not edit this file by hand.\n\n\
         The same work runs without a proxy, through QEMU's own chain (mirror, redirectors, rewriter,\n\
         colo-compare), and through colo-proxy. They alternate in one run, and each has a lab of\n\
         namespaces of its own. The figures are medians of {rounds} rounds of {seconds} s unless a line\n\
         says otherwise. `cargo xtask bench --help` lists the rows.\n\n\
         | | |\n|---|---|\n\
         | date | {} |\n\
         | machine | {} processors, {}, {:.0} GiB |\n\
         | kernel | {} |\n\
         | QEMU | {} |\n\
         | colo-proxy | {}, revision {} |\n{}",
        results.command,
        machine.date,
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        machine.qemu,
        machine.colo_proxy,
        machine.revision,
        rest.unwrap_or_default(),
    )
}

fn section(row: BenchRow, entries: &[&TableEntry]) -> String {
    let mut text = format!(
        "\n## {}\n\n`--only {}`\n\n\
         | | no proxy | QEMU | colo-proxy | of QEMU's | of no proxy | target | | streams | AF_XDP |\n\
         |---|---:|---:|---:|---:|---:|---|---|---:|---:|\n",
        row.title(),
        row.id()
    );
    let mut missed = Vec::new();
    for entry in entries {
        let values = entry.values.map(number).join(" | ");
        let ratios = entry.ratios().map(number).join(" | ");
        let others = entry.others.map(number).join(" | ");
        let targets: Vec<String> =
            entry.targets.iter().map(|judged| judged.target.to_string()).collect();
        let verdicts: Vec<String> = entry
            .targets
            .iter()
            .map(|judged| if judged.met { judged.to_string() } else { format!("**{judged}**") })
            .collect();
        let _ = writeln!(
            text,
            "| {} | {values} | {ratios} | {} | {} | {others} |",
            entry.title,
            targets.join("<br>"),
            verdicts.join("<br>")
        );
        let of_entry = entry.targets.iter().filter(|judged| !judged.met);
        missed.extend(of_entry.map(|judged| reason::missed(entry, judged)));
    }
    missed.dedup();
    for reason in missed {
        let _ = writeln!(text, "\nMissed: {reason}");
    }
    let notes = reason::note(row);
    if !notes.is_empty() {
        let _ = writeln!(text, "\n{notes}");
    }
    text
}

const FOOT: &str = "\n## What the columns are\n\n\
    **no proxy**: one guest, unprotected. **QEMU**: filter-mirror, two filter-redirectors and\n\
    colo-compare in the primary's process, two filter-redirectors and filter-rewriter in the\n\
    secondary's, as in QEMU's documentation. `notify_dev` is answered 10 ms after the first request:\n\
    a checkpoint of QEMU's takes at least that long. **colo-proxy**: `primary` and `secondary` with\n\
    `--colo-frame instant` and `--lane kernel`. **streams**: the same with `--lane stream`.\n\
    **AF_XDP**: as streams, with `capture = \"af-xdp\"` on the secondary, and with\n\
    `--vnet-hdr-support` on both hosts, because AF_XDP needs it.\n\n\
    A guest is a network namespace. A QEMU without a machine (`-M none`, a hub) joins its TAP with\n\
    the host's TAP. It is the same program in all columns. A hub has no offloads, so the rows with\n\
    GSO use the lab's own pump, and QEMU's column is empty: not supported. The client, the hosts and\n\
    the guests share the processors, so the second guest takes time from the first.\n\
    The CPU seconds are those of the whole machine, with the client and the guests. The frames are\n\
    those on the client's link, both ways. A gap is the time between two reads of the receiver.\n\n\
    `docs/bench/results.json` has the figures of every round. `cargo xtask bench --from\n\
    docs/bench/results.json` makes this file and the plots from it. `docs/bench/reasons.md` has the\n\
    reasons and notes.\n";

#[cfg(test)]
mod tests {
    use super::{AT_REST, BenchChain, ENGINE, FOLDER, flows, latency, markdown, write};
    use crate::bench::results::Results;
    use crate::bench::results::tests::results;

    #[test]
    fn the_file_names_machine_and_verdicts() {
        let text = markdown(&results(), &[("a.svg", "A plot")]);
        for word in [
            "Made by `cargo xtask bench`",
            "| machine | 2 processors",
            "## TCP request/response, 64 B",
            "| ≥ 2.5 × QEMU | met: 2.60 × |",
            "![A plot](docs/bench/a.svg)",
        ] {
            assert!(text.contains(word), "no `{word}` in\n{text}");
        }
        assert!(!text.contains("64 guests of one daemon"), "{text}");
    }

    #[test]
    fn a_machine_that_was_not_quiet_is_named() {
        let mut results = results();
        for (used, named) in [(4.0, false), (102.5, true)] {
            results.add(AT_REST, BenchChain::None, 0, [(AT_REST.to_owned(), used)].into());
            let text = markdown(&results, &[]);
            assert!(text.contains("| at rest |"), "{text}");
            assert_eq!(text.contains("Do not trust the ratios"), named, "{used}");
        }
    }

    #[test]
    fn a_missed_target_has_its_reason() {
        let mut results = results();
        for sample in &mut results.samples {
            sample.figures.insert("p99_us".into(), 100.0);
        }
        let text = markdown(&results, &[]);
        assert!(text.contains("**missed: 100 %**"), "{text}");
        assert!(text.contains("\nMissed: "), "{text}");
    }

    #[test]
    fn a_file_of_results_makes_the_same_table_again() {
        let root = tempfile::tempdir().unwrap();
        let results = results();
        write(&results, root.path(), true).unwrap();
        let table = std::fs::read_to_string(root.path().join("BENCHMARKS.md")).unwrap();
        let folder = root.path().join(FOLDER);
        let again = Results::read(&folder.join("results.json")).unwrap();
        write(&again, root.path(), false).unwrap();
        assert_eq!(std::fs::read_to_string(root.path().join("BENCHMARKS.md")).unwrap(), table);
        assert!(folder.join("latency.svg").is_file());
        assert!(!folder.join("flows.svg").exists());
    }

    #[test]
    fn the_plot_of_flows_is_there_when_its_data_is() {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join(ENGINE);
        assert!(flows(&engine).unwrap().is_none());
        std::fs::write(
            &engine,
            r#"[{"flows":1,"ns_per_pair":150.5,"octets":64},{"flows":1e5,"ns_per_pair":190}]"#,
        )
        .unwrap();
        let plot = flows(&engine).unwrap().unwrap();
        assert!((plot.y_max - 250.0).abs() < 1e-9, "{plot:?}");
        assert_eq!(plot.series[0].points.len(), 2);
        std::fs::write(&engine, "nonsense").unwrap();
        assert!(flows(&engine).is_err());
    }

    #[test]
    fn every_chain_has_its_line() {
        let plot = latency(&results()).unwrap();
        let names: Vec<&str> = plot.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["no proxy", "QEMU", "colo-proxy"]);
        assert!((plot.series[2].points[0].0 - 39.0).abs() < 0.4, "{plot:?}");
    }
}

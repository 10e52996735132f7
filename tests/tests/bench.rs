//! `cargo xtask bench`: it measures the right things through all three chains. No test asks how
//! fast they are.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use colo_lab::bench::{self, BenchChain, BenchOptions, BenchRow};
use colo_lab::lab_test;

#[lab_test(root)]
fn a_smoke_run_has_its_figures_and_no_checkpoint_of_ours() -> Result<()> {
    let rows = [BenchRow::TcpRr, BenchRow::Udp64, BenchRow::Udp1400];
    let results = bench::measure(&BenchOptions::quick(&rows), &|line| println!("{line}"))?;
    for row in rows {
        for chain in BenchChain::ALL {
            let figure = |name: &str| {
                let found = results.median(row.id(), chain, name);
                found.with_context(|| format!("no {name} of {row:?} and {chain:?}"))
            };
            assert!(figure("rate")? > 0.0, "{row:?} {chain:?}");
            assert!(figure("cpu_s_per_mpacket")? > 0.0, "{row:?} {chain:?}");
            if chain.is_ours() {
                for none in ["asked", "divergences"] {
                    assert!(figure(none)? < 0.5, "{row:?}: {results:#?}");
                }
                if row != BenchRow::TcpRr {
                    assert!(figure("reordered")? < 0.5, "{row:?}: {results:#?}");
                }
            }
        }
    }
    assert_eq!(results.distributions.len(), BenchChain::ALL.len());
    let table = bench::plain(&bench::entries(&results));
    assert!(rows.iter().all(|row| table.contains(row.title())), "{table}");
    Ok(())
}

/// The requests of QEMU's colo-compare in the test above are counted. This is the twin of our
/// chains, which make no request. Two guests that answer datagrams at their own pace are different
/// for QEMU's compare.
#[lab_test(root)]
fn the_requests_of_qemus_compare_are_counted() -> Result<()> {
    let results =
        bench::measure(&BenchOptions::quick(&[BenchRow::Udp64]), &|line| println!("{line}"))?;
    let asked = results.median(BenchRow::Udp64.id(), BenchChain::Qemu, "asked");
    assert!(asked.is_some_and(|asked| asked > 0.0), "{results:#?}");
    Ok(())
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

//! What an operator sees: refusals that tell what to do, and `colo-proxy status`.

use anyhow::Result;
use colo_lab::daemon::{binary, output_of};
use colo_lab::lab_test;
use colo_lab::phrases;

use crate::stand::{Stand, WAYS, end};

/// An impossible filter is refused, with words that the operator can act on.
fn refused(stand: &Stand, kind: &str, arguments: &[&str], word: &str) -> Result<()> {
    let output = stand.refused(kind, arguments)?;
    assert!(!output.success, "filter-{kind} {arguments:?} was accepted");
    assert!(output.stderr.contains(word), "filter-{kind} {arguments:?}: {}", output.stderr);
    Ok(())
}

#[lab_test(root)]
fn what_makes_no_sense_is_refused_with_the_reason() -> Result<()> {
    let stand = Stand::new()?;
    let end = stand.server("out");
    refused(&stand, "redirector", &[], phrases::filter::NEEDS_AN_ENDPOINT)?;
    refused(
        &stand,
        "redirector",
        &["--indev", &end, "--outdev", &end],
        phrases::filter::SAME_ENDPOINT,
    )?;
    refused(&stand, "rewriter", &["--queue", "tx"], phrases::filter::BOTH_DIRECTIONS)?;
    refused(
        &stand,
        "mirror",
        &["--queue", "both", "--outdev", &end],
        phrases::filter::ONLY_TX_OR_RX,
    )?;
    refused(&stand, "mirror", &[], "--outdev")?;
    refused(&stand, "mirror", &["--id", "a b", "--outdev", &end], phrases::filter::BAD_ID)?;
    refused(&stand, "mirror", &["--outdev", "nowhere"], phrases::filter::BAD_ENDPOINT)?;
    let other = ["filter-mirror", "--netdev", "tap7", "--outdev", &end];
    let output = output_of(stand.host(), &other)?;
    assert!(!output.success && output.stderr.contains(phrases::filter::NO_INTERFACE), "{output:?}");
    let host = ["filter-mirror", "--netdev", "br0", "--outdev", &end];
    let output = output_of(stand.host(), &host)?;
    assert!(!output.success && output.stderr.contains(phrases::filter::NOT_A_TAP), "{output:?}");
    Ok(())
}

#[lab_test(root)]
fn a_second_one_on_a_tap_needs_an_id_of_its_own() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = |id: &[&str], socket: &str| {
        stand.filter("mirror", &[id, &["--outdev", &stand.server(socket)]].concat())
    };
    let first = mirror(&[], "a")?;
    assert_eq!(first.status()?.text("instance")?, "filter-mirror@tap0");
    let out = stand.server("b");
    refused(&stand, "mirror", &["--outdev", &out], phrases::filter::NEEDS_AN_ID)?;
    let second = mirror(&["--id", "m1"], "b")?;
    let out = stand.server("c");
    refused(
        &stand,
        "mirror",
        &["--id", "m1", "--outdev", &out],
        &format!("m1 {}", phrases::filter::RUNS_ALREADY),
    )?;
    // No filter of another kind runs yet.
    let third = stand.filter("redirector", &["--indev", &out])?;
    // The refused filters have changed nothing.
    for way in WAYS {
        stand.passes(way, "all the same");
    }
    end(third)?;
    end(second)?;
    end(first)?;
    Ok(())
}

#[lab_test(root)]
fn status_lists_every_filter_for_people() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = stand.filter("mirror", &["--queue", "tx", "--outdev", &stand.server("m")])?;
    let redirector = stand.filter("redirector", &["--id", "r0", "--indev", &stand.server("r")])?;
    let rewriter = stand.filter("rewriter", &[])?;
    let colo_proxy = binary()?;
    let colo_proxy = colo_proxy.to_str().expect("a path");
    let shown = stand.run(colo_proxy, &["status"])?;
    for line in [
        format!(
            "filter-mirror@tap0 (filter-mirror of tap0, pid {}): waiting",
            mirror.process.pid()
        ),
        format!("r0 (filter-redirector of tap0, pid {}): waiting", redirector.process.pid()),
        format!(
            "filter-rewriter@tap0 (filter-rewriter of tap0, pid {}): translating",
            rewriter.process.pid()
        ),
        phrases::filter::STATUS_QUEUE_TX.into(),
        format!("  outdev {}{}", stand.server("m"), phrases::filter::STATUS_NO_PEER),
        phrases::filter::STATUS_NO_FLOWS.into(),
    ] {
        assert!(shown.contains(&line), "`{line}` is not in\n{shown}");
    }
    let one = stand.run(colo_proxy, &["status", "r0"])?;
    assert!(one.starts_with("r0 (") && !one.contains("mirror"), "{one}");
    let divergences = stand.run(colo_proxy, &["divergences"])?;
    assert!(
        divergences.contains("r0 (filter-redirector)")
            && divergences.contains(phrases::filter::NO_COMPARISON),
        "{divergences}"
    );
    let failover = output_of(stand.host(), &["failover", "r0"])?;
    assert!(
        !failover.success && failover.stderr.contains(phrases::filter::NO_FAILOVER),
        "{failover:?}"
    );
    for filter in [mirror, redirector, rewriter] {
        let log = end(filter)?;
        assert!(log.contains(phrases::filter::ENDED_WITHOUT_FRAMES), "{log}");
    }
    assert_eq!(stand.run(colo_proxy, &["status"])?, phrases::filter::NO_INSTANCE);
    Ok(())
}

/// An operator with bpftool sees the filter's maps.
#[lab_test(root)]
fn everything_is_pinned_under_the_id() -> Result<()> {
    let stand = Stand::new()?;
    let mirror = stand.filter("mirror", &["--id", "m0", "--outdev", &stand.server("m")])?;
    let pinned = stand.run("ls", &["/sys/fs/bpf/colo-proxy/m0"])?;
    for name in ["filter", "filter_counters", "link_colo_filter_rx", "link_colo_filter_tx"] {
        assert!(pinned.lines().any(|line| line == name), "{name} is not in\n{pinned}");
    }
    if std::path::Path::new("/usr/sbin/bpftool").exists() {
        let map = ["map", "dump", "pinned", "/sys/fs/bpf/colo-proxy/m0/filter"];
        let dump = stand.run("/usr/sbin/bpftool", &map)?;
        assert!(dump.contains("\"token\"") && dump.contains("\"out_gate_ifindex\""), "{dump}");
    }
    end(mirror)?;
    Ok(())
}

//! Which bpffs the daemon finds in which mount namespace. `unshare` does the work of `ip netns
//! exec` here: it makes a mount namespace with a new `/sys`.

use colo_lab::lab_test;
use std::process::{Command, ExitCode};

/// The variable is set in the child, which then prints the bpffs that it finds.
const PROBE: &str = "COLO_PROXY_BPFFS_PROBE";

/// Does its work only in a child of the tests below.
#[lab_test]
fn probe() {
    if std::env::var_os(PROBE).is_some() {
        let found = colo_proxy::datapath::pin::find_bpffs().expect("a bpffs");
        println!("found={}", found.display());
        // The daemon can pin there, on any path that reaches it.
        let map = aya::maps::Array::<aya::maps::MapData, u32>::create(1, 0).expect("a map");
        let path = found.join(format!("colo-proxy-probe-{}", std::process::id()));
        map.pin(&path).expect("pin");
        std::fs::remove_file(&path).expect("unpin");
    }
}

/// The bpffs that the probe finds in a process tree of its own. Its first process has a mount
/// namespace in which `host` has run. `after` runs there after the probe.
fn found(host: &str, after: &str) -> String {
    let probe = std::env::current_exe().expect("this test");
    let inside = format!("{BARE_SYS} && exec {} --exact probe --nocapture", probe.display());
    let script = format!("set -e; {host}; unshare --mount sh -c '{inside}'; {after}");
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", &script])
        .env(PROBE, "1")
        .output()
        .expect("run unshare");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let found = text.lines().find_map(|line| line.split_once("found=").map(|(_, path)| path));
    found.unwrap_or_else(|| unreachable!("no answer: {text}")).to_owned()
}

const BARE_SYS: &str = "umount -l /sys && mount -t sysfs sysfs /sys";
const IS_BPFFS: &str = "test $(stat -f -c %T /sys/fs/bpf) = bpf_fs";

#[lab_test(root)]
fn the_hosts_bpffs_is_found_from_a_private_mount_namespace() {
    let host = format!("{BARE_SYS}; mount -t bpf bpf /sys/fs/bpf");
    assert_eq!(found(&host, "true"), "/proc/1/root/sys/fs/bpf");
}

#[lab_test(root)]
fn a_host_without_bpffs_gets_one_that_stays() {
    assert_eq!(found(BARE_SYS, IS_BPFFS), "/proc/1/root/sys/fs/bpf");
}

/// The first process may be out of reach, as in a container. The shell that ran `ip netns exec` is
/// in reach, and its mount namespace also outlives the daemon.
#[lab_test(root)]
fn the_bpffs_of_whoever_started_us_is_found() {
    let probe = std::env::current_exe().expect("this test");
    let inside = format!("{BARE_SYS} && exec {} --exact probe --nocapture", probe.display());
    let mounted = format!("{IS_BPFFS} || mount -t bpf bpf /sys/fs/bpf");
    let script = format!("set -e; {mounted}; unshare --mount sh -c '{inside}'; true");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env(PROBE, "1")
        .output()
        .expect("run unshare");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    // It is not the probe's own bpffs, which would end with the probe.
    assert!(text.contains("found=/proc/"), "{text}");
}

fn main() -> ExitCode {
    colo_lab::harness::run()
}

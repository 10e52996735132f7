//! A whole pair made of parts, as in QEMU's documentation: mirror, two redirectors and compare on
//! the primary's host, two redirectors and the rewriter on the secondary's.

use anyhow::Result;
use colo_lab::client::{Conversation, Keeper, echo};
use colo_lab::daemon::{Daemon, output_of};
use colo_lab::guest::{GuestOptions, StandInGuest};
use colo_lab::lab_test;
use colo_lab::network::{Family, HostSide, Lab, LabOptions};
use colo_lab::phrases;
use colo_lab::stand_in::tap::TapOffloads;
use tempfile::TempDir;

use crate::stand::{TIMEOUT, end, wait_mode};

const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// The processes of both hosts.
struct Parts {
    primary: Vec<Daemon>,
    f1: Daemon,
    f2: Daemon,
    rew0: Daemon,
    _dir: TempDir,
}

fn part(lab: &Lab, side: HostSide, arguments: &[&str]) -> Result<Daemon> {
    let daemon = Daemon::spawn(lab.host(side), arguments)?;
    daemon.wait_ready()?;
    Ok(daemon)
}

impl Parts {
    fn start(lab: &Lab) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let unix = |name: &str| format!("unix:{}", dir.path().join(name).display());
        let tcp = |port: u16| format!("tcp:{}:{port}", HostSide::Primary.replication());
        let (out, primary_in) = (unix("out"), unix("primary-in"));
        let (mirror, back) = (tcp(9003), tcp(9004));
        let server = |endpoint: &str| format!("{endpoint},server");
        let filter = |side: HostSide, kind: &str, id: &str, queue: &str, socket: [&str; 2]| {
            let kind = format!("filter-{kind}");
            let head = [&kind, "--id", id, "--netdev", "tap0", "--queue", queue];
            part(lab, side, &[&head[..], &socket, &["--vnet-hdr-support"]].concat())
        };
        let compare = [
            "colo-compare",
            "--primary-in",
            &server(&primary_in),
            "--secondary-in",
            &server(&back),
            "--outdev",
            &server(&out),
            "--vnet-hdr-support",
        ];
        let (a, b) = (HostSide::Primary, HostSide::Secondary);
        let m0 = filter(a, "mirror", "m0", "tx", ["--outdev", &server(&mirror)])?;
        let compare = part(lab, a, &compare)?;
        let r0 = filter(a, "redirector", "r0", "rx", ["--indev", &out])?;
        let r1 = filter(a, "redirector", "r1", "rx", ["--outdev", &primary_in])?;
        let f1 = filter(b, "redirector", "f1", "tx", ["--indev", &mirror])?;
        let f2 = filter(b, "redirector", "f2", "rx", ["--outdev", &back])?;
        let rew0 = part(lab, b, &["filter-rewriter", "--id", "rew0", "--netdev", "tap0"])?;
        for filter in [&m0, &r0, &r1, &f1, &f2] {
            wait_mode(filter, "connected")?;
        }
        Ok(Self { primary: vec![m0, r0, r1, compare], f1, f2, rew0, _dir: dir })
    }
}

fn guests(lab: &Lab) -> Result<[StandInGuest; 2]> {
    let start = |side| StandInGuest::start(lab, side, GuestOptions::of(side, TapOffloads::On));
    Ok([start(HostSide::Primary)?, start(HostSide::Secondary)?])
}

#[lab_test(root)]
fn parts_make_a_pair_that_agrees_and_fails_over() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let parts = Parts::start(&lab)?;
    let _guests = guests(&lab)?;
    for family in [Family::V4, Family::V6] {
        let mut conversation = Conversation::open(&lab.client, family)?;
        for _ in 0..50 {
            conversation.ask(1000)?;
        }
        conversation.close()?;
        echo(&lab.client, family, 10, 100)?;
    }
    let keeper = Keeper::start(Conversation::open(&lab.client, Family::V4)?, 300, PAUSE);
    keeper.wait_for_answers(50, TIMEOUT)?;
    let status = parts.rew0.status()?;
    assert!(status.detail("/kernel/translated_to_guest")? > 50, "{status:#?}");
    assert!(status.detail("/kernel/translated_from_guest")? > 50, "{status:#?}");
    for filter in [&parts.f1, &parts.f2] {
        assert!(filter.status()?.drops().is_empty(), "{:#?}", filter.status()?);
    }

    // The primary's host is gone. Its guest's connections continue at the secondary.
    let Parts { primary, f1, f2, rew0, _dir } = parts;
    lab.host(HostSide::Primary).unplug()?;
    let logs: Vec<String> = primary.iter().map(|part| part.process.stderr()).collect();
    assert!(logs.iter().all(|log| !log.contains(phrases::filter::CHECKPOINT_NEEDED)), "{logs:#?}");
    let failover = output_of(lab.host(HostSide::Secondary), &["failover", "rew0"])?;
    assert!(failover.success, "{failover:?}");
    end(f1)?;
    end(f2)?;
    keeper.wait_for_answers(50, TIMEOUT)?;
    let kept = keeper.stop()?;
    assert!(kept.error.is_none(), "{kept:?}");
    let mut conversation = Conversation::open(&lab.client, Family::V6)?;
    conversation.ask(1000)?;
    conversation.close()?;
    drop(rew0);
    Ok(())
}

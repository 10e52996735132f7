//! Several filters on one TAP: QEMU's order, and what is injected goes on behind the injector.

use anyhow::Result;
use colo_lab::colo_compare::Socket;
use colo_lab::daemon::Daemon;
use colo_lab::process::eventually;
use colo_lab::root::require_root;
use nix::sys::signal::Signal;

use crate::stand::{Stand, TIMEOUT, Way, named, receive_to, wait_mode};

/// A mirror, a redirector that injects, and another mirror, in this order.
struct Three {
    stand: Stand,
    head: (Daemon, Socket),
    middle: (Daemon, Socket),
    tail: (Daemon, Socket),
}

fn mirror(stand: &Stand, id: &str) -> Result<(Daemon, Socket)> {
    let filter = stand.filter("mirror", &["--id", id, "--outdev", &stand.server(id)])?;
    let out = stand.connect(id, false)?;
    wait_mode(&filter, "connected")?;
    Ok((filter, out))
}

fn injector(stand: &Stand, id: &str) -> Result<(Daemon, Socket)> {
    let filter = stand.filter("redirector", &["--id", id, "--indev", &stand.server(id)])?;
    let input = stand.connect(id, false)?;
    wait_mode(&filter, "connected")?;
    Ok((filter, input))
}

impl Three {
    fn new() -> Result<Self> {
        let stand = Stand::new()?;
        let head = mirror(&stand, "head")?;
        let middle = injector(&stand, "middle")?;
        let tail = mirror(&stand, "tail")?;
        Ok(Self { stand, head, middle, tail })
    }

    /// Which frames the mirrors at head and tail see: every ordinary one, and of what is injected
    /// the one behind the injector, in either direction.
    fn check(&mut self, round: &str) -> Result<()> {
        let name = |what: &str| format!("{round} {what}");
        let injected = named(&name("injected"));
        self.stand.passes(Way::Tx, &name("to"));
        self.stand.passes(Way::Rx, &name("from"));
        self.middle.1.send(&injected)?;
        self.stand.arrives(Way::Tx, &injected);
        self.stand.arrives(Way::Rx, &injected);
        let fence = named(&name("fence"));
        self.stand.passes(Way::Tx, &name("fence"));
        for (mirror, way) in [(&mut self.head, "rx"), (&mut self.tail, "tx")] {
            let seen = receive_to(&mut mirror.1, &fence)?;
            // Towards the guest the tail is behind the injector, from the guest the head is.
            let wanted = [named(&name("to")), named(&name("from")), injected.clone()];
            assert_eq!(seen, wanted, "{round}: the mirror that is behind it for {way}");
            let status = mirror.0.status()?;
            assert_eq!(status.detail("/kernel/passed_over")?, 1, "{round}: {status:#?}");
        }
        Ok(())
    }

    fn programs(&self) -> Result<[Vec<String>; 2]> {
        let shown = |way: &str| -> Result<Vec<String>> {
            let ns = &self.stand.host().namespace;
            ns.run(|| {
                use aya::programs::{SchedClassifier, TcAttachType};
                let hook = if way == "tx" { TcAttachType::Egress } else { TcAttachType::Ingress };
                let (_, programs) = SchedClassifier::query_tcx("tap0", hook)?;
                Ok(programs.iter().map(|program| program.id().to_string()).collect())
            })
        };
        Ok([shown("tx")?, shown("rx")?])
    }
}

#[test]
fn an_injected_frame_goes_on_behind_its_injector_only() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut three = Three::new()?;
    three.check("first")?;
    let [tx, rx] = three.programs()?;
    assert_eq!((tx.len(), rx.len()), (3, 3));
    Ok(())
}

/// A filter that is killed leaves its place to the next of its id.
#[test]
fn a_filter_that_was_killed_keeps_its_place() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut three = Three::new()?;
    let before = three.programs()?;
    three.middle.0.process.kill()?;
    assert_eq!(three.programs()?, before, "pinned");
    three.middle = injector(&three.stand, "middle")?;
    let after = three.programs()?;
    for (before, after) in before.iter().zip(&after) {
        let same: Vec<bool> = before.iter().zip(after).map(|(a, b)| a == b).collect();
        assert_eq!(same, [true, false, true], "only the middle one is new");
    }
    three.check("taken over")
}

/// So does one whose guest was restarted while it was dead.
#[test]
fn a_filter_that_was_dead_when_the_tap_came_back_finds_its_place() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut three = Three::new()?;
    three.middle.0.process.kill()?;
    three.stand.restart_guest()?;
    wait_back(&three.head.0, 1)?;
    wait_back(&three.tail.0, 1)?;
    three.middle = injector(&three.stand, "middle")?;
    three.check("dead meanwhile")
}

/// Every filter attaches to the new TAP by itself, whichever is first.
#[test]
fn a_tap_that_comes_back_has_them_in_the_same_order() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for slow in 0..3 {
        let mut three = Three::new()?;
        let filters = [&mut three.head.0, &mut three.middle.0, &mut three.tail.0];
        for (i, filter) in filters.into_iter().enumerate() {
            if i == slow {
                filter.process.signal(Signal::SIGSTOP)?;
            }
        }
        three.stand.restart_guest()?;
        for (i, filter) in [&three.head.0, &three.middle.0, &three.tail.0].iter().enumerate() {
            if i != slow {
                wait_back(filter, 1)?;
            }
        }
        let filters = [&mut three.head.0, &mut three.middle.0, &mut three.tail.0];
        for filter in filters {
            filter.process.signal(Signal::SIGCONT)?;
            wait_back(filter, 1)?;
        }
        let [tx, rx] = three.programs()?;
        assert_eq!((tx.len(), rx.len()), (3, 3));
        three.check(&format!("the last is {slow}"))?;
    }
    Ok(())
}

/// Waits until the filter has attached to a TAP that came back for the `count`th time.
fn wait_back(filter: &Daemon, count: usize) -> Result<()> {
    let back = "tap0 is back, and attached again";
    eventually(back, TIMEOUT, || {
        Ok((filter.process.stderr().matches(back).count() >= count).then_some(()))
    })
}

//! Several filters on one TAP, in QEMU's order. An injected frame continues after the injector.

use std::path::Path;

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use colo_lab::colo_compare::Socket;
use colo_lab::daemon::Daemon;
use colo_lab::lab_test;
use colo_lab::phrases;
use colo_proxy_common::filter::{FilterRecord, token};
use nix::sys::signal::Signal;

use crate::stand::{Stand, TIMEOUT, Way, end, named, receive_to, wait_mode};

/// A mirror, a redirector that injects in both directions, and another mirror, in this order. Each
/// mirror has one queue, so its copies tell in which of the two walks it comes after the
/// redirector.
struct ThreeFilters {
    queue: &'static str,
    stand: Stand,
    head: (Daemon, Socket),
    middle: (Daemon, Socket),
    tail: (Daemon, Socket),
}

fn mirror(stand: &Stand, id: &str, queue: &str) -> Result<(Daemon, Socket)> {
    let out = stand.server(id);
    let filter = stand.filter("mirror", &["--id", id, "--queue", queue, "--outdev", &out])?;
    let out = stand.connect(id, false)?;
    wait_mode(&filter, "connected")?;
    Ok((filter, out))
}

const QUEUES: [&str; 2] = ["tx", "rx"];

fn injector(stand: &Stand, id: &str) -> Result<(Daemon, Socket)> {
    let filter = stand.filter("redirector", &["--id", id, "--indev", &stand.server(id)])?;
    let input = stand.connect(id, false)?;
    wait_mode(&filter, "connected")?;
    Ok((filter, input))
}

impl ThreeFilters {
    fn new(queue: &'static str) -> Result<Self> {
        let stand = Stand::new()?;
        let head = mirror(&stand, "head", queue)?;
        let middle = injector(&stand, "middle")?;
        let tail = mirror(&stand, "tail", queue)?;
        Ok(Self { queue, stand, head, middle, tail })
    }

    /// The frames that the mirrors at head and tail see. Both see every ordinary frame of their
    /// queue. Only the mirror after the injector sees the injected frame. On the way to the guest
    /// that is the tail, and on the way from it the head.
    fn check(&mut self, round: &str) -> Result<()> {
        let name = |what: &str| format!("{round} {what}");
        let injected = named(&name("injected"));
        let way = if self.queue == "tx" { Way::Tx } else { Way::Rx };
        self.stand.passes(Way::Tx, &name("to"));
        self.stand.passes(Way::Rx, &name("from"));
        self.middle.1.send(&injected)?;
        self.stand.arrives(Way::Tx, &injected);
        self.stand.arrives(Way::Rx, &injected);
        self.stand.passes(way, &name("fence"));
        let ordinary = named(&name(if way == Way::Tx { "to" } else { "from" }));
        let behind = vec![ordinary.clone(), injected];
        let before = vec![ordinary];
        let (head, tail) = if way == Way::Tx { (before, behind) } else { (behind, before) };
        for (mirror, wanted) in [(&mut self.head, head), (&mut self.tail, tail)] {
            let seen = receive_to(&mut mirror.1, &named(&name("fence")))?;
            let id = mirror.0.status()?.text("instance")?;
            assert_eq!(seen, wanted, "{round}: {id}, {way:?}");
            let passed_over = mirror.0.status()?.detail("/kernel/passed_over")?;
            assert_eq!(passed_over, 2 - wanted.len() as u64, "{round}: {id}, {way:?}");
        }
        Ok(())
    }

    fn filters(&mut self) -> [&mut Daemon; 3] {
        [&mut self.head.0, &mut self.middle.0, &mut self.tail.0]
    }

    /// The ids of the programs towards the guest, and of those from it.
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

#[lab_test(root)]
fn an_injected_frame_goes_on_behind_its_injector_only() -> Result<()> {
    for queue in QUEUES {
        ThreeFilters::new(queue)?.check("first")?;
    }
    Ok(())
}

/// A killed filter leaves its place to the next filter with its id.
#[lab_test(root)]
fn a_filter_that_was_killed_keeps_its_place() -> Result<()> {
    for queue in QUEUES {
        let mut three = ThreeFilters::new(queue)?;
        let before = three.programs()?;
        three.middle.0.process.kill()?;
        assert_eq!(three.programs()?, before, "pinned");
        three.middle = injector(&three.stand, "middle")?;
        let after = three.programs()?;
        let way = usize::from(queue == "rx");
        let same: Vec<bool> = before[way].iter().zip(&after[way]).map(|(a, b)| a == b).collect();
        assert_eq!(same, [true, false, true], "only the middle one is new");
        three.check("taken over")?;
    }
    Ok(())
}

/// The same is true if its guest was restarted meanwhile.
#[lab_test(root)]
fn a_filter_that_was_dead_when_the_tap_came_back_finds_its_place() -> Result<()> {
    for queue in QUEUES {
        let mut three = ThreeFilters::new(queue)?;
        three.middle.0.process.kill()?;
        three.stand.restart_guest()?;
        wait_back(&three.head.0)?;
        wait_back(&three.tail.0)?;
        three.middle = injector(&three.stand, "middle")?;
        three.check("dead meanwhile")?;
    }
    Ok(())
}

/// Every filter attaches to the new TAP by itself, in any order.
#[lab_test(root)]
fn a_tap_that_comes_back_has_them_in_the_same_order() -> Result<()> {
    for (queue, slow) in QUEUES.into_iter().flat_map(|queue| [(queue, 0), (queue, 1), (queue, 2)]) {
        let mut three = ThreeFilters::new(queue)?;
        three.filters()[slow].process.signal(Signal::SIGSTOP)?;
        three.stand.restart_guest()?;
        for (i, filter) in three.filters().into_iter().enumerate() {
            if i != slow {
                wait_back(filter)?;
            }
        }
        let last = three.filters().into_iter().nth(slow).expect("one of the three");
        last.process.signal(Signal::SIGCONT)?;
        wait_back(last)?;
        three.check(&format!("the last is {slow}"))?;
    }
    Ok(())
}

/// Waits until the filter has attached to a TAP that came back.
fn wait_back(filter: &Daemon) -> Result<()> {
    filter.process.wait_for(phrases::filter::TAP_IS_BACK, TIMEOUT).map(drop)
}

fn records(pins: &Path, id: &str) -> Result<Array<MapData, FilterRecord>> {
    Ok(Map::from_map_data(MapData::from_pin(pins.join(id).join("filter"))?)?.try_into()?)
}

/// The host has had 65536 more interfaces, so the next gate has the token of another filter. The
/// test changes that filter's record to get there.
#[lab_test(root)]
fn a_token_that_another_filter_has_is_not_taken() -> Result<()> {
    let stand = Stand::new()?;
    let (mut dead, _) = mirror(&stand, "dead", "tx")?;
    let (alive, _alive) = mirror(&stand, "alive", "tx")?;
    dead.process.kill()?;
    // The host's bpffs, as a process on the host sees it.
    let seen_by = Path::new("/proc").join(alive.process.pid().to_string());
    let pins = seen_by.join("root/sys/fs/bpf/colo-proxy");
    let mut last = records(&pins, "alive")?.get(&0, 0)?.out_gate_ifindex;
    let mut forged = records(&pins, "dead")?;
    let record = forged.get(&0, 0)?;
    let (out, input) = (stand.server("next"), stand.server("in"));
    for (kind, arguments) in [
        ("mirror", &["--id", "next", "--outdev", &out][..]),
        ("redirector", &["--id", "next", "--indev", &input]),
        ("rewriter", &["--id", "next"]),
    ] {
        for taken in [true, false] {
            let next = if taken { last + 1 } else { last };
            forged.set(0, FilterRecord { token: token(next), ..record }, 0)?;
            let filter = stand.filter(kind, arguments)?;
            last += if taken { 2 } else { 1 };
            let found = records(&pins, "next")?.get(&0, 0)?.token;
            assert_eq!(found, token(last), "{kind}, {taken}");
            end(filter)?;
        }
    }
    Ok(())
}

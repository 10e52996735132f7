//! Two sides of a pair: output of both guests goes in, released frames and a checkpoint request come out.
#![expect(
    clippy::disallowed_methods,
    reason = "the caller owns time, and here that is the example"
)]

use std::time::Instant;

use colo_proxy_engine::compare::{Engine, Limits};
use colo_proxy_engine::frame::Frame;
use colo_proxy_engine::pair::primary::{Intake, PeerLane};
use colo_proxy_engine::pair::protection::{LeftGuest, LossPolicy, Protection};
use colo_proxy_engine::pair::service_record::RecordKeeper;
use colo_proxy_engine::pair::{OnSecondaryLost, OutputPath, Primary, ProgramMode};

/// Frames that have left.
#[derive(Default)]
struct Network(Vec<Frame>);

impl OutputPath for Network {
    fn set_mode(&mut self, _mode: ProgramMode) {}
    fn read_output(&mut self, _into: &mut Vec<Frame>) -> bool {
        false
    }
    fn release(&mut self, frame: &Frame) {
        self.0.push(frame.clone());
    }
    fn acknowledge(&mut self, _frame: &Frame) {}
}

/// An IPv4 packet of a protocol without ports, whose payload ends with `last`.
fn packet(last: u8) -> Frame {
    let mut bytes = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 46], &[0; 42]].concat();
    (bytes[22], bytes[23], bytes[59]) = (64, 253, last);
    Frame::new(bytes.into(), 0).expect("no virtio-net header")
}

fn main() {
    let now = Instant::now();
    let policy = LossPolicy { on_lost: OnSecondaryLost::Release, fences: false, covers: true };
    let protection = Protection::new(policy, RecordKeeper::in_memory(), LeftGuest::None);
    let engine = Engine::new(Limits::default(), 1);
    let mut primary = Primary::new(now, "web".into(), engine, protection, 1, true);
    let mut network = Network::default();
    for lane in [PeerLane::Mirror, PeerLane::Secondary, PeerLane::Control] {
        primary.on_lane(now, lane, true, &mut network);
    }

    // Both guests say 1. Then they differ.
    for (ours, theirs) in [(1, 1), (2, 3)] {
        primary.on_output(now, Intake::All(&mut vec![packet(ours)]), &mut network);
        primary.on_secondary(now, vec![packet(theirs).into()]);
    }
    primary.release_all(&mut network);

    // A difference counts after some time.
    let mut command = None;
    while command.is_none()
        && let Some(due) = primary.poll_timeout()
    {
        primary.on_timeout(due, &mut network);
        primary.collect_requests(due);
        command = primary.next_command();
    }
    println!("{}: {} frame left, {} held", primary.mode(), network.0.len(), primary.waiting());
    println!("{:?}", command.expect("a checkpoint is requested"));
    assert_eq!(network.0, [packet(1)]);
}

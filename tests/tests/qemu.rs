//! Two real guests.

use colo_lab::network::{Lab, LabOptions, Side};
use colo_lab::qemu::{Image, QemuGuest};
use colo_lab::{client, counters, network::Family, root};
use std::path::Path;

#[test]
fn boots() {
    if !root::require_root() {
        return;
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("lab-cache");
    let image = Image::build(&cache).unwrap();
    let lab = Lab::new(LabOptions::default()).unwrap();
    let mut guest = QemuGuest::boot(&lab, Side::Primary, &image).unwrap();
    guest.wait_ready().unwrap();
    for family in Family::BOTH {
        let echoed = client::echo(&lab.client, family, 10, 100).unwrap();
        println!("{:?}", echoed.latency.percentile(50.0));
        let mut talk = client::Conversation::open(&lab.client, family).unwrap();
        talk.ask(100).unwrap();
        println!("{:?} {:?}", talk.down(10_000_000).unwrap(), talk.up(10_000_000).unwrap());
        talk.close().unwrap();
    }
    let counters = guest.counters().unwrap();
    println!("{:?} {:?}", counters.get("Tcp.InSegs"), counters::checksum_errors(&counters));
}

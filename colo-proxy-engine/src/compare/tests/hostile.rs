//! Guests that send whatever they like: nothing panics, nothing held is lost or left twice, and no
//! byte leaves that the secondary never said at that place.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use colo_proxy_common::decode::{Tcp, decode, decode_tcp, flag, protocol};

use super::cut::{Part, parts};
use super::packet::{Link, tcp};
use super::random::{Random, streams};
use super::rig::Rig;
use crate::compare::{Limits, Policy, Reason, Side};
use crate::frame::Frame;

const LINK: Link = Link { ip_version: 4, vlan: [0, 0], peer: 9 };

/// A segment out of few possible ones, so that the guests meet now and then.
fn segment(random: &mut Random) -> Frame {
    let mut segment = tcp(1000 + random.below(60) as u32);
    segment.ports.0 = random.below(3) as u16;
    if random.chance(80) {
        segment = segment.ack(500 + random.below(20) as u32);
    }
    segment.flags = match random.below(20) {
        0 => flag::SYN,
        1 => flag::FIN,
        2 => flag::RST,
        3 => random.next() as u8,
        _ => 0,
    };
    if random.chance(2) {
        segment.seq = random.next() as u32;
    }
    if random.chance(10) {
        segment.window = Some(random.below(2) as u16);
    }
    if random.chance(10) {
        segment = segment.urgent(random.below(40) as u16);
    }
    // Mostly the byte is given by its place; sometimes it is not.
    let salt = u32::from(random.chance(3));
    let len = random.below(30) as u32;
    segment.payload = (0..len).map(|n| (segment.seq.wrapping_add(n + salt)) as u8).collect();
    segment.build()
}

/// A fragment out of few possible packets: whatever place and length, so that they fit, repeat,
/// overlap and contradict each other. All its bytes are `octet`.
fn fragment(random: &mut Random, octet: u8) -> Frame {
    let link = Link { ip_version: if random.chance(50) { 4 } else { 6 }, ..LINK };
    // One without a header, or something that may look like one.
    let protocol = [200, protocol::TCP, protocol::UDP][random.below(3)];
    let whole = link.ip(protocol, &[octet; 200], octet);
    let from = random.below(24) * 8;
    let len = if random.chance(80) { 8 * (1 + random.below(8)) } else { 1 + random.below(50) };
    let part = Part { from, to: (from + len).min(200), more: random.chance(70) };
    parts(&whole, random.below(3) as u32, &[part]).remove(0)
}

/// Any frame: a segment, a datagram, a fragment, or one of those with bytes changed or cut.
fn anything(random: &mut Random) -> Frame {
    let frame = match random.below(10) {
        0 => LINK.udp(
            (1, random.below(3) as u16),
            &[random.below(4) as u8],
            random.next() as u8 as u16,
        ),
        1 => LINK.ip(random.next() as u8, &[random.below(2) as u8; 24], 1),
        2 => {
            let octet = 100 + random.below(2) as u8;
            fragment(random, octet)
        }
        _ => segment(random),
    };
    if random.chance(85) {
        return frame;
    }
    let mut octets = frame.bytes().to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(octets.len());
        octets[at] = random.next() as u8;
    }
    octets.truncate(random.below(octets.len() + 1));
    let vnet = octets.len().min(12);
    Frame::new(Bytes::from(octets), vnet).expect("long enough")
}

/// The bytes that each guest has said, by flow and place. It knows no connections, so it forbids less
/// than the rule.
#[derive(Default)]
struct Witness {
    /// By the secondary in this epoch.
    said: HashSet<(u16, u32, u8)>,
    by_primary: HashSet<(u16, u32, u8)>,
    /// Flows in which data came with a SYN of the secondary: its place is not in its number.
    exempt: HashSet<u16>,
    /// Places of which the primary has said anything: a checkpoint covers them.
    put_out: HashSet<(u16, u32)>,
    /// Places that both have said alike, or a checkpoint covers.
    fine: HashSet<(u16, u32)>,
}

fn tcp_of(frame: &Frame) -> Option<(Tcp, &[u8])> {
    let octets = frame.ethernet();
    let ip = decode(octets, None).ok()?.ip?;
    let is_whole_tcp = ip.protocol == protocol::TCP && ip.fragment.is_none();
    is_whole_tcp.then(|| decode_tcp(octets, &ip).ok()).flatten().map(|tcp| (tcp, octets))
}

/// Flow, place and byte of all data of a segment that opens nothing.
fn octets_of(frame: &Frame) -> Vec<(u16, u32, u8)> {
    let is_opening = tcp_of(frame).is_some_and(|(tcp, _)| tcp.flags & flag::SYN != 0);
    if is_opening { vec![] } else { places_of(frame) }
}

/// Likewise of any segment. A SYN has a number of its own, before its data.
fn places_of(frame: &Frame) -> Vec<(u16, u32, u8)> {
    let Some((tcp, octets)) = tcp_of(frame) else { return vec![] };
    if tcp.flags & flag::RST != 0 {
        return vec![];
    }
    let at = tcp.payload_at as usize;
    let first = tcp.seq.wrapping_add(u32::from(tcp.flags & flag::SYN != 0));
    (0..tcp.payload_len)
        .map(|n| (tcp.src_port, first.wrapping_add(n), octets[at + n as usize]))
        .collect()
}

impl Witness {
    fn hears(&mut self, side: Side, frame: &Frame) {
        if side == Side::Secondary
            && let Some((tcp, _)) = tcp_of(frame)
            && tcp.flags & flag::SYN != 0
            && tcp.payload_len > 0
        {
            self.exempt.insert(tcp.src_port);
        }
        if side == Side::Primary {
            self.put_out.extend(places_of(frame).iter().map(|(flow, place, _)| (*flow, *place)));
        }
        for octet in octets_of(frame) {
            let (own, other) = match side {
                Side::Primary => (&mut self.by_primary, &self.said),
                Side::Secondary => (&mut self.said, &self.by_primary),
            };
            own.insert(octet);
            if other.contains(&octet) {
                self.fine.insert((octet.0, octet.1));
            }
        }
    }

    fn checkpoint(&mut self) {
        self.said.clear();
        self.exempt.clear();
        self.fine.extend(&self.put_out);
    }

    fn allows(&self, frame: &Frame) -> bool {
        octets_of(frame).iter().all(|(flow, place, _)| {
            let looked_at = (900..2000).contains(place) && !self.exempt.contains(flow);
            !looked_at || self.fine.contains(&(*flow, *place))
        })
    }
}

/// What is known of packets in fragments is within the limits, for both guests together.
fn is_within(rig: &Rig, limits: &Limits) -> Result<(), String> {
    let fragments = rig.engine.stats().fragments;
    if fragments.incomplete_packets > 2 * limits.fragment_packets_max as u64
        || fragments.incomplete_bytes > 2 * limits.fragment_bytes_max as u64
    {
        return Err(format!("beyond the limits: {fragments:?}"));
    }
    Ok(())
}

fn one(seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let limits = Limits {
        flows_max: 1 + random.below(8),
        frames_max: 5 + random.below(100),
        flow_frames_max: 5 + random.below(50),
        datagram_grace_count: random.below(8),
        fragment_packets_max: 1 + random.below(8),
        fragment_source_packets_max: 1 + random.below(8),
        fragment_bytes_max: 200 + random.below(4000),
        on_malformed: [Policy::Compare, Policy::Release, Policy::Hold][random.below(3)],
        on_uncompared: [Policy::Compare, Policy::Release, Policy::Hold][random.below(3)],
        ..Limits::default()
    };
    let mut rig = Rig::with(limits.clone());
    let mut witness = Witness::default();
    let (mut given, mut left) = (0usize, Vec::<Frame>::new());
    for _ in 0..random.below(600) {
        rig.now += Duration::from_millis(random.below(20) as u64);
        let released = match random.below(100) {
            0 => {
                rig.began();
                let frame = anything(&mut random);
                let mut released = rig.frame(Side::Primary, &frame).0;
                given += 1;
                released.extend(rig.done().0);
                witness.checkpoint();
                witness.hears(Side::Primary, &frame);
                left.append(&mut released);
                continue;
            }
            1 => {
                rig.began();
                rig.failed();
                rig.wait(Duration::from_millis(1)).0
            }
            2 => rig.wait(Duration::from_secs(4)).0,
            n => {
                let side = if n % 2 == 0 { Side::Primary } else { Side::Secondary };
                let frame = anything(&mut random);
                witness.hears(side, &frame);
                given += usize::from(side == Side::Primary);
                rig.frame(side, &frame).0
            }
        };
        if let Some(frame) = released.iter().find(|frame| !witness.allows(frame)) {
            return Err(format!("left without a witness: {:?}", octets_of(frame)));
        }
        left.extend(released);
        let held = rig.engine.stats().held.frames as usize;
        if given != left.len() + held {
            return Err(format!("{given} given, {} left, {held} held", left.len()));
        }
        is_within(&rig, &limits)?;
    }
    left.extend(rig.checkpoint().0);
    let stats = rig.engine.stats();
    let gauges = [stats.held, stats.secondary_waiting];
    if stats.fragments.incomplete_packets != 0 || stats.fragments.incomplete_bytes != 0 {
        return Err(format!("still there: {:?}", stats.fragments));
    }
    if left.len() != given || gauges.iter().any(|gauge| gauge.frames != 0 || gauge.bytes != 0) {
        return Err(format!("{given} given, {} left, {gauges:?}", left.len()));
    }
    if !rig.engine.has_room() || !rig.engine.has_room_for(Side::Secondary) {
        return Err("no room although nothing is held".to_owned());
    }
    Ok(())
}

#[test]
fn hostile_guests_lose_nothing_and_smuggle_nothing() {
    for seed in 0..streams() as u64 / 4 {
        assert_eq!(one(seed), Ok(()), "seed {seed}");
    }
}

/// The same from both guests, however odd, is no difference.
#[test]
fn equal_oddities_ask_for_nothing() {
    for seed in 0..streams() as u64 / 5 {
        let mut random = Random(seed);
        let mut rig = Rig::with(Limits { flows_max: 4096, ..Limits::default() });
        let mut reasons: Vec<Reason> = Vec::new();
        let mut released = 0;
        for _ in 0..20 {
            let mut frame = anything(&mut random);
            // Both of a SYN and of data before it would be two connections in disorder.
            while octets_of(&frame).is_empty() && frame.ethernet().get(23) == Some(&6) {
                frame = anything(&mut random);
            }
            let mut sides = [Side::Primary, Side::Secondary];
            sides.rotate_left(random.below(2));
            for side in sides {
                let got = rig.frame(side, &frame);
                released += got.0.len();
                reasons.extend(got.1);
            }
        }
        let wrong: Vec<_> = reasons.iter().filter(|reason| **reason != Reason::Payload).collect();
        // A number out of nowhere makes strays of the frames after it: held, and what is known of
        // the flow is no longer all.
        let strays = rig.engine.stats().stray;
        assert!(wrong.is_empty() || strays > 0, "seed {seed}: {wrong:?}");
        let held = rig.engine.stats().held.frames as usize;
        assert_eq!(released + held, 20, "seed {seed}");
    }
}

/// Whatever pieces of packets the guests send, in whatever order: where no byte of the one is an
/// byte of the other, only a checkpoint releases anything.
#[test]
fn fragments_of_other_bytes_release_nothing() {
    for seed in 0..streams() as u64 / 20 {
        let mut random = Random(seed);
        let mut rig = Rig::new();
        let mut given = Vec::new();
        for _ in 0..random.below(300) {
            if random.chance(2) {
                assert_eq!(rig.wait(Duration::from_millis(1100)).0, [], "seed {seed}");
            }
            let side = if random.chance(50) { Side::Primary } else { Side::Secondary };
            let frame = fragment(&mut random, if side == Side::Primary { 7 } else { 8 });
            assert_eq!(rig.frame(side, &frame).0, [], "seed {seed}");
            if side == Side::Primary {
                given.push(frame);
            }
            if random.chance(1) {
                assert_eq!(rig.checkpoint().0, given, "seed {seed}");
                given.clear();
            }
        }
    }
}

/// The twin: the same fragments from both guests, in the same order, all leave without a checkpoint.
#[test]
fn the_same_fragments_ask_for_nothing() {
    for seed in 0..streams() as u64 / 20 {
        let mut random = Random(seed);
        let mut rig = Rig::new();
        let (mut given, mut left, mut behind) = (0, 0, std::collections::VecDeque::new());
        let mut requests = Vec::new();
        for step in 0..120 {
            left += rig.wait(Duration::from_millis(random.below(60) as u64)).0.len();
            if step < 100 {
                let frame = fragment(&mut random, 7);
                let got = rig.frame(Side::Primary, &frame);
                left += got.0.len();
                requests.extend(got.1);
                given += 1;
                behind.push_back(frame);
            }
            while behind.len() > 10 || (step >= 100 && !behind.is_empty()) {
                let frame = behind.pop_front().expect("not empty");
                let got = rig.frame(Side::Secondary, &frame);
                left += got.0.len();
                requests.extend(got.1);
            }
        }
        let got = rig.wait(Duration::from_secs(2));
        left += got.0.len();
        requests.extend(got.1);
        assert_eq!((left, requests), (given, vec![]), "seed {seed}");
    }
}

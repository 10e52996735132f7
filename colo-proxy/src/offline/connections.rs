//! Learns the initial sequence numbers of each guest, and matches the connections of the two guests.
//!
//! Each guest chooses its own numbers. The peer of a pair answers both guests at once, so its own
//! number identifies the connection. If the captures were taken one after the other, the peer has
//! other numbers, too. Then connections of the same addresses and ports are matched in order, and the
//! peer's number is translated as well.

use std::collections::{HashMap, VecDeque};

use colo_proxy_common::decode::{Tcp, flag};
use colo_proxy_common::record::FlowKey;

use super::clock::difference;
use super::guest::ComparedGuest;
use crate::capture_file::Packet;
use colo_proxy_engine::compare::{Content, Side, content};
use colo_proxy_engine::frame::Frame;

/// Flows and connections that are remembered, all together.
const CONNECTIONS_MAX: usize = 1 << 19;
/// Pairs of connections that tell the distance of the clocks.
const SHIFTS_MAX: usize = 65536;

/// An opened connection of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenedConnection {
    pub(super) isn: u32,
    /// The peer's number, if the guest has acknowledged it.
    pub(super) peer_isn: Option<u32>,
    pub(super) at_ns: u64,
    /// The same connection of the other guest.
    pub(super) partner: Option<InitialNumbers>,
}

/// The initial numbers of guest and peer, and their place in the guest's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InitialNumbers {
    pub(super) place: usize,
    pub(super) isn: u32,
    pub(super) peer_isn: Option<u32>,
}

impl OpenedConnection {
    fn numbers(&self, place: usize) -> InitialNumbers {
        InitialNumbers { place, isn: self.isn, peer_isn: self.peer_isn }
    }
}

/// The connections of one guest with one set of addresses and ports.
#[derive(Clone, Debug, Default)]
pub(super) struct FlowHistory {
    /// The first captured frame belongs to a connection that was opened before.
    pub(super) met_in_middle: bool,
    is_known: bool,
    pub(super) opened: Vec<OpenedConnection>,
}

/// The TCP connections of both guests, by addresses and ports.
#[derive(Debug, Default)]
pub struct Connections {
    pub(super) flows: HashMap<FlowKey, [FlowHistory; 2]>,
    pub(super) total: usize,
    /// Openings that found no room here: their numbers are not translated.
    pub(super) not_remembered: u64,
    /// Frames of the guest that are truncated in the capture, by side, and the number of the first one.
    pub(super) truncated: [u64; 2],
    pub(super) first_truncated: [Option<u64>; 2],
    shifts: Vec<i64>,
}

impl Connections {
    /// Takes the next packet of the capture of `side`, from any sender.
    pub fn add(&mut self, side: Side, packet: &Packet, guest: &ComparedGuest) {
        if !guest.sent(&packet.bytes) {
            return;
        }
        if packet.is_truncated() {
            let at = side as usize;
            if let (Some(frames), Some(first)) =
                (self.truncated.get_mut(at), self.first_truncated.get_mut(at))
            {
                *frames += 1;
                first.get_or_insert(packet.number);
            }
        }
        let Some(frame) = Frame::new(packet.bytes.clone(), 0) else { return };
        if let Some(Content::Tcp(name, tcp)) = content(&frame) {
            self.learn(side, name, &tcp, packet.time_ns);
        }
    }

    /// The number of the guest's frames that are truncated in the capture of `side`, and the number of
    /// the first one. They cannot be compared.
    pub fn truncated(&self, side: Side) -> Option<(u64, u64)> {
        let first = (*self.first_truncated.get(side as usize)?)?;
        Some((*self.truncated.get(side as usize)?, first))
    }

    fn learn(&mut self, side: Side, name: FlowKey, tcp: &Tcp, at_ns: u64) {
        let is_full = self.total >= CONNECTIONS_MAX;
        if is_full && !self.flows.contains_key(&name) {
            self.not_remembered += u64::from(is_opening(tcp));
            return;
        }
        let before = self.flows.len();
        let flow = self.flows.entry(name).or_default();
        let Some(history) = flow.get_mut(side as usize) else { return };
        let is_first = !history.is_known;
        history.is_known = true;
        if is_opening(tcp) {
            if history.repeats(tcp) {
                return;
            }
            if is_full {
                self.not_remembered += 1;
                return;
            }
            let peer_isn = has(tcp, flag::ACK).then_some(tcp.ack.wrapping_sub(1));
            history.opened.push(OpenedConnection { isn: tcp.seq, peer_isn, at_ns, partner: None });
            self.total += 1;
        } else if is_first {
            history.met_in_middle = !has(tcp, flag::RST);
        } else if let Some(last) = history.opened.last_mut()
            && last.peer_isn.is_none()
            && has(tcp, flag::ACK)
            && tcp.seq == last.isn.wrapping_add(1)
            && tcp.payload_len == 0
        {
            // The third of the segments that open a connection from the guest.
            last.peer_isn = Some(tcp.ack.wrapping_sub(1));
        }
        let new_flows = self.flows.len() - before;
        self.total += new_flows;
    }

    /// Finds the partner of each connection, once both captures are read.
    pub fn settle(&mut self) {
        for [primary, secondary] in self.flows.values_mut() {
            settle(primary, secondary);
            for (ours, theirs) in pairs(primary, secondary) {
                if self.shifts.len() < SHIFTS_MAX {
                    self.shifts.push(difference(ours, theirs));
                }
            }
        }
    }

    /// The time by which the secondary's clock is behind the primary's, by the opening of
    /// connections.
    pub(super) fn median_shift_ns(&self) -> Option<i64> {
        let mut shifts = self.shifts.clone();
        shifts.sort_unstable();
        shifts.get(shifts.len() / 2).copied()
    }

    /// Connections that both guests opened.
    pub(super) fn matched(&self) -> u64 {
        let partners = |[_, secondary]: &[FlowHistory; 2]| {
            secondary.opened.iter().filter(|opened| opened.partner.is_some()).count() as u64
        };
        self.flows.values().map(partners).sum()
    }
}

impl FlowHistory {
    /// `tcp` repeats or completes the last opening.
    fn repeats(&mut self, tcp: &Tcp) -> bool {
        let Some(last) = self.opened.last_mut().filter(|last| last.isn == tcp.seq) else {
            return false;
        };
        if !has(tcp, flag::ACK) {
            return true;
        }
        let peer_isn = tcp.ack.wrapping_sub(1);
        *last.peer_isn.get_or_insert(peer_isn) == peer_isn
    }
}

pub(super) fn has(tcp: &Tcp, flag: u8) -> bool {
    tcp.flags & flag != 0
}

pub(super) fn is_opening(tcp: &Tcp) -> bool {
    has(tcp, flag::SYN)
}

fn settle(primary: &mut FlowHistory, secondary: &mut FlowHistory) {
    let mut by_peer: HashMap<u32, VecDeque<usize>> = HashMap::new();
    for (at, opened) in primary.opened.iter().enumerate() {
        if let Some(peer_isn) = opened.peer_isn {
            by_peer.entry(peer_isn).or_default().push_back(at);
        }
    }
    for (place, theirs) in secondary.opened.iter_mut().enumerate() {
        let same = theirs.peer_isn.and_then(|peer_isn| by_peer.get_mut(&peer_isn));
        // If a guest answers one SYN with several numbers, the last one counts.
        let at = same.and_then(|same| match same.len() {
            0 | 1 => same.front().copied(),
            _ => same.pop_front(),
        });
        if let Some((at, ours)) = at.and_then(|at| Some((at, primary.opened.get_mut(at)?))) {
            theirs.partner = Some(ours.numbers(at));
            ours.partner = Some(theirs.numbers(place));
        }
    }
    // If one capture began in the middle of a connection, it is the first one that the other opened.
    let skip_ours = usize::from(secondary.met_in_middle && !primary.met_in_middle);
    let skip_theirs = usize::from(primary.met_in_middle && !secondary.met_in_middle);
    let ours = primary.opened.iter_mut().enumerate().skip(skip_ours);
    let theirs = secondary.opened.iter_mut().enumerate().skip(skip_theirs);
    let ours = ours.filter(|(_, ours)| ours.partner.is_none());
    let theirs = theirs.filter(|(_, theirs)| theirs.partner.is_none());
    for ((our_place, ours), (their_place, theirs)) in ours.zip(theirs) {
        theirs.partner = Some(ours.numbers(our_place));
        ours.partner = Some(theirs.numbers(their_place));
    }
}

/// The times at which both guests opened the same connection.
fn pairs<'a>(
    primary: &'a FlowHistory,
    secondary: &'a FlowHistory,
) -> impl Iterator<Item = (u64, u64)> + 'a {
    primary.opened.iter().filter_map(|ours| {
        let theirs = secondary.opened.get(ours.partner?.place)?;
        Some((ours.at_ns, theirs.at_ns))
    })
}

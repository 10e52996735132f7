//! The secondary's numbers in the primary's count, as the kernel programs make it.

use std::collections::HashMap;

use colo_proxy_common::checksum::ChecksumDifference;
use colo_proxy_common::decode::{Tcp, decode_tcp_options, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::rewrite::{self, Edit, Translation};
use colo_proxy_common::seq::Seq;

use super::connections::{Connections, History, has, is_opening};
use colo_proxy_engine::compare::Side;
use colo_proxy_engine::frame::Frame;

const CHECKSUM_AT: u32 = 16;

/// What is to be done with a TCP frame of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Compare this.
    Compare(Frame),
    /// The primary has yet to open this connection.
    Early(Frame),
    /// Only one capture has the start of the connection: how their numbers go together is unknown.
    Undecided,
}

/// Where both guests are in their connections.
#[derive(Debug)]
pub(super) struct Translator {
    flows: HashMap<FlowKey, [History; 2]>,
    /// The connection that a guest is in, and how far the primary is; what is not here has not
    /// begun. As many entries as flows at the most.
    now: HashMap<FlowKey, Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Of each side, the place in its history.
    current: [Option<usize>; 2],
    /// The end of what the primary has sent, and its acknowledgment.
    sent: Option<Seq>,
    acked: Option<Seq>,
}

impl Translator {
    pub(super) fn new(connections: Connections) -> Self {
        Self { flows: connections.flows, now: HashMap::new() }
    }

    /// Takes a frame in the order in which its guest sent it.
    pub(super) fn take(&mut self, side: Side, name: &FlowKey, tcp: &Tcp, frame: Frame) -> Fate {
        let Some(histories) = self.flows.get(name) else { return Fate::Compare(frame) };
        let [primary, secondary] = histories;
        let (own, other) = match side {
            Side::Primary => (primary, secondary),
            Side::Secondary => (secondary, primary),
        };
        let progress = self.now.entry(*name).or_default();
        let Some(current) = progress.current.get_mut(side as usize) else {
            return Fate::Compare(frame);
        };
        if is_opening(tcp) {
            let from = current.unwrap_or(0);
            let found = own.opened.iter().skip(from).position(|opened| opened.isn == tcp.seq);
            if let Some(found) = found {
                *current = Some(from + found);
            }
        }
        let opened = current.and_then(|at| own.opened.get(at));
        let partner = opened.and_then(|opened| opened.partner);
        let is_undecided = match current {
            None => !other.met_in_middle && !other.opened.is_empty() && own.met_in_middle,
            Some(0) => partner.is_none() && other.met_in_middle && !own.met_in_middle,
            Some(_) => false,
        };
        if is_undecided {
            return Fate::Undecided;
        }
        match (side, opened, partner) {
            (Side::Primary, ..) => progress.advance(tcp),
            (Side::Secondary, Some(opened), Some(partner)) => {
                let seq = partner.isn.wrapping_sub(opened.isn);
                let peers = partner.peer_isn.zip(opened.peer_isn);
                let ack = peers.map_or(0, |(ours, theirs)| ours.wrapping_sub(theirs));
                let frame = translate(frame, tcp, seq, ack);
                let [primary, _] = progress.current;
                return if primary < Some(partner.place) {
                    Fate::Early(frame)
                } else {
                    Fate::Compare(frame)
                };
            }
            (Side::Secondary, ..) => {}
        }
        Fate::Compare(frame)
    }

    /// Both captures have the start of the connection that the guests are in now.
    pub(super) fn is_whole(&self, name: &FlowKey) -> bool {
        let (Some(histories), Some(progress)) = (self.flows.get(name), self.now.get(name)) else {
            return false;
        };
        histories.iter().zip(progress.current).any(|(history, current)| {
            let opened = current.and_then(|at| history.opened.get(at));
            opened.is_some_and(|opened| opened.partner.is_some())
        })
    }

    /// A translated frame of the secondary says more than the primary has said.
    pub(super) fn is_ahead(&self, name: &FlowKey, tcp: &Tcp) -> bool {
        let Some(progress) = self.now.get(name) else { return true };
        let (Some(sent), acked) = (progress.sent, progress.acked) else { return true };
        has(tcp, flag::RST)
            || end(tcp).after(sent)
            || (has(tcp, flag::ACK) && acked.is_none_or(|acked| Seq(tcp.ack).after(acked)))
    }
}

impl Progress {
    fn advance(&mut self, tcp: &Tcp) {
        let end = end(tcp);
        if is_opening(tcp) {
            (self.sent, self.acked) = (Some(end), None);
        }
        if !has(tcp, flag::RST) {
            self.sent = Some(self.sent.map_or(end, |sent| sent.max(end)));
        }
        if has(tcp, flag::ACK) {
            let ack = Seq(tcp.ack);
            self.acked = Some(self.acked.map_or(ack, |acked| acked.max(ack)));
        }
    }
}

/// The sequence number behind a segment.
fn end(tcp: &Tcp) -> Seq {
    let marks = u32::from(has(tcp, flag::SYN)) + u32::from(has(tcp, flag::FIN));
    Seq(tcp.seq).plus(tcp.payload_len).plus(marks)
}

/// The frame with `seq` added to its sequence number and `ack` to its acknowledgment.
fn translate(frame: Frame, tcp: &Tcp, seq: u32, ack: u32) -> Frame {
    // RFC 9293, section 3.5.2: a reset of what never was a connection counts from 0.
    let is_refusal = has(tcp, flag::RST) && tcp.seq == 0;
    if (seq == 0 || is_refusal) && ack == 0 {
        return frame;
    }
    let mut octets = frame.ethernet().to_vec();
    let options = decode_tcp_options::<[u8]>(&octets, tcp);
    let seq = if is_refusal { 0 } else { seq };
    let mut done =
        rewrite::from_guest::<[u8]>(&mut octets, tcp, &options, Translation { seq, ts: 0 });
    if ack != 0 && has(tcp, flag::ACK) {
        let new = Seq(tcp.ack).plus(ack).0;
        let checksum_at = (tcp.at + CHECKSUM_AT) as usize;
        let mut difference = ChecksumDifference::default();
        difference.note(tcp.ack, new, false);
        done &= octets.write((tcp.at + 8) as usize, new.to_be_bytes())
            && octets.adjust(checksum_at, difference);
    }
    // It was decoded at these places, so it can be changed there.
    if done { Frame::new(octets.into(), 0).unwrap_or(frame) } else { frame }
}

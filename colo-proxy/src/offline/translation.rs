//! Translates the secondary's numbers to the primary's, as the kernel programs do.

use std::collections::HashMap;

use colo_proxy_common::checksum::ChecksumDifference;
use colo_proxy_common::decode::{Tcp, decode_tcp_options, flag};
use colo_proxy_common::record::FlowKey;
use colo_proxy_common::rewrite::{self, Edit, Translation};
use colo_proxy_common::seq::Seq;

use super::connections::{Connections, FlowHistory, has, is_opening};
use colo_proxy_engine::compare::Side;
use colo_proxy_engine::frame::Frame;

const CHECKSUM_AT: u32 = 16;

/// The next step for a TCP frame of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TcpVerdict {
    /// Compare this frame.
    Compare(Frame),
    /// Let this frame wait: the primary has not opened the connection yet.
    Early(Frame),
    /// Do not compare: only one capture has the start of the connection, so the offset is unknown.
    Undecided,
}

/// The progress of both guests in their connections.
#[derive(Debug)]
pub(super) struct CaptureTranslator {
    flows: HashMap<FlowKey, [FlowHistory; 2]>,
    /// The present connection of each guest, and the progress of the primary. A flow without an entry
    /// has not begun. There are at most as many entries as flows.
    now: HashMap<FlowKey, FlowProgress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FlowProgress {
    /// The place of each side in its history.
    current: [Option<usize>; 2],
    /// The end of the primary's output, and its acknowledgment.
    sent: Option<Seq>,
    acked: Option<Seq>,
}

impl CaptureTranslator {
    pub(super) fn new(connections: Connections) -> Self {
        Self { flows: connections.flows, now: HashMap::new() }
    }

    /// Takes a frame in the order in which its guest sent it.
    pub(super) fn take(
        &mut self,
        side: Side,
        name: &FlowKey,
        tcp: &Tcp,
        frame: Frame,
    ) -> TcpVerdict {
        let Some(histories) = self.flows.get(name) else { return TcpVerdict::Compare(frame) };
        let [primary, secondary] = histories;
        let (own, other) = match side {
            Side::Primary => (primary, secondary),
            Side::Secondary => (secondary, primary),
        };
        let progress = self.now.entry(*name).or_default();
        let Some(current) = progress.current.get_mut(side as usize) else {
            return TcpVerdict::Compare(frame);
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
            return TcpVerdict::Undecided;
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
                    TcpVerdict::Early(frame)
                } else {
                    TcpVerdict::Compare(frame)
                };
            }
            (Side::Secondary, ..) => {}
        }
        TcpVerdict::Compare(frame)
    }

    /// Both captures have the start of the guests' present connection.
    pub(super) fn is_whole(&self, name: &FlowKey) -> bool {
        let (Some(histories), Some(progress)) = (self.flows.get(name), self.now.get(name)) else {
            return false;
        };
        histories.iter().zip(progress.current).any(|(history, current)| {
            let opened = current.and_then(|at| history.opened.get(at));
            opened.is_some_and(|opened| opened.partner.is_some())
        })
    }

    /// A translated frame of the secondary is ahead of the primary's output or acknowledgment.
    pub(super) fn is_ahead(&self, name: &FlowKey, tcp: &Tcp) -> bool {
        let Some(progress) = self.now.get(name) else { return true };
        let (Some(sent), acked) = (progress.sent, progress.acked) else { return true };
        has(tcp, flag::RST)
            || end(tcp).after(sent)
            || (has(tcp, flag::ACK) && acked.is_none_or(|acked| Seq(tcp.ack).after(acked)))
    }
}

impl FlowProgress {
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
    let control_bits = u32::from(has(tcp, flag::SYN)) + u32::from(has(tcp, flag::FIN));
    Seq(tcp.seq).plus(tcp.payload_len).plus(control_bits)
}

/// The frame with `seq` added to its sequence number and `ack` to its acknowledgment.
fn translate(frame: Frame, tcp: &Tcp, seq: u32, ack: u32) -> Frame {
    // RFC 9293, section 3.5.2: a reset without a connection has sequence number 0.
    let is_refusal = has(tcp, flag::RST) && tcp.seq == 0;
    if (seq == 0 || is_refusal) && ack == 0 {
        return frame;
    }
    let mut bytes = frame.ethernet().to_vec();
    let options = decode_tcp_options::<[u8]>(&bytes, tcp);
    let seq = if is_refusal { 0 } else { seq };
    let mut done =
        rewrite::from_guest::<[u8]>(&mut bytes, tcp, &options, Translation { seq, ts: 0 });
    if ack != 0 && has(tcp, flag::ACK) {
        let new = Seq(tcp.ack).plus(ack).0;
        let checksum_at = (tcp.at + CHECKSUM_AT) as usize;
        let mut difference = ChecksumDifference::default();
        difference.note(tcp.ack, new, false);
        done &= bytes.write((tcp.at + 8) as usize, new.to_be_bytes())
            && bytes.adjust(checksum_at, difference);
    }
    // The fields were decoded at these places, so they can be changed there.
    if done { Frame::new(bytes.into(), 0).unwrap_or(frame) } else { frame }
}

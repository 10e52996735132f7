//! Cuts the packets of the tests into fragments.

use bytes::Bytes;
use colo_proxy_common::decode::{IpHeader, decode};

use crate::frame::Frame;

/// One fragment to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) more: bool,
}

fn ip(frame: &Frame) -> IpHeader {
    decode(frame.ethernet(), None).expect("a packet").ip.expect("of IP")
}

/// Where the part of a packet starts that can be cut: behind the IP header, and of IPv6 behind
/// hop-by-hop options.
fn cut_at(octets: &[u8], ip: &IpHeader) -> usize {
    let at = ip.at as usize;
    match octets[at] >> 4 {
        4 => at + usize::from(octets[at] & 0xf) * 4,
        _ if octets[at + 6] == 0 => at + 40 + 8 * (usize::from(octets[at + 41]) + 1),
        _ => at + 40,
    }
}

/// Bytes of `frame` that can be cut.
pub(super) fn payload_len(frame: &Frame) -> usize {
    let ip = ip(frame);
    ip.end as usize - cut_at(frame.ethernet(), &ip)
}

/// The fragments `parts` of the packet in `frame`.
pub(super) fn parts(frame: &Frame, id: u32, parts: &[Part]) -> Vec<Frame> {
    parts.iter().map(|part| fragment(frame, id, *part)).collect()
}

/// The fragments of the packet in `frame` when it is cut at the places `at`.
pub(super) fn cut(frame: &Frame, id: u32, at: &[usize]) -> Vec<Frame> {
    let len = payload_len(frame);
    let starts = [0].into_iter().chain(at.iter().copied());
    let ends = at.iter().copied().chain([len]);
    let all = starts.zip(ends).map(|(from, to)| Part { from, to, more: to < len });
    parts(frame, id, &all.collect::<Vec<_>>())
}

fn fragment(frame: &Frame, id: u32, part: Part) -> Frame {
    let (octets, ip) = (frame.ethernet(), ip(frame));
    let (at, payload_at) = (ip.at as usize, cut_at(octets, &ip));
    let mut own = octets[..payload_at].to_vec();
    let place = part.from as u16 & 0xfff8;
    let payload = &octets[payload_at + part.from..(payload_at + part.to).min(ip.end as usize)];
    if ip.version == 4 {
        let len = (payload_at - at + payload.len()) as u16;
        own[at + 2..at + 4].copy_from_slice(&len.to_be_bytes());
        own[at + 4..at + 6].copy_from_slice(&(id as u16).to_be_bytes());
        let word = place >> 3 | u16::from(part.more) << 13;
        own[at + 6..at + 8].copy_from_slice(&word.to_be_bytes());
    } else {
        let announced_at = if payload_at == at + 40 { at + 6 } else { at + 40 };
        let next = std::mem::replace(&mut own[announced_at], 44);
        let len = (payload_at - at - 40 + 8 + payload.len()) as u16;
        own[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
        own.extend([next, 0]);
        own.extend((place | u16::from(part.more)).to_be_bytes());
        own.extend(id.to_be_bytes());
    }
    own.extend(payload);
    let mut all = frame.vnet().to_vec();
    all.extend(&own);
    // Short frames are padded.
    all.resize(all.len().max(frame.vnet().len() + 60), id as u8);
    Frame::new(Bytes::from(all), frame.vnet().len()).expect("longer than its header")
}

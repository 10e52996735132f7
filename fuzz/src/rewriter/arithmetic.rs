//! A frame that is translated and back is the same frame. In between, exactly the right numbers
//! have changed, and the checksum is as right or as wrong as before.

use colo_proxy_common::decode::{
    IpHeader, Tcp, TcpOptions, decode, decode_tcp, decode_tcp_options, flag, protocol,
};
use colo_proxy_common::rewrite::{Edit, PartialChecksum, Translation, from_guest, to_guest};

use crate::choices::Choices;
use crate::sums;

#[derive(Clone, Copy, Debug)]
enum Way {
    ToGuest,
    FromGuest,
}

/// A whole TCP segment and the places of its parts.
struct Parsed {
    ip: IpHeader,
    tcp: Tcp,
    options: TcpOptions,
}

/// `kind` decides the direction, whether the checksum is partial, and whether the frame is the
/// input or is built around it.
pub(super) fn run(choices: &mut Choices<'_>, kind: u8) {
    let way = if kind & 2 == 0 { Way::ToGuest } else { Way::FromGuest };
    let is_partial = kind & 4 != 0;
    let translation = Translation { seq: choices.number32(), ts: choices.number32() };
    let frame = match kind & 0x18 {
        0x08 => around(choices, 4),
        0x10 => around(choices, 6),
        _ => choices.rest().to_vec(),
    };
    let Some(parsed) = parse(&frame) else { return };
    let mut there = frame.clone();
    assert!(apply(&mut there, &parsed, way, translation, is_partial), "the frame is whole");
    assert_eq!(without_checksum(&there, &parsed), {
        let mut expected = frame.clone();
        for (at, new) in changes(&frame, &parsed, way, translation) {
            expected[at..at + 4].copy_from_slice(&new.to_be_bytes());
        }
        without_checksum(&expected, &parsed)
    });
    if is_partial {
        assert_eq!(checksum(&there, &parsed), checksum(&frame, &parsed));
    } else {
        assert!(sums::is_same(error(&there, &parsed), error(&frame, &parsed)));
    }
    comes_back(&frame, there, way, translation, is_partial);
    cut(&frame, &parsed, way, translation, is_partial);
}

/// TCP around the rest of the input. The options of its header are as often odd as right.
fn around(choices: &mut Choices<'_>, version: u8) -> Vec<u8> {
    let words = choices.below(11);
    let segment_head = choices.octets(20).to_vec();
    let mut segment = segment_head;
    segment.resize(20, 0);
    segment[12] = ((5 + words) as u8) << 4 | (segment[12] & 0xf);
    let rest = choices.rest();
    segment.extend(&rest[..rest.len().min(2000)]);
    segment.resize(segment.len().max(20 + 4 * words), 0);
    let mut frame = vec![0; 12];
    let len = segment.len() as u16;
    if version == 4 {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol::TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([protocol::TCP, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
    }
    frame.extend(segment);
    frame
}

fn parse(frame: &[u8]) -> Option<Parsed> {
    let ip = decode(frame, None).ok()?.ip?;
    if ip.protocol != protocol::TCP || ip.fragment.is_some() {
        return None;
    }
    let tcp = decode_tcp(frame, &ip).ok()?;
    Some(Parsed { ip, tcp, options: decode_tcp_options(frame, &tcp) })
}

fn apply(frame: &mut [u8], of: &Parsed, way: Way, by: Translation, is_partial: bool) -> bool {
    fn one<F: Edit + ?Sized>(frame: &mut F, of: &Parsed, way: Way, by: Translation) -> bool {
        match way {
            Way::ToGuest => to_guest(frame, &of.tcp, &of.options, by),
            Way::FromGuest => from_guest(frame, &of.tcp, &of.options, by),
        }
    }
    if is_partial { one(&mut PartialChecksum(frame), of, way, by) } else { one(frame, of, way, by) }
}

/// The numbers that must change, by their places.
fn changes(frame: &[u8], of: &Parsed, way: Way, by: Translation) -> Vec<(usize, u32)> {
    let at = of.tcp.at as usize;
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| frame[at + n]));
    let mut changes = Vec::new();
    let timestamps = of.options.timestamps.map(|found| found.at as usize);
    match way {
        Way::FromGuest => {
            changes.push((at + 4, number(at + 4).wrapping_add(by.seq)));
            changes.extend(timestamps.map(|at| (at, number(at).wrapping_add(by.ts))));
        }
        Way::ToGuest if frame[at + 13] & flag::ACK != 0 => {
            let edges = of.options.sack.map_or(0..0, |sack| 0..2 * usize::from(sack.blocks));
            let sack_at = of.options.sack.map_or(0, |sack| sack.at as usize);
            let places = edges.map(|edge| sack_at + 4 * edge).chain([at + 8]);
            changes.extend(places.map(|at| (at, number(at).wrapping_sub(by.seq))));
            changes.extend(timestamps.map(|at| (at + 4, number(at + 4).wrapping_sub(by.ts))));
        }
        Way::ToGuest => {}
    }
    changes
}

/// The way back leads to the same frame. It may have the other of the two zeros of a checksum.
fn comes_back(frame: &[u8], mut there: Vec<u8>, way: Way, by: Translation, is_partial: bool) {
    let again = parse(&there);
    assert!(again.is_some(), "a translated frame is as whole as it was");
    let Some(again) = again else { return };
    assert!(apply(&mut there, &again, way, by.inverse(), is_partial));
    assert_eq!(without_checksum(&there, &again), without_checksum(frame, &again));
    assert!(sums::is_same(checksum(&there, &again), checksum(frame, &again)));
}

/// A frame that was truncated after the parsing is refused or done, and never read beyond its end.
fn cut(frame: &[u8], of: &Parsed, way: Way, by: Translation, is_partial: bool) {
    let header_end = of.tcp.payload_at as usize;
    for len in (of.tcp.at as usize..header_end).chain([0]) {
        let mut cut = frame[..len].to_vec();
        let done = apply(&mut cut, of, way, by, is_partial);
        assert!(!done || changes_inside(frame, of, way, by, len), "done in {len} bytes");
    }
}

fn changes_inside(frame: &[u8], of: &Parsed, way: Way, by: Translation, len: usize) -> bool {
    let all = changes(frame, of, way, by);
    let needed = all.iter().filter(|(at, new)| frame[*at..*at + 4] != new.to_be_bytes());
    needed.map(|(at, _)| at + 4).max().unwrap_or(0) <= len
}

fn checksum(frame: &[u8], of: &Parsed) -> u16 {
    let at = of.tcp.at as usize + 16;
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn without_checksum(frame: &[u8], of: &Parsed) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let at = of.tcp.at as usize + 16;
    frame[at..at + 2].fill(0);
    frame
}

fn error(frame: &[u8], of: &Parsed) -> u16 {
    let len = if of.ip.version == 4 { 4 } else { 16 };
    let addresses = [&of.ip.src[..len], &of.ip.dst[..len]];
    sums::error(addresses, protocol::TCP, &frame[of.tcp.at as usize..of.ip.end as usize])
}

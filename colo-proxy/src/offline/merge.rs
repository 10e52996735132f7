//! Two captures as one sequence of packets in the order of time.

use std::iter::Peekable;

use super::Alignment;
use crate::capture_file::Packet;
use colo_proxy_engine::compare::Side;

/// The packets of both captures, each with its side, in the order of time on the primary's clock.
/// Packets of one capture keep their order in the file.
pub fn merge<E>(
    primary: impl Iterator<Item = Result<Packet, E>>,
    secondary: impl Iterator<Item = Result<Packet, E>>,
    alignment: Alignment,
) -> impl Iterator<Item = Result<(Side, Packet), E>> {
    let mut primary = primary.peekable();
    let mut secondary = secondary.peekable();
    std::iter::from_fn(move || {
        let next = match (time(&mut primary), time(&mut secondary)) {
            (None, None) => return None,
            (Some(_), None) => Side::Primary,
            (Some(ours), Some(theirs)) if ours <= alignment.secondary(theirs) => Side::Primary,
            _ => Side::Secondary,
        };
        let packet = match next {
            Side::Primary => primary.next(),
            Side::Secondary => secondary.next(),
        };
        packet.map(|packet| packet.map(|packet| (next, packet)))
    })
}

/// The time of the next packet. An error comes first.
fn time<E>(packets: &mut Peekable<impl Iterator<Item = Result<Packet, E>>>) -> Option<u64> {
    packets.peek().map(|packet| packet.as_ref().map_or(0, |packet| packet.time_ns))
}

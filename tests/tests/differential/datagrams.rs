//! UDP, ICMP and the rest.

use anyhow::Result;
use colo_lab::colo_compare::{arp, datagram, vlan};
use colo_lab::lab_test;

use super::{P, S, row};

const NOTHING: (&[usize], usize) = (&[], 0);

fn numbered(i: u8) -> Vec<u8> {
    datagram(7).data(&[b'n', i]).build()
}

#[lab_test(qemu)]
fn what_is_not_ip_leaves_at_once() -> Result<()> {
    let steps = [S(arp(1)), P(arp(2))];
    let both = [NOTHING, (&[1][..], 0)];
    row(&steps, &both, &both)
}

#[lab_test(qemu)]
fn ipv6_is_compared() -> Result<()> {
    let frame = datagram(7).v6().data(b"six").build();
    let steps = [P(frame.clone()), S(frame)];
    row(&steps, &[(&[0], 0), NOTHING], &[NOTHING, (&[0], 0)])
}

#[lab_test(qemu)]
fn a_tagged_frame_is_compared() -> Result<()> {
    let frame = vlan(&datagram(7).data(b"tagged").build(), 7);
    let steps = [P(frame.clone()), S(frame)];
    row(&steps, &[(&[0], 0), NOTHING], &[NOTHING, (&[0], 0)])
}

/// QEMU only looks for the primary's newest datagram.
#[lab_test(qemu)]
fn a_primary_that_is_ahead_is_no_difference() -> Result<()> {
    let steps = [P(numbered(1)), P(numbered(2)), S(numbered(1)), S(numbered(2))];
    row(
        &steps,
        &[NOTHING, NOTHING, (&[], 1), (&[1, 0], 0)],
        &[NOTHING, NOTHING, (&[0], 0), (&[1], 0)],
    )
}

/// Frames leave in the primary's order.
#[lab_test(qemu)]
fn a_secondary_in_another_order_is_no_difference() -> Result<()> {
    let steps = [P(numbered(1)), P(numbered(2)), S(numbered(2)), S(numbered(1))];
    row(
        &steps,
        &[NOTHING, NOTHING, (&[1], 0), (&[0], 0)],
        &[NOTHING, NOTHING, NOTHING, (&[0, 1], 0)],
    )
}

/// QEMU compares the whole frame of an unknown protocol.
#[lab_test(qemu)]
fn the_identification_of_another_protocol_is_no_difference() -> Result<()> {
    let gre = |id| datagram(7).protocol(47).data(b"tunnel").ip_id(id).build();
    let steps = [P(gre(1)), S(gre(2))];
    row(&steps, &[NOTHING, (&[], 1)], &[NOTHING, (&[0], 0)])
}

#[lab_test(qemu)]
fn the_identification_of_udp_and_icmp_is_none_either() -> Result<()> {
    for icmp in [false, true] {
        let of = |id| {
            let datagram = datagram(7).data(b"data").ip_id(id);
            if icmp { datagram.icmp().build() } else { datagram.build() }
        };
        let steps = [P(of(1)), S(of(2))];
        let both = [NOTHING, (&[0][..], 0)];
        row(&steps, &both, &both)?;
    }
    Ok(())
}

/// QEMU compares fragments unchanged, and takes their payload for ports.
#[lab_test(qemu)]
fn a_packet_in_other_fragments_is_the_same() -> Result<()> {
    let packet = datagram(7).data(&[b'f'; 100]);
    let [first, second] = packet.fragments(64);
    let steps = [P(packet.build()), S(first), S(second)];
    row(&steps, &[NOTHING, (&[], 1), NOTHING], &[NOTHING, NOTHING, (&[0], 0)])
}

#[lab_test(qemu)]
fn fragments_leave_as_they_came() -> Result<()> {
    let packet = datagram(7).data(&[b'f'; 100]);
    let [first, second] = packet.fragments(64);
    let steps = [P(first), P(second), S(packet.build())];
    row(&steps, &[NOTHING, NOTHING, (&[], 1)], &[NOTHING, NOTHING, (&[0, 1], 0)])
}

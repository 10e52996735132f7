//! A connection whose opening the engine has not seen: frames of the secondary may be of this one or of
//! the next one on the tuple.

use std::time::Duration;

use super::interleaving::{Pair, interleavings, letters, opened, served};
use super::packet::{Tcp, tcp};
use super::rig::Rig;
use crate::compare::Side;

/// The secondary sends `opening` and the data behind it, the primary only the data: nothing more is
/// needed, in any order.
#[track_caller]
fn repeats(opening: &Tcp) {
    let data = tcp(1001).ack(501).data(b"x");
    for order in interleavings(1, 2) {
        let mut rig = Rig::new();
        let mut theirs = [opening, &data].into_iter();
        let mut left = 0;
        for side in &order {
            let frame = if *side == Side::Primary { &data } else { theirs.next().expect("two") };
            left += rig.frame(*side, &frame.build()).0.len();
        }
        assert_eq!((left, rig.wait(Duration::from_mins(1)).1), (1, vec![]), "{}", letters(&order));
    }
}

#[test]
fn a_connection_met_in_its_middle_and_the_next_one() {
    let first = [tcp(1001).ack(5004).data(b"mid"), tcp(1004).ack(5009).fin()];
    let frames = [first.to_vec(), served(900_000, 70_000, 0)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
    let frames = [first.to_vec(), opened(900_000, 70_000)].concat();
    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
}

/// A SYN/ACK that comes again where the connection was met just behind it.
#[test]
fn a_syn_ack_repeated_in_a_connection_met_in_its_middle_is_its_own() {
    repeats(&tcp(1000).syn().ack(501));
    let data = tcp(1001).ack(501).data(b"x");
    // The twin: one that acknowledges less than a window before is of the next connection.
    let mut rig = Rig::new();
    rig.is_kept(&data);
    rig.is_kept(&tcp(900).syn().ack(400));
    rig.is_kept(&tcp(901).ack(400).data(b"next"));
    rig.passes(&data);
    rig.passes(&tcp(900).syn().ack(400));
    rig.passes(&tcp(901).ack(400).data(b"next"));
}

/// The same where the guest itself opens the connection: its SYN acknowledges nothing.
#[test]
fn a_syn_repeated_in_a_connection_met_in_its_middle_is_its_own() {
    repeats(&tcp(1000).syn());
}

/// The SYN/ACK acknowledges, whichever of the two came first.
#[test]
fn a_syn_ack_of_a_connection_met_in_its_middle_vouches_for_its_acknowledgment() {
    let (syn_ack, ack) = (tcp(1000).syn().ack(501), tcp(1001).ack(501));
    let mut rig = Rig::new();
    rig.holds(&ack);
    rig.frees(&syn_ack, &[&ack]);
    let mut rig = Rig::new();
    rig.is_kept(&syn_ack);
    rig.passes(&ack);
}

/// The secondary opens the next connection and says nothing in the one that the primary is in. The
/// frames of the next vouch for nothing here, whatever their numbers are.
#[test]
fn the_next_connection_never_vouches_for_one_met_in_its_middle() {
    let client =
        |isn: u32, peer: u32| vec![tcp(isn).syn(), tcp(isn + 1).ack(peer + 1).data(b"get")];
    let server =
        |isn: u32, peer: u32| vec![tcp(isn).syn().ack(peer + 1), tcp(isn + 1).ack(peer + 1)];
    let middles = [
        vec![tcp(10_001).ack(5004)],
        vec![tcp(10_001).ack(5004).data(b"mid"), tcp(10_004).ack(5009).fin()],
    ];
    for middle in middles {
        // Higher, lower and near; Linux goes on 65,537 behind a connection that it has just left.
        for isn in [900_000, 9000, 10_010, 75_541] {
            for peer in [70_000, 400, 0x9000_0000] {
                for next in [client(isn, peer), server(isn, peer)] {
                    let frames = [middle.clone(), next.clone()].concat();
                    let pair = Pair { primary: frames.clone(), secondary: next };
                    pair.never_releases_the_first(middle.len());
                    Pair::equal(&frames).with_own_numbers().needs_no_checkpoint();
                }
            }
        }
    }
}

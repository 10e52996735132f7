//! SYN, FIN and RST, and what follows from them for a tuple.

use std::time::Duration;

use super::packet::{Tcp, at, syn_options, tcp};
use super::rig::{self, Rig};
use crate::compare::{Reason, Side};

fn syn_ack(isn: u32, options: &[u8]) -> Tcp {
    tcp(isn).syn().ack(501).options(options)
}

/// The options with those at `place` made no-operations.
fn without(place: std::ops::Range<usize>) -> Vec<u8> {
    let mut options = syn_options();
    options[place].fill(1);
    options
}

#[test]
fn a_syn_ack_leaves_although_the_numbers_are_the_guests_own() {
    let mut rig = Rig::new();
    let syn_ack = tcp(1000).syn().ack(501);
    rig.is_kept(&tcp(777_777).syn().ack(501));
    rig.passes(&syn_ack);
    // Repetitions, the secondary's already translated.
    rig.is_kept(&syn_ack);
    rig.passes(&syn_ack);
    let data = tcp(1001).ack(501).data(b"hi");
    rig.holds(&data);
    rig.frees(&data, &[&data]);
}

#[test]
fn an_active_open_leaves_when_the_secondary_opens_too() {
    let mut rig = Rig::new();
    let syn = tcp(1000).syn();
    rig.holds(&syn);
    rig.frees(&tcp(3_000_000_000).syn(), &[&syn]);
    let ack = tcp(1001).ack(501);
    rig.holds(&ack);
    rig.frees(&ack, &[&ack]);
}

#[test]
fn a_syn_does_not_answer_for_a_syn_ack() {
    let mut rig = Rig::new();
    let syn_ack = tcp(1000).syn().ack(501);
    rig.holds(&syn_ack);
    rig.is_kept(&tcp(1000).syn());
    rig.frees(&syn_ack, &[&syn_ack]);
}

#[test]
fn timestamp_values_of_a_syn_are_no_difference() {
    let mut other = syn_options();
    other[11] = 99;
    let mut rig = Rig::new();
    rig.holds(&syn_ack(1000, &syn_options()));
    rig.frees(&syn_ack(2000, &other), &[&syn_ack(1000, &syn_options())]);
}

#[test]
fn each_option_that_the_peer_relies_on_has_its_own_reason() {
    let mut mss = syn_options();
    mss[3] = 0;
    let mut scale = syn_options();
    scale[19] = 3;
    let cases = [
        (mss, Reason::SynMss),
        (without(0..4), Reason::SynMss),
        (scale, Reason::SynWindowScale),
        (without(17..20), Reason::SynWindowScale),
        (without(4..6), Reason::SynSackPermitted),
        (without(6..16), Reason::SynTimestamps),
    ];
    for (options, reason) in cases {
        for secondary_first in [false, true] {
            let mut rig = Rig::new();
            let (ours, theirs) = (syn_ack(1000, &syn_options()), syn_ack(2000, &options));
            let got = if secondary_first {
                rig.is_kept(&theirs);
                rig.primary(&ours)
            } else {
                rig.holds(&ours);
                rig.secondary(&theirs)
            };
            assert_eq!(got, (vec![], vec![reason]));
            assert_eq!(rig.engine.stats().reasons.total(), 1);
            assert_eq!(rig.checkpoint(), (vec![ours.build()], vec![]));
        }
    }
}

#[test]
fn data_of_a_syn_is_compared() {
    for secondary_first in [false, true] {
        let mut rig = Rig::new();
        let (ours, theirs) = (tcp(1000).syn().data(b"get"), tcp(2000).syn().data(b"get"));
        if secondary_first {
            rig.is_kept(&theirs);
            rig.passes(&ours);
        } else {
            rig.holds(&ours);
            rig.frees(&theirs, &[&ours]);
        }
        let mut rig = Rig::new();
        rig.holds(&ours);
        assert_eq!(rig.secondary(&theirs.data(b"got")).1, [Reason::Payload]);
    }
}

/// A connection with "data" said by both.
fn talking() -> (Rig, Tcp) {
    let (mut rig, base) = rig::open();
    rig.is_kept(&base.clone().data(b"data"));
    rig.passes(&base.clone().data(b"data"));
    (rig, base)
}

#[test]
fn a_fin_waits_for_the_secondarys_at_the_same_place() {
    let (mut rig, base) = talking();
    let fin = at(&base, 1005).fin();
    rig.holds(&fin);
    rig.is_kept(&at(&base, 1005));
    rig.frees(&fin, &[&fin]);
    rig.passes(&fin);
    // What follows is behind the FIN.
    let last = at(&base, 1006).ack(502);
    rig.holds(&last);
    rig.frees(&last, &[&last]);
    assert_eq!(rig.engine.stats().divergences, 0);
}

#[test]
fn a_fin_with_data_against_a_fin_alone() {
    let (mut rig, base) = talking();
    let fin = at(&base, 1005).data(b"bye").fin();
    rig.is_kept(&at(&base, 1005).data(b"bye"));
    rig.is_kept(&at(&base, 1008).fin());
    rig.passes(&fin);
}

#[test]
fn a_fin_at_another_place_is_a_difference_of_its_own() {
    let (mut rig, base) = talking();
    rig.is_kept(&at(&base, 1005).data(b"more").fin());
    assert_eq!(rig.primary(&at(&base, 1005).fin()), (vec![], vec![Reason::FinPosition]));

    let (mut rig, base) = talking();
    rig.holds(&at(&base, 1005).fin());
    assert_eq!(rig.secondary(&at(&base, 1005).data(b"more")).1, [Reason::FinPosition]);

    let (mut rig, base) = talking();
    rig.is_kept(&at(&base, 1005).fin());
    let more = at(&base, 1005).data(b"more");
    assert_eq!(rig.primary(&more), (vec![], vec![Reason::FinPosition]));
}

#[test]
fn a_reset_waits_for_the_secondarys_at_the_same_place() {
    let (mut rig, base) = talking();
    let reset = at(&base, 1005).rst();
    rig.holds(&reset);
    rig.is_kept(&at(&base, 1005));
    rig.frees(&reset, &[&reset]);
    rig.passes(&reset);
}

/// A peer's segment for a port that nobody listens on yet, and then its SYN.
#[test]
fn a_reset_of_before_the_connection_waits_until_the_secondary_sends_it() {
    let mut rig = Rig::new();
    let base = tcp(1001).ack(501);
    let reset = tcp(777).rst();
    rig.holds(&reset);
    rig.accept(&base, 1000, 500);
    // Others that are busy lay to rest what can be.
    for port in 6000..6010 {
        rig.accept(&Tcp { ports: (80, port), ..base.clone() }, 1000, 500);
    }
    rig.frees(&reset.clone().salt(3), &[&reset]);
    assert_eq!(rig.engine.stats().held.frames, 0);
}

#[test]
fn a_reset_at_another_place_is_a_difference_of_its_own() {
    let (mut rig, base) = talking();
    rig.holds(&at(&base, 1005).rst());
    assert_eq!(rig.secondary(&at(&base, 1003).rst()).1, [Reason::RstPosition]);
    let (mut rig, base) = talking();
    rig.is_kept(&at(&base, 1003).rst());
    assert_eq!(rig.primary(&at(&base, 1005).rst()), (vec![], vec![Reason::RstPosition]));
}

#[test]
fn a_secondary_that_is_behind_by_a_reset_is_no_difference() {
    let (mut rig, base) = talking();
    let resets = [at(&base, 1003).rst(), at(&base, 1005).rst()];
    for reset in &resets {
        rig.holds(reset);
    }
    for reset in &resets {
        rig.frees(reset, &[reset]);
    }
}

#[test]
fn refused_connections_need_a_refusal_each() {
    let mut rig = Rig::new();
    // Both guests answer SYN after SYN to a closed port; the peer's numbers are anywhere.
    for ack in [501, 3_000_000_501, 90, 2_147_483_748] {
        let reset = tcp(0).rst().ack(ack);
        rig.holds(&reset);
        rig.frees(&reset, &[&reset]);
        let reset = tcp(0).rst().ack(ack + 7);
        rig.is_kept(&reset);
        rig.passes(&reset);
    }
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

/// The refusal acknowledges a SYN that is none of the stream, though its number may lie near.
#[test]
fn a_refusal_vouches_for_no_acknowledgment_of_the_connection() {
    let (mut rig, base) = talking();
    let far = base.clone().ack(9000);
    rig.holds(&far);
    rig.is_kept(&tcp(0).ack(10_001).rst());
    // The twin: a reset of the connection itself does.
    rig.frees(&base.clone().ack(9000).rst(), &[&far]);
}

#[test]
fn a_refusal_of_one_attempt_is_none_of_another_on_a_known_tuple_either() {
    let (mut rig, _) = talking();
    let (first, second) = (tcp(0).ack(10_001).rst(), tcp(0).ack(9001).rst());
    rig.is_kept(&first);
    rig.holds(&second);
    rig.passes(&first);
    rig.frees(&second, &[&second]);
}

/// A download that is given up: every acknowledgment under way is answered with a reset of its own.
#[test]
fn a_secondary_that_is_ahead_with_its_resets_costs_nothing() {
    let (mut rig, base) = talking();
    let reset = |n: u32| Tcp { ack: None, seq: base.seq + n, ..base.clone() }.rst();
    for n in 0..32 {
        rig.is_kept(&reset(n));
    }
    for n in 0..32 {
        rig.passes(&reset(n));
    }
}

#[test]
fn resets_that_only_the_secondary_sent_are_no_reason() {
    let (mut rig, base) = talking();
    rig.is_kept(&Tcp { ack: None, ..at(&base, 1003) }.rst());
    rig.is_kept(&Tcp { ack: None, ..at(&base, 1004) }.rst());
    let reset = Tcp { ack: None, ..at(&base, 1005) }.rst();
    rig.holds(&reset);
    rig.frees(&reset, &[&reset]);
    assert_eq!(rig.wait(Duration::from_mins(1)).1, []);
}

#[test]
fn a_new_connection_on_the_tuple_starts_afresh() {
    let (mut rig, base) = talking();
    rig.is_kept(&at(&base, 1005).fin());
    rig.passes(&at(&base, 1005).fin());
    // A lower number: nothing of the old stream counts.
    rig.accept(&tcp(0), 200, 40_000);
    let evil = tcp(201).ack(40_001).data(b"EVIL");
    rig.holds(&evil);
    assert_eq!(rig.secondary(&tcp(201).ack(40_001).data(b"good")).1, [Reason::Payload]);
    assert_eq!(rig.engine.stats().tuples_reused, 1);
}

#[test]
fn output_left_of_the_old_connection_asks_for_a_checkpoint() {
    let (mut rig, base) = talking();
    let left = at(&base, 1005).data(b"left");
    rig.holds(&left);
    let syn = tcp(90_000).syn().ack(7001);
    rig.holds(&syn);
    // The secondary has left it too.
    let theirs = tcp(80_000).syn().ack(7001);
    assert_eq!(rig.secondary(&theirs), (vec![syn.build()], vec![Reason::TupleReuse]));
    let divergence = rig.engine.divergences().next().expect("recorded");
    let frames: Vec<_> = divergence.frames().map(|(side, _)| side).collect();
    assert_eq!(frames, [Side::Primary, Side::Secondary]);
    rig.is_kept(&left);
    assert_eq!(rig.checkpoint(), (vec![left.build()], vec![]));
}

/// The twin: a secondary that is only behind sends what is left, and nothing is asked for.
#[test]
fn output_left_of_the_old_connection_leaves_when_the_secondary_sends_it() {
    let (mut rig, base) = talking();
    let (left, syn) = (at(&base, 1005).data(b"left"), tcp(90_000).syn().ack(7001));
    rig.holds(&left);
    rig.holds(&syn);
    rig.frees(&left.clone().salt(3), &[&left]);
    // What it says then of the old one is nothing to the new one.
    rig.is_kept(&at(&base, 1009).fin());
    rig.frees(&tcp(80_000).syn().ack(7001), &[&syn]);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

#[test]
fn the_old_secondary_does_not_vouch_for_the_new_connection() {
    let (mut rig, base) = talking();
    let syn = tcp(1000 - 4).syn().ack(7001);
    rig.holds(&syn);
    let data = tcp(997).data(b"xxxxxxxx");
    rig.holds(&data);
    // Of the old connection, but in the window of the new one.
    rig.is_kept(&at(&base, 1001).data(b"data"));
    rig.is_kept(&tcp(997).data(b"xxxxxxxx"));
    assert_eq!(rig.engine.stats().secondary_dropped.old_connection, 2);
    rig.frees(&tcp(5).syn().ack(7001), &[&syn]);
    rig.frees(&data, &[&data]);
}

#[test]
fn the_secondary_may_open_the_next_connection_first() {
    let (mut rig, base) = talking();
    rig.is_kept(&tcp(5_000_000).syn().ack(7001));
    rig.passes(&base.clone().data(b"data"));
    rig.passes(&tcp(60_000).syn().ack(7001));
    let data = tcp(60_001).ack(7001).data(b"new");
    rig.holds(&data);
    rig.frees(&data, &[&data]);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
}

#[test]
fn a_reset_with_text_is_compared_as_it_is() {
    let (mut rig, base) = talking();
    let reset = at(&base, 1005).data(b"why").rst();
    rig.holds(&reset);
    rig.is_kept(&at(&base, 1005).rst());
    let frame = Tcp { salt: 0, ..reset.clone() };
    rig.frees(&frame, &[&reset]);
}

#[test]
fn a_repeated_syn_ack_of_the_old_connection_does_not_vouch_for_the_new_one() {
    let mut rig = Rig::new();
    rig.is_kept(&tcp(777).syn().ack(501));
    rig.passes(&tcp(1000).syn().ack(501));
    let syn_ack = tcp(50_000).syn().ack(9001);
    rig.holds(&syn_ack);
    rig.is_kept(&tcp(777).syn().ack(501));
    rig.is_kept(&tcp(778).syn().ack(501));
    rig.frees(&tcp(888).syn().ack(9001), &[&syn_ack]);
    // The same for a connection that the guest opens.
    let mut rig = Rig::new();
    rig.is_kept(&tcp(777).syn());
    rig.passes(&tcp(1000).syn());
    let syn = tcp(50_000).syn();
    rig.holds(&syn);
    rig.is_kept(&tcp(777).syn());
    rig.frees(&tcp(888).syn(), &[&syn]);
}

#[test]
fn an_old_syn_ack_that_came_first_does_not_vouch_either() {
    let mut rig = Rig::new();
    rig.is_kept(&tcp(777).syn().ack(501));
    let syn_ack = tcp(50_000).syn().ack(9001);
    rig.holds(&syn_ack);
    rig.frees(&tcp(888).syn().ack(9001), &[&syn_ack]);
}

#[test]
fn output_left_of_the_old_connection_is_not_released_by_the_new_one() {
    let (mut rig, base) = talking();
    let left = at(&base, 1005).data(b"left");
    rig.holds(&left);
    let late = at(&base, 1009).ack(700);
    rig.holds(&late);
    let syn = tcp(90_000).syn().ack(7001);
    rig.holds(&syn);
    let theirs = tcp(80_000).syn().ack(7001);
    assert_eq!(rig.secondary(&theirs), (vec![syn.build()], vec![Reason::TupleReuse]));
    // The same bytes at the same offset, the same offset acknowledged, and a FIN.
    let data = tcp(90_001).ack(7001 + 200).data(b"dataleft");
    rig.holds(&data);
    rig.frees(&data, &[&data]);
    assert_eq!(rig.checkpoint().0, [left.build(), late.build()]);
}

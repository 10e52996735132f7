//! Connections that an earlier pair translated: both guests of this pair are copies of the one that
//! survived, whose numbers differ from the network's by the base.

use proptest::prelude::*;

use super::*;

const K: Out = Out::Translate { seq: 0xffff_fff0, ts: 7 };

fn imported(state: u32) -> World {
    let mut world = World::new();
    let Out::Translate { seq, ts } = K else { panic!("K translates") };
    world.flows = Some(FlowRecord {
        epoch: world.now.epoch,
        state,
        known: known::OFFSET | known::CONFIRMED,
        seq_offset: seq,
        ts_offset: ts,
        base_seq_offset: seq,
        base_ts_offset: ts,
        ..FlowRecord::default()
    });
    world
}

#[test]
fn an_imported_connection_keeps_its_translation_through_checkpoints() {
    let mut world = imported(state::ESTABLISHED);
    for _ in 0..5 {
        assert_eq!(world.peer(ACK, 5, 5), K);
        assert_eq!(world.guest(ACK, 5, 5), (K, false));
        world.checkpoint();
        // Several in a row, without a frame in between.
        world.checkpoint();
    }
    assert_eq!(world.peer(FIN, 5, 5), K);
    world.checkpoint();
    assert_eq!(world.guest(FIN, 5, 5), (K, false));
    assert_eq!(world.entry().state, state::CLOSED);
    world.checkpoint();
    assert_eq!(world.peer(FIN, 5, 5), K, "a retransmission after the end");
}

#[test]
fn without_a_base_the_twin_counts_as_the_network_after_a_checkpoint() {
    let mut world = imported(state::ESTABLISHED);
    let entry = world.flows.as_mut().expect("imported");
    (entry.base_seq_offset, entry.base_ts_offset) = (0, 0);
    assert_eq!(world.peer(ACK, 5, 5), K);
    world.checkpoint();
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
}

#[test]
fn an_imported_connection_keeps_its_translation_through_a_second_failover() {
    let mut world = imported(state::ESTABLISHED);
    world.checkpoint();
    world.now.failed_over = true;
    assert_eq!(world.peer(ACK, 5, 5), K);
    assert_eq!(world.guest(ACK, 5, 5), (K, false));
}

#[test]
fn a_new_connection_of_the_tuple_has_no_base() {
    let mut world = imported(state::CLOSED);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    assert_eq!(world.guest(SYN_ACK, A.guest, A.guest_ts), (Out::Pass, false));
    assert_eq!(world.peer(ACK, A.ack(), A.wire_ts), A.offset());
    world.checkpoint();
    assert_eq!(world.peer(ACK, 5, 5), Out::Pass);
}

#[test]
fn a_guest_that_refuses_a_new_connection_keeps_the_base_of_the_old_one() {
    let mut world = imported(state::CLOSED);
    assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
    world.checkpoint();
    assert_eq!(world.guest(ACK, 5, 5), (K, false));
    world.checkpoint();
    assert_eq!(world.peer(FIN, 5, 5), K);
}

proptest! {
    /// Any base, any number of checkpoints, with or without an offset learnt in this pair.
    #[test]
    fn rebasing_is_to_the_base(base in any::<(u32, u32)>(), learnt in any::<(u32, u32)>(), epochs in 0u32..5) {
        let mut flow = FlowRecord {
            known: known::OFFSET | known::GUEST | known::WIRE,
            guest_isn: 10,
            wire_isn: 10u32.wrapping_add(learnt.0),
            seq_offset: learnt.0,
            ts_offset: learnt.1,
            base_seq_offset: base.0,
            base_ts_offset: base.1,
            ..FlowRecord::default()
        };
        let entry = FlowEntry::from_mut(&mut flow);
        let wanted = if epochs == 0 { learnt } else { base };
        let translation = entry.translation(epochs);
        prop_assert_eq!((translation.seq, translation.ts), wanted);
        for epoch in 0..=epochs {
            entry.rebase(epoch);
        }
        let translation = entry.translation(epochs);
        prop_assert_eq!((translation.seq, translation.ts), wanted);
        prop_assert_eq!(flow.wire_isn.wrapping_sub(flow.guest_isn), flow.seq_offset);
    }
}

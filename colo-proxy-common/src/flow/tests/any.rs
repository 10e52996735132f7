//! Any numbers and any frames, and frames that cross on two processors.

use proptest::prelude::*;

use super::*;

/// Two processors handle the peer's ACK and the guest's SYN/ACK at the same time. In any order, if the
/// ACK is parked, then the SYN/ACK frees it.
#[test]
fn frames_that_cross_do_not_miss_each_other() {
    struct Shared(*mut FlowRecord);
    // SAFETY: the test's threads access the flow through `FlowEntry` alone, and end before it does.
    unsafe impl Sync for Shared {}

    let now = FlowContext { failed_over: false, epoch: 1, ns: 1 };
    for _ in 0..5_000 {
        let mut flow =
            FlowRecord { epoch: 1, state: state::OPENING_PASSIVE, ..FlowRecord::default() };
        let shared = &Shared(&raw mut flow);
        let start = &std::sync::Barrier::new(2);
        let (peer, guest) = std::thread::scope(|scope| {
            let peer = scope.spawn(move || {
                // SAFETY: see above.
                let entry = unsafe { FlowEntry::from_ptr(shared.0) };
                start.wait();
                let ack = segment(ACK, PEER_ISN + 1, A.ack(), 5, A.wire_ts);
                to_guest(&now, &ack, entry, &mut FlowRecord::default())
            });
            // SAFETY: see above.
            let entry = unsafe { FlowEntry::from_ptr(shared.0) };
            start.wait();
            let answer = segment(SYN_ACK, A.guest, PEER_ISN + 1, A.guest_ts, 6);
            let guest = from_guest(&now, &answer, entry, &mut FlowRecord::default());
            (peer.join().expect("the peer's thread"), guest)
        });
        assert!(peer.verdict != FlowVerdict::Park || guest.frees_parked, "{peer:?} {guest:?}");
    }
}

fn any_segment() -> impl Strategy<Value = FlowSegment> {
    let number = || prop_oneof![0u32..4, any::<u32>()];
    (any::<u8>(), number(), number(), proptest::option::of((number(), number()))).prop_map(
        |(flags, seq, ack, timestamps)| FlowSegment {
            flags: flags & 0x3f,
            seq,
            ack,
            payload_len: ack & 3,
            timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo, at: 0 }),
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Peer(FlowSegment),
    Guest(FlowSegment),
    Checkpoint,
    FailOver,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => any_segment().prop_map(Op::Peer),
        10 => any_segment().prop_map(Op::Guest),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::FailOver),
    ]
}

proptest! {
    /// Both handshakes, in both orders, for any numbers: the offset is the difference, and the parked
    /// frames are freed.
    #[test]
    fn offsets_are_differences(
        (guest, wire, guest_ts, wire_ts) in any::<(u32, u32, u32, u32)>(),
        active in any::<bool>(),
        primary_first in any::<bool>(),
    ) {
        let isn = Isn { guest, wire, guest_ts, wire_ts };
        let mut world = World::new();
        let (mine, theirs) = if active { (SYN, SYN_ACK) } else { (SYN_ACK, ACK) };
        if !active {
            prop_assert_eq!(world.peer(SYN, 0, 0), Out::Pass);
        }
        let known = match isn.offset() {
            Out::Translate { seq: 0, ts: 0 } => Out::Pass,
            other => other,
        };
        if primary_first {
            prop_assert_eq!(world.peer(theirs, isn.ack(), wire_ts), Out::Park);
            prop_assert_eq!(world.guest(mine, guest, guest_ts), (known, true));
        } else {
            prop_assert_eq!(world.guest(mine, guest, guest_ts), (Out::Pass, false));
        }
        prop_assert_eq!(world.peer(theirs, isn.ack(), wire_ts), known);
        prop_assert_eq!(world.guest(ACK, isn.next(), guest_ts), (known, false));
    }

    /// Any frames in any order: no panic. Only the guest's frames free parked ones. The guest's frames
    /// are never parked. An entry of this epoch that has an offset translates by it. After a failover
    /// no entry is made.
    #[test]
    fn any_conversation(ops in proptest::collection::vec(any_op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            let had = !world.is_empty();
            match op {
                Op::Checkpoint => world.checkpoint(),
                Op::FailOver => world.now.failed_over = true,
                Op::Peer(segment) => {
                    let (out, _) = world.run(true, &segment);
                    prop_assert!(!(world.now.failed_over && out == Out::Park));
                }
                Op::Guest(segment) => {
                    let (out, _) = world.run(false, &segment);
                    prop_assert!(out != Out::Park);
                }
            }
            let has = !world.is_empty();
            prop_assert!(!world.now.failed_over || had || !has);
            prop_assert!(world.flows.is_none_or(|flow| flow.known & known::CONFIRMED != 0));
            if let Some(mut flow) = world.flows.or(world.unconfirmed) {
                prop_assert!(flow.known & known::OFFSET != 0, "{flow:?}");
                let both = known::GUEST | known::WIRE;
                // The network's number of a claimed tuple is the next connection's.
                let is_claimed = FlowEntry::from_mut(&mut flow).is_claimed();
                if flow.known & both == both && !is_claimed {
                    prop_assert_eq!(
                        flow.seq_offset,
                        flow.wire_isn.wrapping_sub(flow.guest_isn)
                    );
                }
            }
        }
    }
}

//! Which connections are removed, and in which order.

use colo_proxy_common::flow::known;

use super::*;

const NOW: u64 = 1_000_000 * SECOND_NS;
const EPOCH: u32 = 2;

fn entry(port: u16, flow: FlowRecord) -> (FlowKey, FlowRecord) {
    (FlowKey { peer_port: port, ..FlowKey::default() }, flow)
}

fn flow(state: u32, silent_s: u64) -> FlowRecord {
    FlowRecord {
        epoch: EPOCH,
        state,
        known: known::OFFSET | known::CONFIRMED,
        seq_offset: 1,
        last_seen_ns: NOW - silent_s * SECOND_NS,
        ..FlowRecord::default()
    }
}

fn shown(plan: &AgeingPlan) -> Vec<(u16, FlowClass, bool)> {
    plan.victims.iter().map(|v| (v.key.peer_port, v.class, v.expired)).collect()
}

/// The removed connections, if a checkpoint was asked for long ago.
fn forgotten(entries: &[(FlowKey, FlowRecord)], capacity: u32) -> Vec<(u16, FlowClass, bool)> {
    let mut ageing = FlowAgeing::new(AgeLimits::default());
    ageing.asked = Some((EPOCH, 0));
    shown(&ageing.look(entries, capacity, NOW, EPOCH))
}

#[test]
fn each_state_has_its_limit() {
    let entries = [
        entry(1, flow(state::CLOSED, 60)),
        entry(2, flow(state::CLOSED, 61)),
        entry(3, flow(state::RESET, 7440)),
        entry(4, flow(state::RESET, 7441)),
        entry(5, flow(state::ESTABLISHED, 432_000)),
        entry(6, flow(state::ESTABLISHED, 432_001)),
        entry(7, flow(state::FIN_PEER, 432_001)),
    ];
    let wanted = [
        (2, FlowClass::Closed, true),
        (4, FlowClass::Reset, true),
        (6, FlowClass::Idle, true),
        (7, FlowClass::Idle, true),
    ];
    assert_eq!(forgotten(&entries, 100), wanted);
}

#[test]
fn a_clock_that_is_ahead_forgets_nothing() {
    let ahead = FlowRecord { last_seen_ns: NOW + SECOND_NS, ..flow(state::CLOSED, 0) };
    assert!(forgotten(&[entry(1, ahead)], 100).is_empty());
}

#[test]
fn a_full_table_loses_the_least_useful_first() {
    let older = FlowRecord { epoch: EPOCH - 1, ..flow(state::ESTABLISHED, 1) };
    let based = FlowRecord { base_seq_offset: 3, ..older };
    let identity = FlowRecord { seq_offset: 0, ..flow(state::ESTABLISHED, 2) };
    let entries = [
        entry(1, flow(state::ESTABLISHED, 50)),
        entry(2, flow(state::ESTABLISHED, 8000)),
        entry(3, flow(state::RESET, 20)),
        entry(4, flow(state::CLOSED, 5)),
        entry(5, flow(state::CLOSED, 30)),
        entry(6, older),
        entry(7, identity),
        entry(8, flow(state::ESTABLISHED, 0)),
        entry(9, based),
        entry(10, flow(state::FIN_GUEST, 2)),
    ];
    assert!(forgotten(&entries, 12).is_empty(), "ten of twelve are less than 90 %");
    assert_eq!(forgotten(&entries, 10), [(5, FlowClass::Closed, false)]);
    let order = [
        (5, FlowClass::Closed, false),
        (4, FlowClass::Closed, false),
        (7, FlowClass::Identity, false),
        (6, FlowClass::Identity, false),
        (3, FlowClass::Reset, false),
        (2, FlowClass::Idle, false),
        (1, FlowClass::Established, false),
        (10, FlowClass::Established, false),
    ];
    assert_eq!(forgotten(&entries, 3), order);
}

#[test]
fn one_in_use_goes_only_after_a_checkpoint_was_asked_for_in_vain() {
    let entries: Vec<_> = (1..=10).map(|port| entry(port, flow(state::ESTABLISHED, 1))).collect();
    let limits = AgeLimits::default();
    let mut ageing = FlowAgeing::new(limits);
    let first = ageing.look(&entries, 10, NOW, EPOCH);
    assert_eq!(first, AgeingPlan { victims: Vec::new(), wants_checkpoint: true });
    let patience = limits.checkpoint_patience_ns;
    let soon = ageing.look(&entries, 10, NOW + patience - 1, EPOCH);
    assert_eq!(soon, AgeingPlan::default(), "asked for once, and waiting");
    let late = ageing.look(&entries, 10, NOW + patience, EPOCH);
    assert_eq!(shown(&late), [(1, FlowClass::Established, false)]);
}

#[test]
fn the_twin_after_a_checkpoint_loses_nothing_that_needs_an_entry() {
    let entries: Vec<_> = (1..=10).map(|port| entry(port, flow(state::ESTABLISHED, 1))).collect();
    let mut ageing = FlowAgeing::new(AgeLimits::default());
    assert!(ageing.look(&entries, 10, NOW, EPOCH).wants_checkpoint);
    let plan = ageing.look(&entries, 10, NOW, EPOCH + 1);
    assert_eq!(
        (shown(&plan), plan.wants_checkpoint),
        (vec![(1, FlowClass::Identity, false)], false)
    );
    // The table is full again in the new epoch, so a checkpoint is asked for again.
    let newer =
        |(key, flow): &(FlowKey, FlowRecord)| (*key, FlowRecord { epoch: EPOCH + 1, ..*flow });
    let entries: Vec<_> = entries.iter().map(newer).collect();
    assert!(ageing.look(&entries, 10, NOW, EPOCH + 1).wants_checkpoint);
}

#[test]
fn one_look_forgets_no_more_than_its_limit() {
    let entries: Vec<_> = (1..=100).map(|port| entry(port, flow(state::CLOSED, 61))).collect();
    let limits = AgeLimits { victims_max: 7, ..AgeLimits::default() };
    assert_eq!(FlowAgeing::new(limits).look(&entries, 1000, NOW, EPOCH).victims.len(), 7);
}

#[test]
fn one_in_which_the_guest_never_spoke_goes_by_the_clock() {
    let entries = [
        entry(1, flow(state::CLOSED, 60)),
        entry(2, flow(state::CLOSED, 61)),
        entry(3, flow(state::ESTABLISHED, 7440)),
        entry(4, flow(state::ESTABLISHED, 7441)),
    ];
    let victims = FlowAgeing::new(AgeLimits::default()).look_at_unconfirmed(&entries, NOW, EPOCH);
    let shown: Vec<_> = victims.iter().map(|v| (v.key.peer_port, v.class, v.expired)).collect();
    assert_eq!(shown, [(2, FlowClass::Closed, true), (4, FlowClass::Idle, true)]);
}

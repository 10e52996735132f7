//! What is forgotten, and in which order.

use super::*;

const NOW: u64 = 1_000_000 * SECOND_NS;
const EPOCH: u32 = 2;

fn entry(port: u16, flow: Flow) -> (FlowKey, Flow) {
    (FlowKey { peer_port: port, ..FlowKey::default() }, flow)
}

fn flow(state: u32, silent_s: u64) -> Flow {
    Flow {
        epoch: EPOCH,
        state,
        seq_offset: 1,
        last_seen_ns: NOW - silent_s * SECOND_NS,
        ..Flow::default()
    }
}

fn forgotten(entries: &[(FlowKey, Flow)], capacity: u32) -> Vec<(u16, Reason)> {
    victims(entries, capacity, NOW, EPOCH, &AgeLimits::default())
        .iter()
        .map(|victim| (victim.key.peer_port, victim.reason))
        .collect()
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
    let wanted = [(2, Reason::Over), (4, Reason::Over), (6, Reason::Idle), (7, Reason::Idle)];
    assert_eq!(forgotten(&entries, 100), wanted);
}

#[test]
fn a_clock_that_is_ahead_forgets_nothing() {
    let ahead = Flow { last_seen_ns: NOW + SECOND_NS, ..flow(state::CLOSED, 0) };
    assert!(forgotten(&[entry(1, ahead)], 100).is_empty());
}

#[test]
fn a_full_table_loses_the_least_useful_first() {
    let older = Flow { epoch: EPOCH - 1, ..flow(state::ESTABLISHED, 1) };
    let identity = Flow { seq_offset: 0, ..flow(state::ESTABLISHED, 2) };
    let entries = [
        entry(1, flow(state::ESTABLISHED, 50)),
        entry(2, flow(state::ESTABLISHED, 10)),
        entry(3, flow(state::RESET, 20)),
        entry(4, flow(state::CLOSED, 5)),
        entry(5, flow(state::CLOSED, 30)),
        entry(6, older),
        entry(7, identity),
        entry(8, flow(state::ESTABLISHED, 0)),
        entry(9, flow(state::ESTABLISHED, 1)),
        entry(10, flow(state::ESTABLISHED, 2)),
    ];
    assert_eq!(forgotten(&entries, 10), [(7, Reason::Void)]);
    let order = [
        (7, Reason::Void),
        (6, Reason::Void),
        (5, Reason::Over),
        (4, Reason::Over),
        (3, Reason::Over),
        (1, Reason::Evicted),
        (2, Reason::Evicted),
    ];
    assert_eq!(forgotten(&entries, 4), order);
    assert!(forgotten(&entries, 12).is_empty(), "ten of twelve are less than 90 %");
}

//! Windows, and the header fields that are recorded: no difference, but for one that stays closed.

use std::time::Duration;

use super::packet::{Tcp, syn_options, tcp};
use super::rig::{self, Rig};
use crate::compare::stats::Differences;
use crate::compare::{Limits, Output, Reason, Side};

const SECOND: Duration = Duration::from_secs(1);

/// A connection at 1001, the peer's at 501, in which both have said the same once.
fn open() -> (Rig, Tcp) {
    let (mut rig, base) = rig::open();
    rig.is_kept(&base);
    rig.passes(&base);
    (rig, base)
}

#[test]
fn a_window_closed_at_the_secondary_alone_asks_after_the_limit() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().window(0));
    rig.passes(&base.clone().window(1));
    assert_eq!(rig.wait(Duration::from_millis(999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::ZeroWindow]);
    let record = rig.engine.divergences().next().expect("recorded");
    assert_eq!((record.reason, record.flow.guest_port), (Reason::ZeroWindow, 80));
    assert_eq!(record.frames().count(), 0);
    // Once: the checkpoint makes the secondary's window the primary's.
    assert_eq!(rig.wait(10 * SECOND).1, []);
    rig.checkpoint();
    assert_eq!(rig.wait(10 * SECOND).1, []);
    assert_eq!(rig.engine.stats().reasons.get(Reason::ZeroWindow), 1);
}

/// The twins: as long, but not closed as long, or not alone, or open at neither.
#[test]
fn a_window_that_opens_in_time_is_no_reason() {
    let (mut rig, base) = open();
    for _ in 0..5 {
        rig.is_kept(&base.clone().window(0));
        assert_eq!(rig.wait(Duration::from_millis(900)).1, []);
        rig.is_kept(&base.clone().window(1));
        assert_eq!(rig.wait(Duration::from_millis(900)).1, []);
    }
    assert_eq!(rig.wait(10 * SECOND).1, []);
}

#[test]
fn a_window_closed_at_both_guests_is_no_reason() {
    let (mut rig, base) = open();
    rig.passes(&base.clone().window(0));
    rig.is_kept(&base.clone().window(0));
    assert_eq!(rig.wait(10 * SECOND).1, []);
    // From when the primary's opens, it counts.
    rig.passes(&base.clone().window(5));
    assert_eq!(rig.wait(Duration::from_millis(999)).1, []);
    assert_eq!(rig.wait(Duration::from_millis(1)).1, [Reason::ZeroWindow]);
}

#[test]
fn a_window_closed_at_the_primary_alone_is_no_reason() {
    let (mut rig, base) = open();
    rig.passes(&base.clone().window(0));
    rig.is_kept(&base.clone().window(9));
    assert_eq!(rig.wait(10 * SECOND).1, []);
}

#[test]
fn the_window_of_a_reset_says_nothing() {
    let (mut rig, base) = open();
    rig.is_kept(&Tcp { ack: None, ..base.clone() }.rst().window(0));
    rig.passes(&base.clone().window(9));
    assert_eq!(rig.wait(10 * SECOND).1, []);
}

#[test]
fn a_closed_window_is_asked_for_again_when_the_checkpoint_failed() {
    let (mut rig, base) = open();
    rig.is_kept(&base.clone().window(0));
    assert_eq!(rig.wait(SECOND).1, [Reason::ZeroWindow]);
    rig.began();
    rig.failed();
    assert_eq!(rig.wait(2 * SECOND).1, [Reason::ZeroWindow]);
    rig.failed();
    rig.is_kept(&base.clone().window(9));
    assert_eq!(rig.wait(10 * SECOND).1, [], "it has opened");
}

#[test]
fn the_limit_on_closed_windows_is_configured() {
    for timeout in [Duration::ZERO, Duration::from_millis(250)] {
        let mut rig = Rig::with(Limits { zero_window_timeout: timeout, ..Limits::default() });
        rig.holds(&tcp(1).ack(1).window(9));
        rig.secondary(&tcp(1).ack(1).window(0));
        assert_eq!(rig.wait(timeout.max(Duration::from_millis(1))).1, [Reason::ZeroWindow]);
    }
}

#[test]
fn header_fields_that_differ_are_recorded_and_no_difference() {
    let (mut rig, base) = open();
    let before = rig.engine.stats().differences;
    let timestamps = |value: u8| [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 0];
    let ours = base.clone().data(b"x").options(&timestamps(1)).window(100);
    // Salt is the IP id, the TTL and the TOS.
    let theirs = base.clone().data(b"x").options(&timestamps(2)).window(250).salt(5);
    rig.is_kept(&theirs);
    rig.passes(&ours);
    let expected = Differences {
        window: before.window + 1,
        window_percent_max: 250,
        ttl: before.ttl + 1,
        tos: before.tos + 1,
        timestamps: before.timestamps + 1,
        ip_id: before.ip_id + 1,
    };
    assert_eq!(rig.engine.stats().differences, expected);
    assert_eq!(rig.engine.stats().reasons.total(), 0);
    // The twin: what is alike counts nowhere.
    rig.is_kept(&Tcp { seq: 1002, ..ours.clone() });
    rig.passes(&Tcp { seq: 1002, ..ours.clone() });
    assert_eq!(rig.engine.stats().differences, expected);
    // A closed window has no ratio.
    rig.is_kept(&ours.clone().window(0));
    rig.passes(&ours);
    assert_eq!(
        rig.engine.stats().differences,
        Differences { window: expected.window + 1, ..expected }
    );
}

#[test]
fn header_fields_are_found_behind_tags_and_in_ipv6() {
    for (ip_version, vlan) in [(4, [5, 0]), (4, [5, 6]), (6, [0, 0]), (6, [5, 0])] {
        let mut rig = Rig::new();
        let link = super::packet::Link { ip_version, vlan, peer: 9 };
        // A timestamp where no stack puts it.
        let options = |value: u8| [8, 10, 0, 0, 0, value, 0, 0, 0, 0, 1, 1];
        let base = Tcp { link, ..tcp(1) }.ack(1).window(7);
        rig.is_kept(&base.clone().options(&options(1)).salt(9));
        rig.passes(&base.clone().options(&options(2)));
        let got = rig.engine.stats().differences;
        let is_v4 = u64::from(ip_version == 4);
        let expected =
            Differences { ttl: 1, tos: is_v4, ip_id: is_v4, timestamps: 1, window: 0, ..got };
        assert_eq!((got, got.window_percent_max), (expected, 100));
    }
}

/// Lets the primary offer much, then acknowledge all at once with a small window; says what the
/// peer is told when the secondary acknowledges 1500 of it: acknowledgment and window.
fn told(options: &[u8], offered: u16, at_last: u16) -> (u32, u16) {
    let mut rig = Rig::new();
    let syn_ack = tcp(1000).syn().ack(501).options(options).window(100);
    rig.is_kept(&syn_ack);
    rig.passes(&syn_ack);
    let base = tcp(1001).ack(501);
    rig.is_kept(&base);
    rig.passes(&base.clone().window(offered));
    rig.holds(&base.clone().ack(9000).window(at_last));
    let mut out = Output::default();
    let theirs = base.ack(2001).build();
    rig.engine.on_frame(rig.now, Side::Secondary, theirs, &mut out);
    let [frame] = &out.acknowledgments[..] else { panic!("{out:?}") };
    let octets = frame.ethernet();
    let ack = u32::from_be_bytes(octets[42..46].try_into().expect("a header"));
    (ack, u16::from_be_bytes(octets[48..50].try_into().expect("a header")))
}

#[test]
fn an_acknowledgment_of_ours_takes_no_window_back() {
    // 501 + (100 << 7) = 13301 was offered: (13301 - 2001) >> 7 is 88.28.
    assert_eq!(told(&syn_options(), 100, 10), (2001, 89));
    // Without a window scale the field is bytes.
    assert_eq!(told(&syn_options()[..16], 10_000, 10), (2001, 8500));
    // Where the window grew, the newer one.
    assert_eq!(told(&syn_options(), 100, 300), (2001, 300));
    // What was offered is used up.
    assert_eq!(told(&syn_options()[..16], 1500, 0), (2001, 0));
}

#[test]
fn a_window_without_a_known_scale_is_the_one_that_waits() {
    let mut rig = Rig::new();
    let base = tcp(1001).ack(501);
    rig.is_kept(&base);
    rig.passes(&base.clone().window(1000));
    rig.holds(&base.clone().ack(9000).window(10));
    let mut out = Output::default();
    rig.engine.on_frame(rig.now, Side::Secondary, base.ack(2001).build(), &mut out);
    assert_eq!(out.acknowledgments[0].ethernet()[48..50], [0, 10]);
}

#[test]
fn what_a_checkpoint_flushed_counts_as_offered() {
    let mut rig = Rig::new();
    rig.holds(&tcp(1000).syn().ack(501).window(100));
    rig.holds(&tcp(1001).ack(501).window(100));
    rig.checkpoint();
    rig.holds(&tcp(1001).ack(9000).window(10));
    let mut out = Output::default();
    rig.engine.on_frame(rig.now, Side::Secondary, tcp(1001).ack(2001).build(), &mut out);
    assert_eq!(out.acknowledgments[0].ethernet()[48..50], [0, 89]);
}

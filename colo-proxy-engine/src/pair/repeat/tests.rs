#![expect(clippy::disallowed_methods, reason = "a test makes the clock that its subject is given")]

use super::*;

const PATIENCE: Duration = Duration::from_millis(60);
const PATIENCE_MAX: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(10);

const GUEST: [u8; 4] = [10, 0, 0, 2];
const PEER: [u8; 4] = [10, 0, 0, 1];

/// `len` bytes of input at `seq`.
fn input(seq: u32, len: usize) -> Frame {
    let tcp = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(PEER, GUEST, 64)
        .tcp(4000, 80, seq, 100)
        .ack(1);
    frame(|octets| tcp.write(octets, &vec![7; len]).expect("a Vec takes everything"))
}

/// A pure acknowledgment of the guest.
fn output(ack: u32, window: u16) -> Frame {
    let tcp = etherparse::PacketBuilder::ethernet2([4; 6], [2; 6])
        .ipv4(GUEST, PEER, 64)
        .tcp(80, 4000, 1, window)
        .ack(ack);
    frame(|octets| tcp.write(octets, &[]).expect("a Vec takes everything"))
}

fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut octets = Vec::new();
    write(&mut octets);
    Frame::new(octets.into(), 0).expect("no header")
}

/// What is written again at `now`, by sequence number.
fn due(repeater: &mut Repeater, now: Instant) -> Vec<u32> {
    let mut out = Vec::new();
    repeater.on_timeout(now, &mut out);
    let seq = |frame: &Frame| tcp_segment(frame.ethernet(), Direction::ToGuest).expect("TCP").1.seq;
    out.iter().map(seq).collect()
}

#[test]
fn what_is_acknowledged_is_not_repeated() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    for seq in [1000, 1100, 1200] {
        repeater.on_input(now, &input(seq, 100), |_| true);
    }
    assert!(repeater.bytes() > 300);
    repeater.on_output(now, &output(1100, 500));
    repeater.on_output(now, &output(1300, 500));
    assert_eq!((repeater.bytes(), repeater.frames), (0, 0));
    assert!(due(&mut repeater, now + PATIENCE).is_empty());
    assert_eq!(repeater.poll_timeout(), None);
}

#[test]
fn what_is_not_acknowledged_is_repeated_with_growing_pauses() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    repeater.on_input(now, &input(1000, 100), |_| true);
    let at = repeater.poll_timeout().expect("something is kept");
    assert_eq!(at, now + PATIENCE);
    assert!(due(&mut repeater, now + PATIENCE / 2).is_empty());
    assert_eq!(due(&mut repeater, at), [1000]);
    assert_eq!(repeater.poll_timeout(), Some(at + PATIENCE));
    assert_eq!(due(&mut repeater, at + PATIENCE), [1000]);
    assert_eq!(repeater.poll_timeout(), Some(at + PATIENCE * 3));
    assert_eq!(repeater.repeated, 2);
}

#[test]
fn a_hole_is_filled_at_the_third_duplicate_and_the_next_one_at_once() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    for seq in (1000..3000).step_by(100) {
        repeater.on_input(now, &input(seq, 100), |_| true);
    }
    assert!(!repeater.on_output(now, &output(1100, 500)));
    assert!(!repeater.on_output(now, &output(1100, 500)));
    assert!(!repeater.on_output(now, &output(1100, 500)));
    assert!(repeater.on_output(now, &output(1100, 500)));
    assert_eq!(due(&mut repeater, now), (1100..2700).step_by(100).collect::<Vec<_>>());
    // It had 1200 to 1900 all along, and lacks 1900.
    assert!(repeater.on_output(now, &output(1900, 500)));
    assert_eq!(due(&mut repeater, now).first(), Some(&1900));
    assert!(!repeater.on_output(now, &output(3000, 500)));
    assert_eq!(repeater.bytes(), 0);
}

#[test]
fn a_window_that_opens_is_filled_at_once() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    repeater.on_input(now, &input(1000, 100), |_| true);
    assert!(!repeater.on_output(now, &output(1000, 0)));
    assert!(repeater.on_output(now, &output(1000, 300)));
    assert_eq!(due(&mut repeater, now), [1000]);
}

#[test]
fn a_hole_of_the_network_is_left_to_the_peer() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    for seq in [1100, 1200] {
        repeater.on_input(now, &input(seq, 100), |_| true);
    }
    for _ in 0..=DUPLICATES {
        repeater.on_output(now, &output(1000, 500));
    }
    assert!(due(&mut repeater, now + PATIENCE_MAX).is_empty());
    repeater.on_input(now, &input(1000, 100), |_| true);
    assert_eq!(due(&mut repeater, now + 2 * PATIENCE_MAX), [1000, 1100, 1200]);
}

#[test]
fn the_peers_own_repetition_replaces_what_is_kept() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    repeater.on_input(now, &input(1000, 100), |_| true);
    repeater.on_input(now, &input(1100, 100), |_| true);
    let bytes = repeater.bytes();
    repeater.on_input(now, &input(1000, 100), |_| true);
    assert_eq!((repeater.bytes(), repeater.frames), (bytes, 2));
}

#[test]
fn order_survives_the_wrap() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    let first = u32::MAX - 49;
    for seq in [50, first] {
        repeater.on_input(now, &input(seq, 100), |_| true);
    }
    assert_eq!(due(&mut repeater, now + PATIENCE), [first, 50]);
    repeater.on_output(now, &output(50, 500));
    assert_eq!(repeater.frames, 1);
}

#[test]
fn a_reset_and_a_guest_that_is_silent_end_it() {
    let now = Instant::now();
    let mut repeater = Repeater::default();
    repeater.on_input(now, &input(1000, 100), |_| true);
    assert!(due(&mut repeater, now + GIVE_UP + PATIENCE).is_empty());
    assert_eq!((repeater.frames, repeater.bytes(), repeater.given_up), (0, 0, 1));

    repeater.on_input(now, &input(1000, 100), |_| true);
    let reset = etherparse::PacketBuilder::ethernet2([4; 6], [2; 6])
        .ipv4(GUEST, PEER, 64)
        .tcp(80, 4000, 1, 0)
        .rst();
    repeater.on_output(now, &frame(|octets| reset.write(octets, &[]).expect("it is written")));
    assert_eq!((repeater.frames, repeater.bytes()), (0, 0));
}

#[test]
fn datagrams_are_not_kept() {
    let mut repeater = Repeater::default();
    let echo = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(PEER, GUEST, 64)
        .icmpv4_echo_request(1, 2);
    let echo = frame(|octets| echo.write(octets, &[7; 100]).expect("it is written"));
    repeater.on_input(Instant::now(), &echo, |_| true);
    assert_eq!((repeater.frames, repeater.poll_timeout()), (0, None));
}

#[test]
fn what_is_kept_is_bounded() {
    let now = Instant::now();
    let flow_bytes_max = 1 << 20;
    let mut repeater = Repeater::new(RepeatLimits { flow_bytes_max, ..RepeatLimits::default() });
    let len = 60_000;
    let count = flow_bytes_max / len + 10;
    for i in 0..count {
        repeater.on_input(now, &input(1000 + (i * len) as u32, len), |_| true);
    }
    assert!(repeater.bytes() <= flow_bytes_max);
    assert!(repeater.not_kept >= 9);
    repeater.clear();
    assert_eq!((repeater.frames, repeater.bytes(), repeater.poll_timeout()), (0, 0, None));
}

use super::*;

const FRAMES_MAX: u32 = 10_000;

fn backlog(stopped_bytes_max: usize) -> Backlog {
    Backlog::new(FRAMES_MAX, InputLimits { stopped_bytes_max, ..InputLimits::default() })
}

fn frame(number: u32, len: usize) -> Frame {
    let mut octets = vec![0; len];
    octets[..4].copy_from_slice(&number.to_be_bytes());
    Frame::new(octets.into(), 0).expect("no header")
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes(*frame.ethernet().first_chunk().expect("its number"))
}

#[test]
fn it_is_bounded_in_frames_and_in_bytes_and_counts_the_rest() {
    let mut long = backlog(1_000_000);
    (0..20).for_each(|n| long.push(frame(n, 60_000)));
    assert_eq!((long.next.len(), long.dropped), (16, 4));
    assert_eq!((long.take_untold(), long.take_untold()), (4, 0), "told once");
    long.resume();
    assert!(!long.has_room());
    assert!(!long.comes_before(&frame(0, 60_000)), "rather early than never");
    assert!(long.comes_before(&frame(0, 60)));
    assert_eq!(long.chunk().len(), 16);
    assert!(long.has_room());
    long.push(frame(0, 60_000));
    assert_eq!((long.dropped, long.bytes), (4, 60_000), "there is room again");

    let mut short = backlog(100_000_000);
    (0..=FRAMES_MAX).for_each(|n| short.push(frame(n, 60)));
    assert_eq!((short.next.len(), short.dropped), (FRAMES_MAX as usize, 1));
}

/// Half as many come as are written; `stop_at` says after which chunk the guest is stopped again.
fn replay(backlog: &mut Backlog, stop_at: usize) -> (Vec<u32>, u32) {
    let (mut written, mut came) = (Vec::new(), 1000);
    backlog.resume();
    for chunks in 0.. {
        let chunk = backlog.chunk();
        assert!(chunk.len() <= BATCH, "the thread has other things to do");
        written.extend(chunk.iter().map(number));
        if chunks == stop_at {
            backlog.stop();
            assert!(!backlog.is_replaying());
            backlog.resume();
        }
        match backlog.end_round() {
            Some(BacklogRound::Over) => break,
            Some(BacklogRound::Another | BacklogRound::Last) | None => {}
        }
        if backlog.state != BacklogState::Ends {
            for _ in 0..chunk.len() / 2 {
                backlog.push(frame(came, 60));
                came += 1;
            }
        }
    }
    (written, came)
}

#[test]
fn what_comes_meanwhile_is_written_behind_what_waits() {
    for stop_at in [0, 5, 20, usize::MAX] {
        let mut backlog = backlog(1_000_000);
        (0..1000).for_each(|n| backlog.push(frame(n, 60)));
        let (written, came) = replay(&mut backlog, stop_at);
        assert!(came > 1500, "{came}");
        assert!(written.iter().copied().eq(0..came), "{written:?}");
        assert!(backlog.is_empty() && !backlog.is_replaying());
        assert!(!backlog.comes_before(&frame(0, 60)));
        assert_eq!((backlog.bytes, backlog.dropped), (0, 0));
    }
}

/// As much comes as is written, for ever: in the end it may overtake what waits.
#[test]
fn a_flood_does_not_keep_it_replaying() {
    let mut backlog = backlog(1_000_000);
    (0..1000).for_each(|n| backlog.push(frame(n, 60)));
    backlog.resume();
    let mut rounds = 0;
    while rounds <= ROUNDS_MAX {
        for _ in backlog.chunk() {
            backlog.push(frame(0, 60));
        }
        match backlog.end_round() {
            Some(BacklogRound::Last) => break,
            Some(_) => rounds += 1,
            None => {}
        }
    }
    assert_eq!(rounds, ROUNDS_MAX - 1);
    let mut left = 0;
    while backlog.is_replaying() {
        left += backlog.chunk().len();
        backlog.end_round();
    }
    assert_eq!(left, 1000);
}

use super::*;
use crate::frame::Frame;

fn frame(n: u8) -> ReturnedRecord {
    Frame::new(vec![n; 60].into(), 0).expect("no header").into()
}

fn feed(cut: &mut EpochCut, numbers: std::ops::Range<u8>) -> usize {
    numbers.filter(|n| cut.on_frame(frame(*n)) == SortedFrame::Fresh(frame(*n))).count()
}

#[test]
fn frames_before_the_cut_are_stale_wherever_they_are() {
    let mut cut = EpochCut::default();
    assert_eq!(feed(&mut cut, 0..3), 3);
    cut.wait_for(1);
    assert_eq!(feed(&mut cut, 3..8), 0);
    // Five had been sent before: three came before the wait, two during it.
    let (stale, fresh) = cut.on_cut(1, 5);
    assert_eq!((stale, fresh.into()), (2, vec![frame(5), frame(6), frame(7)]));
    assert_eq!(feed(&mut cut, 8..9), 1, "the next one is compared at once");
}

#[test]
fn a_cut_that_overtakes_its_frames_finds_them_stale_when_they_come() {
    let mut cut = EpochCut::default();
    assert_eq!(feed(&mut cut, 0..3), 3);
    cut.wait_for(1);
    assert_eq!(feed(&mut cut, 3..4), 0);
    // Six had been sent before: two of them are still on their way.
    assert_eq!(cut.on_cut(1, 6), (1, VecDeque::new()));
    assert_eq!(cut.on_frame(frame(4)), SortedFrame::Stale);
    // The sorting of the next epoch is right, too.
    cut.wait_for(2);
    assert_eq!(cut.on_frame(frame(5)), SortedFrame::Stale);
    assert_eq!(feed(&mut cut, 6..8), 0);
    assert_eq!(cut.on_cut(2, 7).1, [frame(7)]);
    assert_eq!(feed(&mut cut, 8..9), 1);
}

#[test]
fn what_a_lost_connection_took_with_it_is_not_waited_for() {
    let mut cut = EpochCut::default();
    cut.wait_for(1);
    cut.on_cut(1, 6);
    cut.on_connection();
    assert_eq!(feed(&mut cut, 0..2), 2);
}

#[test]
fn a_cut_of_a_connection_that_is_not_known_yet_sorts_nothing() {
    let mut cut = EpochCut::default();
    assert_eq!(feed(&mut cut, 0..100), 100);
    cut.wait_for(1);
    feed(&mut cut, 100..105);
    assert_eq!(cut.on_cut(1, 3), (0, VecDeque::new()));
    assert_eq!((cut.awaited(), cut.on_connection()), (Some(1), 5));
    feed(&mut cut, 105..110);
    assert_eq!(cut.on_cut(1, 3).1.len(), 2);
}

#[test]
fn a_cut_of_another_epoch_sorts_nothing() {
    let mut cut = EpochCut::default();
    cut.wait_for(2);
    feed(&mut cut, 0..1);
    assert_eq!(cut.on_cut(1, 0), (0, VecDeque::new()));
    assert_eq!(cut.awaited(), Some(2));
    assert_eq!(cut.on_cut(2, 0).1.len(), 1);
}

#[test]
fn a_new_connection_vouches_for_nothing_until_its_own_cut() {
    let mut cut = EpochCut::default();
    feed(&mut cut, 0..5);
    cut.wait_for(1);
    feed(&mut cut, 5..7);
    assert_eq!(cut.on_connection(), 2);
    assert_eq!(feed(&mut cut, 7..9), 0, "still awaited");
    let (stale, fresh) = cut.on_cut(1, 1);
    assert_eq!((stale, fresh.len()), (1, 1));
}

#[test]
fn what_waited_for_a_checkpoint_that_came_to_nothing_is_given_back() {
    let mut cut = EpochCut::default();
    cut.wait_for(1);
    assert_eq!(feed(&mut cut, 0..3), 0);
    assert_eq!(cut.cancel(), [frame(0), frame(1), frame(2)]);
    assert_eq!(cut.awaited(), None);
    assert_eq!(feed(&mut cut, 3..5), 2);
}

#[test]
fn unsorted_frames_are_bounded_and_the_first_ones_are_sorted_all_the_same() {
    let mut cut = EpochCut::new(UnsortedLimits { frames_max: 100, bytes_max: 1 << 20 });
    cut.wait_for(1);
    for _ in 0..110 {
        assert_eq!(cut.on_frame(frame(0)), SortedFrame::Unknown);
    }
    assert_eq!(cut.overflowed, 10);
    let (stale, fresh) = cut.on_cut(1, 7);
    assert_eq!((stale, fresh.len()), (7, 93));
}

#[test]
fn unsorted_frames_are_bounded_in_bytes() {
    let mut cut = EpochCut::new(UnsortedLimits { frames_max: 100, bytes_max: 150 });
    cut.wait_for(1);
    feed(&mut cut, 0..4);
    assert_eq!((cut.overflowed, cut.on_cut(1, 0).1.len()), (2, 2));
}

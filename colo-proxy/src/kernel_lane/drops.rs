//! Frames that are dropped behind a kernel lane, after they have counted as arrived. The gates and the
//! guest's TAP drop them when their queues are full.

use crate::tunnel::LinkAnswer;

/// The counters of the interfaces behind the lane at the last look.
#[derive(Debug, Default)]
pub(super) struct DropWatch {
    known: Vec<KnownLink>,
    /// Another look is needed, even if no more frames come. Either drops are not reported yet,
    /// because nothing is taken, or the kernel did not answer.
    pub(super) is_owed: bool,
    /// Frames dropped since the first look.
    pub(super) dropped: u64,
}

/// The counters of one interface that are reported already.
#[derive(Clone, Copy, Debug)]
struct KnownLink {
    ifindex: u32,
    dropped: u64,
    taken: u64,
}

impl DropWatch {
    /// Returns how many frames these interfaces have dropped since the last look.
    ///
    /// - An interface that is new begins with the counters that it has.
    /// - A TAP that no process has open has no guest that could miss frames.
    /// - Drops of an interface whose owner takes nothing count when it takes something. Otherwise a
    ///   guest whose interface is down, or that has yet to boot, would cost a checkpoint for every
    ///   broadcast.
    /// - Without an answer the known counters stay, so that the next answer covers this time too.
    pub(super) fn look(&mut self, answers: impl IntoIterator<Item = (u32, LinkAnswer)>) -> u64 {
        let (mut grown, mut is_owed) = (0, false);
        let known = answers.into_iter().filter_map(|(ifindex, answer)| {
            let before = self.known.iter().find(|known| known.ifindex == ifindex).copied();
            let link = match answer {
                LinkAnswer::Gone => return None,
                LinkAnswer::Unanswered => {
                    is_owed = true;
                    return before;
                }
                LinkAnswer::Present(link) if !link.is_open => return None,
                LinkAnswer::Present(link) => link,
            };
            if let Some(before) = before {
                if before.taken == link.tx_frames {
                    is_owed |= link.tx_dropped > before.dropped;
                    return Some(before);
                }
                grown += link.tx_dropped.saturating_sub(before.dropped);
            }
            Some(KnownLink { ifindex, dropped: link.tx_dropped, taken: link.tx_frames })
        });
        self.known = known.collect();
        self.is_owed = is_owed;
        self.dropped += grown;
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    fn present(links: &[Link]) -> impl Iterator<Item = (u32, LinkAnswer)> {
        links.iter().map(|link| (link.ifindex, LinkAnswer::Present(*link)))
    }

    fn link(ifindex: u32, tx_dropped: u64) -> Link {
        Link {
            ifindex,
            tap: true,
            up: true,
            is_open: true,
            queue_len: 1,
            mtu: 1500,
            rx_frames: 0,
            // Its owner has taken some more.
            tx_frames: 1000 + tx_dropped,
            tx_dropped,
        }
    }

    #[test]
    fn what_was_dropped_since_the_last_look_counts_once() {
        let mut drops = DropWatch::default();
        assert_eq!(drops.look(present(&[link(1, 70), link(2, 5)])), 0, "dropped before");
        assert_eq!(drops.look(present(&[link(2, 5), link(1, 73)])), 3);
        assert_eq!(drops.look(present(&[link(1, 73), link(2, 6)])), 1);
        assert_eq!(drops.look(present(&[link(1, 73), link(2, 6)])), 0);
        assert_eq!(drops.dropped, 4);
    }

    #[test]
    fn an_interface_that_was_made_anew_begins_anew() {
        let mut drops = DropWatch::default();
        drops.look(present(&[link(1, 70)]));
        assert_eq!(drops.look(present(&[link(2, 5)])), 0);
        assert_eq!(drops.look(present(&[link(2, 6)])), 1);
        assert_eq!(drops.look(present(&[link(2, 0)])), 0);
        assert_eq!(drops.look(present(&[])), 0);
        assert_eq!(drops.look(present(&[link(2, 9)])), 0);
    }

    #[test]
    fn what_a_guest_misses_counts_when_it_takes_something() {
        let mut drops = DropWatch::default();
        let wedged = |tx_dropped| Link { tx_frames: 7, ..link(1, tx_dropped) };
        drops.look(present(&[wedged(0)]));
        assert!(!drops.is_owed);
        assert_eq!(drops.look(present(&[wedged(900)])), 0);
        assert!(drops.is_owed);
        assert_eq!(drops.look(present(&[Link { tx_frames: 8, ..wedged(902) }])), 902);
    }

    #[test]
    fn a_guest_that_is_gone_misses_nothing() {
        let mut drops = DropWatch::default();
        drops.look(present(&[link(1, 0)]));
        assert_eq!(drops.look(present(&[Link { is_open: false, ..link(1, 50) }])), 0);
        assert_eq!(drops.look(present(&[link(1, 60)])), 0);
    }

    /// A missing answer hides no drop of the time in between, and makes no earlier drop count again.
    #[test]
    fn an_answer_that_fails_is_made_up_for_by_the_next() {
        let mut drops = DropWatch::default();
        drops.look(present(&[link(1, 70), link(2, 5)]));
        for _ in 0..2 {
            assert_eq!(
                drops.look([(1, LinkAnswer::Unanswered), (2, LinkAnswer::Present(link(2, 6)))]),
                1
            );
            assert!(drops.is_owed, "it is asked again");
            drops.look([(1, LinkAnswer::Unanswered), (2, LinkAnswer::Unanswered)]);
            assert_eq!(drops.look(present(&[link(1, 73), link(2, 6)])), 3);
            assert!(!drops.is_owed);
            drops.look([(1, LinkAnswer::Gone), (2, LinkAnswer::Gone)]);
            assert_eq!(drops.look(present(&[link(1, 70), link(2, 5)])), 0, "made anew");
        }
    }

    /// An unknown interface begins with the counters of the first answer.
    #[test]
    fn drops_before_the_first_answer_do_not_count() {
        let mut drops = DropWatch::default();
        assert_eq!(drops.look([(1, LinkAnswer::Unanswered)]), 0);
        assert!(drops.is_owed);
        assert_eq!(drops.look(present(&[link(1, 70)])), 0);
        assert_eq!(drops.look(present(&[link(1, 71)])), 1);
    }
}

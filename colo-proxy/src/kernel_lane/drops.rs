//! What is dropped behind a kernel lane, where its frames have been counted: by the gates and the
//! guest's TAP, whose queues are full.

use crate::tunnel::Seen;

/// What was known of the interfaces behind the lane at the last look.
#[derive(Debug, Default)]
pub(super) struct DropWatch {
    known: Vec<Known>,
    /// It is to be looked again, even where nothing comes any more: something was dropped of which
    /// nobody has been told yet, because nothing is taken, or the kernel did not answer.
    pub(super) is_owed: bool,
    /// Frames dropped since the first look.
    pub(super) dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    ifindex: u32,
    dropped: u64,
    taken: u64,
}

impl DropWatch {
    /// How many frames these have dropped since the last look. One that was not there then begins
    /// with what it has, and a TAP that nobody holds has no guest that could miss them. What is dropped
    /// while nothing at all is taken counts when something is: a guest whose interface is down, or that
    /// has yet to boot, would cost a checkpoint for every broadcast. An interface of which the kernel
    /// does not answer stays known as it was, so that the next answer tells what it has dropped since.
    pub(super) fn look(&mut self, seen: impl IntoIterator<Item = (u32, Seen)>) -> u64 {
        let (mut grown, mut is_owed) = (0, false);
        let known = seen.into_iter().filter_map(|(ifindex, seen)| {
            let before = self.known.iter().find(|known| known.ifindex == ifindex).copied();
            let link = match seen {
                Seen::Gone => return None,
                Seen::Unknown => {
                    is_owed = true;
                    return before;
                }
                Seen::There(link) if !link.is_open => return None,
                Seen::There(link) => link,
            };
            if let Some(before) = before {
                if before.taken == link.tx_frames {
                    is_owed |= link.tx_dropped > before.dropped;
                    return Some(before);
                }
                grown += link.tx_dropped.saturating_sub(before.dropped);
            }
            Some(Known { ifindex, dropped: link.tx_dropped, taken: link.tx_frames })
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

    fn seen(links: &[Link]) -> impl Iterator<Item = (u32, Seen)> {
        links.iter().map(|link| (link.ifindex, Seen::There(*link)))
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
            // Whoever holds it has taken some more.
            tx_frames: 1000 + tx_dropped,
            tx_dropped,
        }
    }

    #[test]
    fn what_was_dropped_since_the_last_look_counts_once() {
        let mut drops = DropWatch::default();
        assert_eq!(drops.look(seen(&[link(1, 70), link(2, 5)])), 0, "dropped before");
        assert_eq!(drops.look(seen(&[link(2, 5), link(1, 73)])), 3);
        assert_eq!(drops.look(seen(&[link(1, 73), link(2, 6)])), 1);
        assert_eq!(drops.look(seen(&[link(1, 73), link(2, 6)])), 0);
        assert_eq!(drops.dropped, 4);
    }

    #[test]
    fn an_interface_that_was_made_anew_begins_anew() {
        let mut drops = DropWatch::default();
        drops.look(seen(&[link(1, 70)]));
        assert_eq!(drops.look(seen(&[link(2, 5)])), 0);
        assert_eq!(drops.look(seen(&[link(2, 6)])), 1);
        assert_eq!(drops.look(seen(&[link(2, 0)])), 0);
        assert_eq!(drops.look(seen(&[])), 0);
        assert_eq!(drops.look(seen(&[link(2, 9)])), 0);
    }

    #[test]
    fn what_a_guest_misses_counts_when_it_takes_something() {
        let mut drops = DropWatch::default();
        let wedged = |tx_dropped| Link { tx_frames: 7, ..link(1, tx_dropped) };
        drops.look(seen(&[wedged(0)]));
        assert!(!drops.is_owed);
        assert_eq!(drops.look(seen(&[wedged(900)])), 0);
        assert!(drops.is_owed);
        assert_eq!(drops.look(seen(&[Link { tx_frames: 8, ..wedged(902) }])), 902);
    }

    #[test]
    fn a_guest_that_is_gone_misses_nothing() {
        let mut drops = DropWatch::default();
        drops.look(seen(&[link(1, 0)]));
        assert_eq!(drops.look(seen(&[Link { is_open: false, ..link(1, 50) }])), 0);
        assert_eq!(drops.look(seen(&[link(1, 60)])), 0);
    }

    /// A question that is not answered neither hides what is dropped meanwhile nor counts again what
    /// was dropped before.
    #[test]
    fn an_answer_that_fails_is_made_up_for_by_the_next() {
        let mut drops = DropWatch::default();
        drops.look(seen(&[link(1, 70), link(2, 5)]));
        for _ in 0..2 {
            assert_eq!(drops.look([(1, Seen::Unknown), (2, Seen::There(link(2, 6)))]), 1);
            assert!(drops.is_owed, "it is asked again");
            drops.look([(1, Seen::Unknown), (2, Seen::Unknown)]);
            assert_eq!(drops.look(seen(&[link(1, 73), link(2, 6)])), 3);
            assert!(!drops.is_owed);
            drops.look([(1, Seen::Gone), (2, Seen::Gone)]);
            assert_eq!(drops.look(seen(&[link(1, 70), link(2, 5)])), 0, "made anew");
        }
    }

    /// One of which nothing was known begins with the first answer.
    #[test]
    fn what_was_dropped_before_the_first_answer_is_of_the_past() {
        let mut drops = DropWatch::default();
        assert_eq!(drops.look([(1, Seen::Unknown)]), 0);
        assert!(drops.is_owed);
        assert_eq!(drops.look(seen(&[link(1, 70)])), 0);
        assert_eq!(drops.look(seen(&[link(1, 71)])), 1);
    }
}

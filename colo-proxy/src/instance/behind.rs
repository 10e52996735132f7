//! What is dropped behind a kernel lane, where its frames have been counted: by the gates and the
//! guest's TAP, whose queues are full.

use crate::link::Link;

/// What was known of the interfaces behind the lane at the last look.
#[derive(Debug, Default)]
pub(super) struct Behind {
    known: Vec<Known>,
    /// Something was dropped of which nobody has been told yet, because nothing is taken.
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

impl Behind {
    /// How many frames these have dropped since the last look. One that was not there then begins
    /// with what it has, and a TAP that nobody holds has no guest that could miss them. What is dropped
    /// while nothing at all is taken counts when something is: a guest whose interface is down, or that
    /// has yet to boot, would cost a checkpoint for every broadcast.
    pub(super) fn look(&mut self, links: &[Link]) -> u64 {
        let mut grown = 0;
        let mut is_owed = false;
        let known = links.iter().filter(|link| link.held).map(|link| {
            let before = self.known.iter().find(|known| known.ifindex == link.ifindex);
            if let Some(before) = before {
                if before.taken == link.tx_frames {
                    is_owed |= link.tx_dropped > before.dropped;
                    return *before;
                }
                grown += link.tx_dropped.saturating_sub(before.dropped);
            }
            Known { ifindex: link.ifindex, dropped: link.tx_dropped, taken: link.tx_frames }
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

    fn link(ifindex: u32, tx_dropped: u64) -> Link {
        Link {
            ifindex,
            tap: true,
            up: true,
            held: true,
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
        let mut behind = Behind::default();
        assert_eq!(behind.look(&[link(1, 70), link(2, 5)]), 0, "dropped before");
        assert_eq!(behind.look(&[link(2, 5), link(1, 73)]), 3);
        assert_eq!(behind.look(&[link(1, 73), link(2, 6)]), 1);
        assert_eq!(behind.look(&[link(1, 73), link(2, 6)]), 0);
        assert_eq!(behind.dropped, 4);
    }

    #[test]
    fn an_interface_that_was_made_anew_begins_anew() {
        let mut behind = Behind::default();
        behind.look(&[link(1, 70)]);
        assert_eq!(behind.look(&[link(2, 5)]), 0);
        assert_eq!(behind.look(&[link(2, 6)]), 1);
        assert_eq!(behind.look(&[link(2, 0)]), 0);
        assert_eq!(behind.look(&[]), 0);
        assert_eq!(behind.look(&[link(2, 9)]), 0);
    }

    #[test]
    fn what_a_guest_misses_counts_when_it_takes_something() {
        let mut behind = Behind::default();
        let wedged = |tx_dropped| Link { tx_frames: 7, ..link(1, tx_dropped) };
        behind.look(&[wedged(0)]);
        assert!(!behind.is_owed);
        assert_eq!(behind.look(&[wedged(900)]), 0);
        assert!(behind.is_owed);
        assert_eq!(behind.look(&[Link { tx_frames: 8, ..wedged(902) }]), 902);
    }

    #[test]
    fn a_guest_that_is_gone_misses_nothing() {
        let mut behind = Behind::default();
        behind.look(&[link(1, 0)]);
        assert_eq!(behind.look(&[Link { held: false, ..link(1, 50) }]), 0);
        assert_eq!(behind.look(&[link(1, 60)]), 0);
    }
}

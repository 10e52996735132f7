//! A sequence space unwrapped: 32-bit numbers become places on a line of 64 bits.

use colo_proxy_common::seq::Seq;

/// Numbers farther than this from the last one seen are not of this stream. Windows end at 2^30
/// (RFC 7323, section 2.3).
const REACH: i64 = 1 << 30;

/// The last number seen, and its place on the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct SequenceSpace {
    seq: Seq,
    place: i64,
}

impl SequenceSpace {
    /// A space in which `seq` lies at `place`.
    pub(super) const fn new(seq: Seq, place: i64) -> Self {
        Self { seq, place }
    }

    /// The place of `seq`, or `None` where it is not of this stream.
    #[inline]
    pub(super) fn place(self, seq: Seq) -> Option<i64> {
        let distance = i64::from(seq.since(self.seq));
        (-REACH..=REACH).contains(&distance).then_some(self.place + distance)
    }

    /// The place of the last number seen.
    #[inline]
    pub(super) fn last(self) -> i64 {
        self.place
    }

    /// The number at `place`.
    #[inline]
    pub(super) fn seq(self, place: i64) -> Seq {
        self.seq.plus((place - self.place) as u32)
    }

    /// Moves on to `place`, if it is ahead.
    #[inline]
    pub(super) fn advance(&mut self, place: i64) {
        if place > self.place {
            self.seq = self.seq.plus((place - self.place) as u32);
            self.place = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SequenceSpace;
    use colo_proxy_common::seq::Seq;

    #[test]
    fn places_go_on_through_the_wrap() {
        let mut space = SequenceSpace::new(Seq(u32::MAX - 9), 0);
        assert_eq!(space.place(Seq(10)), Some(20));
        assert_eq!((space.seq(20), space.seq(-1)), (Seq(10), Seq(u32::MAX - 10)));
        space.advance(20);
        assert_eq!(space.place(Seq(u32::MAX)), Some(9));
        for turn in 1..20_i64 {
            space.advance(20 + (turn << 29));
        }
        assert_eq!(space.place(Seq(10u32.wrapping_add(19 << 29))), Some(20 + (19 << 29)));
    }

    #[test]
    fn far_numbers_are_of_another_stream() {
        let space = SequenceSpace::new(Seq(0), 0);
        assert_eq!(space.place(Seq(1 << 30)), Some(1 << 30));
        assert_eq!(space.place(Seq((1 << 30) + 1)), None);
        assert_eq!(space.place(Seq(0u32.wrapping_sub((1 << 30) + 1))), None);
    }
}

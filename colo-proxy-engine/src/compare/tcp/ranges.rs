//! The places of a stream that both guests produced alike.

/// Ranges remembered apart from each other; a range too many is forgotten, which can only hold a
/// frame longer than needed.
const RANGES_MAX: usize = 256;

/// Disjoint half-open ranges in ascending order, none touching the next.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamRanges {
    /// The last one, mostly the only one; `NONE` where there is none at all.
    last: (i64, i64),
    earlier: Vec<(i64, i64)>,
}

/// An empty range.
const NONE: (i64, i64) = (0, 0);

impl StreamRanges {
    /// Adds `start..end`.
    #[inline]
    pub(super) fn add(&mut self, start: i64, end: i64) {
        if start >= end {
            return;
        }
        // The stream moves on at its end: nearly always the last range grows.
        if (self.last.0..=self.last.1).contains(&start) {
            self.last.1 = self.last.1.max(end);
        } else if self.last == NONE {
            self.last = (start, end);
        } else {
            self.add_elsewhere(start, end);
        }
    }

    /// Adds `start..end`, which does not start in the last range.
    fn add_elsewhere(&mut self, start: i64, end: i64) {
        let list = &mut self.earlier;
        list.push(self.last);
        let from = list.partition_point(|range| range.1 < start);
        let to = list.partition_point(|range| range.0 <= end);
        if let (true, Some(first), Some(last)) =
            (from < to, list.get(from).copied(), list.get(to.wrapping_sub(1)).copied())
        {
            if let Some(merged) = list.get_mut(from) {
                *merged = (first.0.min(start), last.1.max(end));
            }
            list.drain(from + 1..to);
        } else {
            list.insert(from, (start, end));
            if list.len() > RANGES_MAX {
                list.remove(0);
            }
        }
        self.last = list.pop().unwrap_or(NONE);
    }

    /// It contains `start..end` and no more.
    #[inline]
    pub(super) fn is(&self, start: i64, end: i64) -> bool {
        let only = if start == end { NONE } else { (start, end) };
        self.last == only && self.earlier.is_empty()
    }

    /// Forgets everything but `start..end`.
    #[inline]
    pub(super) fn set(&mut self, start: i64, end: i64) {
        self.earlier.clear();
        self.last = if start < end { (start, end) } else { NONE };
    }

    /// All of `start..end` is in; an empty range always is.
    #[inline]
    pub(super) fn covers(&self, start: i64, end: i64) -> bool {
        if start >= end {
            return true;
        }
        // Nearly always the last range, and mostly the only one.
        if self.last.0 <= start {
            return end <= self.last.1;
        }
        let at = self.earlier.partition_point(|range| range.1 <= start);
        self.earlier.get(at).is_some_and(|range| range.0 <= start && end <= range.1)
    }

    /// The first part of `start..end` that is not in.
    #[inline]
    pub(super) fn gap(&self, start: i64, end: i64) -> Option<(i64, i64)> {
        // Nearly always behind all of them, or in the last one.
        if self.last.0 <= start {
            let from = start.max(self.last.1);
            return (from < end).then_some((from, end));
        }
        let mut from = start;
        let mut at = self.earlier.partition_point(|range| range.1 <= start);
        if let Some(range) = self.earlier.get(at)
            && range.0 <= from
        {
            from = range.1;
            at += 1;
        }
        let next = self.earlier.get(at).or((self.last != NONE).then_some(&self.last));
        let to = next.map_or(end, |range| range.0.min(end));
        (from < to).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::{NONE, RANGES_MAX, StreamRanges};

    fn all(ranges: &StreamRanges) -> Vec<(i64, i64)> {
        let last = (ranges.last != NONE).then_some(ranges.last);
        ranges.earlier.iter().copied().chain(last).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut ranges = StreamRanges::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (20, 30), (40, 50), (0, 10)] {
            ranges.add(start, end);
        }
        assert_eq!(all(&ranges), [(0, 60)]);
        ranges.add(100, 110);
        ranges.add(120, 130);
        ranges.add(-5, 125);
        assert_eq!(all(&ranges), [(-5, 130)]);
    }

    #[test]
    fn the_oldest_range_too_many_is_forgotten() {
        let mut ranges = StreamRanges::default();
        for n in 0..1000_i64 {
            ranges.add(n * 10, n * 10 + 1);
        }
        assert_eq!(all(&ranges).len(), RANGES_MAX);
        assert!(ranges.covers(9990, 9991) && !ranges.covers(0, 1));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_set_of_places(
            adds in proptest::collection::vec((0..100_i64, 0..30_i64), 0..40),
            ask in (0..100_i64, 0..30_i64),
        ) {
            let mut ranges = StreamRanges::default();
            let mut places = [false; 200];
            for (start, len) in adds {
                ranges.add(start, start + len);
                for place in start..start + len {
                    places[place as usize] = true;
                }
            }
            let (start, end) = (ask.0, ask.0 + ask.1);
            let has_all = (start..end).all(|place| places[place as usize]);
            proptest::prop_assert_eq!(ranges.covers(start, end), has_all);
            let from = (start..end).find(|place| !places[*place as usize]);
            let to = from.map(|from| (from..end).find(|p| places[*p as usize]).unwrap_or(end));
            proptest::prop_assert_eq!(ranges.gap(start, end), from.zip(to));
            proptest::prop_assert!(all(&ranges).windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}

//! The places of a stream that both guests produced alike.

/// Ranges remembered apart from each other; a range too many is forgotten, which can only hold a
/// frame longer than needed.
const RANGES_MAX: usize = 256;

/// Disjoint half-open ranges in ascending order, none touching the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    list: Vec<(i64, i64)>,
}

impl Ranges {
    /// Adds `start..end`.
    #[inline]
    pub(super) fn add(&mut self, start: i64, end: i64) {
        if start >= end {
            return;
        }
        // The stream moves on at its end: nearly always the last range grows.
        if let Some(last) = self.list.last_mut()
            && (last.0..=last.1).contains(&start)
        {
            last.1 = last.1.max(end);
            return;
        }
        let from = self.list.partition_point(|range| range.1 < start);
        let to = self.list.partition_point(|range| range.0 <= end);
        if let (true, Some(first), Some(last)) =
            (from < to, self.list.get(from).copied(), self.list.get(to.wrapping_sub(1)).copied())
        {
            if let Some(merged) = self.list.get_mut(from) {
                *merged = (first.0.min(start), last.1.max(end));
            }
            self.list.drain(from + 1..to);
        } else {
            self.list.insert(from, (start, end));
            if self.list.len() > RANGES_MAX {
                self.list.remove(0);
            }
        }
    }

    /// What is in is `start..end` and no more.
    #[inline]
    pub(super) fn is(&self, start: i64, end: i64) -> bool {
        match self.list.as_slice() {
            [] => start == end,
            [only] => *only == (start, end),
            _ => false,
        }
    }

    /// Forgets everything but `start..end`.
    #[inline]
    pub(super) fn set(&mut self, start: i64, end: i64) {
        self.list.clear();
        if start < end {
            self.list.push((start, end));
        }
    }

    /// All of `start..end` is in; an empty range always is.
    #[inline]
    pub(super) fn covers(&self, start: i64, end: i64) -> bool {
        if start >= end {
            return true;
        }
        // Nearly always the last range, and mostly the only one.
        match self.list.last() {
            Some(last) if last.0 <= start => end <= last.1,
            _ => {
                let at = self.list.partition_point(|range| range.1 <= start);
                self.list.get(at).is_some_and(|range| range.0 <= start && end <= range.1)
            }
        }
    }

    /// The first part of `start..end` that is not in.
    #[inline]
    pub(super) fn gap(&self, start: i64, end: i64) -> Option<(i64, i64)> {
        // Nearly always behind all of them, or in the last one.
        if let Some(last) = self.list.last()
            && last.0 <= start
        {
            let from = start.max(last.1);
            return (from < end).then_some((from, end));
        }
        let mut from = start;
        let mut at = self.list.partition_point(|range| range.1 <= start);
        if let Some(range) = self.list.get(at)
            && range.0 <= from
        {
            from = range.1;
            at += 1;
        }
        let to = self.list.get(at).map_or(end, |range| range.0.min(end));
        (from < to).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::{RANGES_MAX, Ranges};

    #[test]
    fn ranges_that_touch_become_one() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (20, 30), (40, 50), (0, 10)] {
            ranges.add(start, end);
        }
        assert_eq!(ranges.list, [(0, 60)]);
        ranges.add(100, 110);
        ranges.add(120, 130);
        ranges.add(-5, 125);
        assert_eq!(ranges.list, [(-5, 130)]);
    }

    #[test]
    fn the_oldest_range_too_many_is_forgotten() {
        let mut ranges = Ranges::default();
        for n in 0..1000_i64 {
            ranges.add(n * 10, n * 10 + 1);
        }
        assert_eq!(ranges.list.len(), RANGES_MAX);
        assert!(ranges.covers(9990, 9991) && !ranges.covers(0, 1));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_set_of_places(
            adds in proptest::collection::vec((0..100_i64, 0..30_i64), 0..40),
            ask in (0..100_i64, 0..30_i64),
        ) {
            let mut ranges = Ranges::default();
            let mut places = [false; 200];
            for (start, len) in adds {
                ranges.add(start, start + len);
                for place in start..start + len {
                    places[place as usize] = true;
                }
            }
            let (start, end) = (ask.0, ask.0 + ask.1);
            let all = (start..end).all(|place| places[place as usize]);
            proptest::prop_assert_eq!(ranges.covers(start, end), all);
            let from = (start..end).find(|place| !places[*place as usize]);
            let to = from.map(|from| (from..end).find(|p| places[*p as usize]).unwrap_or(end));
            proptest::prop_assert_eq!(ranges.gap(start, end), from.zip(to));
            proptest::prop_assert!(ranges.list.windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}

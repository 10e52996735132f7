//! Which bytes of a frame make a datagram, and when two datagrams are equal.

/// Datagrams in one frame: Linux segments a frame into 128 at most (`UDP_MAX_SEGMENTS`). A frame that
/// says more is compared as it is, so that small frames cannot fill large tables.
const BATCH_MAX: u32 = 1024;

/// One datagram, by the bytes of it that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DatagramBytes {
    /// Where they start in the Ethernet frame.
    pub(super) at: u32,
    /// One past their end.
    pub(super) end: u32,
    /// Bytes behind the IP header that lie before `at`: where a report counts from.
    pub(super) lead: u32,
    /// A number that must be equal too: a length field, or the place of a fragment.
    pub(super) label: u32,
    /// Where, from `at` on, a part begins and ends that does not count.
    pub(super) hole: (u32, u32),
}

/// The compared part of a frame: one datagram, or several with UDP segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DatagramBody {
    whole: DatagramBytes,
    /// Bytes of each datagram but the last; 0 where the frame is a single one.
    batch: u32,
}

impl From<DatagramBytes> for DatagramBody {
    fn from(whole: DatagramBytes) -> Self {
        Self { whole, batch: 0 }
    }
}

impl DatagramBytes {
    /// All of `at..end`.
    pub(super) fn plain(at: u32, end: u32) -> Self {
        Self { at, end: end.max(at), ..Self::default() }
    }

    /// Its bytes in the Ethernet frame `all`.
    pub(super) fn octets(self, all: &[u8]) -> &[u8] {
        all.get(self.at as usize..self.end as usize).unwrap_or_default()
    }

    /// The parts of `octets`, its own, that count.
    pub(super) fn parts(self, octets: &[u8]) -> [&[u8]; 2] {
        let (from, to) = (self.hole.0 as usize, self.hole.1 as usize);
        match (octets.get(..from), octets.get(to..)) {
            (Some(before), Some(behind)) if from < to => [before, behind],
            _ => [octets, &[]],
        }
    }

    /// `ours`, the bytes of this one, are the same as `theirs`, those of `other`.
    pub(super) fn is_same(self, ours: &[u8], other: Self, theirs: &[u8]) -> bool {
        self.label == other.label && self.parts(ours) == other.parts(theirs)
    }

    /// The first place in `ours` that differs from `theirs`.
    pub(super) fn difference(self, ours: &[u8], theirs: &[u8]) -> usize {
        let hole = self.hole.0 as usize..self.hole.1 as usize;
        let both = ours.len().min(theirs.len());
        (0..both).find(|at| !hole.contains(at) && ours.get(*at) != theirs.get(*at)).unwrap_or(both)
    }
}

impl DatagramBody {
    /// A UDP datagram whose payload is `whole`, to be segmented into datagrams of `size` bytes each.
    pub(super) fn udp_batch(whole: DatagramBytes, size: u16) -> Self {
        let (size, len) = (u32::from(size), whole.end - whole.at);
        if size == 0 || len <= size {
            return Self { whole: DatagramBytes { label: udp_len(len), ..whole }, batch: 0 };
        }
        if len.div_ceil(size) > BATCH_MAX {
            // No length field says this, so only an equal frame matches it.
            return Self { whole: DatagramBytes { label: 1 << 31 | size, ..whole }, batch: 0 };
        }
        Self { whole, batch: size }
    }

    /// The one datagram of most frames.
    pub(super) fn single(&self) -> Option<DatagramBytes> {
        (self.batch == 0).then_some(self.whole)
    }

    /// Where the first of several datagrams starts: headers that all of them share lie before.
    pub(super) fn head_len(&self) -> Option<usize> {
        (self.batch != 0).then_some(self.whole.at as usize)
    }

    /// The datagrams in order.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = DatagramBytes> + use<> {
        let Self { whole, batch } = *self;
        let count = if batch == 0 { 1 } else { (whole.end - whole.at).div_ceil(batch) };
        (0..count).map(move |n| {
            if batch == 0 {
                return whole;
            }
            let at = whole.at + n * batch;
            let end = whole.end.min(at + batch);
            DatagramBytes { at, end, label: udp_len(end - at), ..whole }
        })
    }
}

/// The length field of a UDP datagram with `payload` bytes of data.
fn udp_len(payload: u32) -> u32 {
    payload + 8
}

#[cfg(test)]
mod tests {
    use super::{BATCH_MAX, DatagramBody, DatagramBytes};

    #[test]
    fn a_batch_is_cut_where_the_kernel_cuts_it() {
        let payload = DatagramBytes { lead: 8, ..DatagramBytes::plain(42, 1042) };
        let cuts = |size| -> Vec<_> {
            DatagramBody::udp_batch(payload, size)
                .datagrams()
                .map(|d| (d.at, d.end, d.label))
                .collect()
        };
        assert_eq!(cuts(400), [(42, 442, 408), (442, 842, 408), (842, 1042, 208)]);
        assert_eq!(cuts(500), [(42, 542, 508), (542, 1042, 508)]);
        for whole in [0, 1000, 65535] {
            assert_eq!(cuts(whole), [(42, 1042, 1008)]);
        }
    }

    #[test]
    fn too_many_cuts_are_none() {
        let body = |len| DatagramBody::udp_batch(DatagramBytes::plain(42, 42 + len), 1);
        assert_eq!(body(BATCH_MAX).datagrams().count(), BATCH_MAX as usize);
        assert_eq!(body(BATCH_MAX + 1).datagrams().count(), 1);
    }

    #[test]
    fn a_hole_does_not_count_and_everything_around_it_does() {
        let holed = DatagramBytes { hole: (2, 4), ..DatagramBytes::plain(0, 6) };
        assert!(holed.is_same(b"abXXef", holed, b"abYYef"));
        assert!(!holed.is_same(b"abXXef", holed, b"abXXeg"));
        assert!(!holed.is_same(b"abXXef", holed, b"aaXXef"));
        assert_eq!(holed.difference(b"abXXef", b"abYYeg"), 5);
        assert!(!holed.is_same(b"abXXef", DatagramBytes { label: 1, ..holed }, b"abXXef"));
    }
}

//! TCP sequence numbers: 32-bit serial arithmetic (RFC 9293, section 3.4).

use core::cmp::Ordering;

/// A TCP sequence or acknowledgment number.
///
/// Deliberately not `Ord`: "before" is only defined between numbers less than 2^31 apart, and is
/// not transitive around the circle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Seq(pub u32);

impl Seq {
    /// The signed distance from `other` to `self`.
    #[inline]
    pub const fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// `self` lies strictly before `other`.
    #[inline]
    pub const fn before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// `self` lies strictly after `other`.
    #[inline]
    pub const fn after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// Advanced by `bytes`, modulo 2^32.
    #[inline]
    #[must_use]
    pub const fn plus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Taken back by `bytes`, modulo 2^32.
    #[inline]
    #[must_use]
    pub const fn minus(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// The later of the two.
    #[inline]
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[inline]
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if other.before(self) { other } else { self }
    }

    /// The order of `self` and `other`, which are within 2^31 of each other.
    #[inline]
    pub fn cmp_near(self, other: Self) -> Ordering {
        self.since(other).cmp(&0)
    }
}

impl core::fmt::Display for Seq {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Seq;

    #[test]
    fn order_survives_the_wrap() {
        let (old, new) = (Seq(u32::MAX - 1), Seq(3));
        assert!(old.before(new) && new.after(old));
        assert_eq!(new.since(old), 5);
        assert_eq!((old.max(new), old.min(new)), (new, old));
        assert_eq!(old.plus(5), new);
        assert_eq!(new.minus(5), old);
    }
}

//! State that is seldom used: a flag in front of it says that it is empty, so nobody fetches its
//! memory to find out.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value behind a flag. The flag is set if anybody could have changed the value since it was
/// empty.
#[derive(Default)]
#[repr(C)]
pub(super) struct MaybeEmpty<T> {
    is_used: bool,
    value: T,
}

impl<T> MaybeEmpty<T> {
    /// The value, unless it is known to be empty.
    #[inline]
    pub(super) fn used(&self) -> Option<&T> {
        self.is_used.then_some(&self.value)
    }

    /// The same, to change it.
    #[inline]
    pub(super) fn used_mut(&mut self) -> Option<&mut T> {
        self.is_used.then_some(&mut self.value)
    }

    /// Notes that the value is empty, which the caller knows. Nobody looks at it then.
    #[inline]
    pub(super) fn set_empty(&mut self) {
        self.is_used = false;
    }
}

impl<T> Deref for MaybeEmpty<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MaybeEmpty<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.is_used = true;
        &mut self.value
    }
}

/// Omits the flag: it does not describe the connection.
impl<T: fmt::Debug> fmt::Debug for MaybeEmpty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

//! What is seldom used, so that nobody needs to look at it to know that there is nothing.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value, and in front of it whether anybody has had it to change since it was empty.
#[derive(Default)]
#[repr(C)]
pub(super) struct MaybeEmpty<T> {
    is_used: bool,
    value: T,
}

impl<T> MaybeEmpty<T> {
    /// The value, unless it is as empty as it was.
    #[inline]
    pub(super) fn used(&self) -> Option<&T> {
        self.is_used.then_some(&self.value)
    }

    /// The same, to change it.
    #[inline]
    pub(super) fn used_mut(&mut self) -> Option<&mut T> {
        self.is_used.then_some(&mut self.value)
    }

    /// Nobody needs to look at the value; the caller knows that it is empty.
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

/// Whether it was used says nothing of the connection.
impl<T: fmt::Debug> fmt::Debug for MaybeEmpty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

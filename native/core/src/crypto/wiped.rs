// SPDX-License-Identifier: BSD-2-Clause
//! Key schedules of libraries that do not wipe them: kept in one place on the heap, overwritten when they go.
//!
//! What a library copied on the stack while it made the schedule is out of reach without unsafe code.

use std::hint::black_box;
use std::ops::Deref;

/// A value that is overwritten by `blank()` before its memory is given back.
pub(crate) struct Wiped<T> {
    value: Box<T>,
    blank: fn() -> T,
}

impl<T> Wiped<T> {
    pub(crate) fn new(value: T, blank: fn() -> T) -> Self {
        Self { value: Box::new(value), blank }
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        *self.value = (self.blank)();
        // Without somebody who might look, the compiler may leave the writing out.
        black_box(&self.value);
    }
}

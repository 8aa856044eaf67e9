// SPDX-License-Identifier: BSD-2-Clause
//! State that one worker uses all the time and others now and then.
//!
//! A plain mutex would let a worker that is always busy take it again and again; here whoever else waits goes first.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) struct Gate<T> {
    waiting: AtomicUsize,
    state: Mutex<T>,
}

impl<T> Gate<T> {
    pub(crate) fn new(state: T) -> Self {
        Self { waiting: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// For the worker: its next turn, after everybody else who wants in. Returns none after a panic inside.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'_, T>> {
        while self.waiting.load(SeqCst) > 0 {
            std::thread::yield_now();
        }
        self.state.lock().ok()
    }

    /// For whoever has something better to do than to wait, or to have others wait.
    pub(crate) fn try_enter(&self) -> Option<MutexGuard<'_, T>> {
        if self.waiting.load(SeqCst) > 0 { None } else { self.state.try_lock().ok() }
    }

    /// For everybody else; after a panic inside there is still something to be taken apart.
    pub(crate) fn enter(&self) -> MutexGuard<'_, T> {
        self.waiting.fetch_add(1, SeqCst);
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, SeqCst);
        guard
    }
}

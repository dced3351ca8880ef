//! The byte budget: a counting semaphore over everything that is buffered.
//!
//! A permit goes along with the bytes it stands for and shrinks with them, so
//! the sum of all permits is the sum of all buffers. Whoever produces bytes
//! waits; whoever consumes never asks for more, which is why nobody waits for
//! ever as long as the budget exceeds what a collector may hold back.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a waiting thread looks whether it should give up.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Budget {
    free: Mutex<usize>,
    returned: Condvar,
    total: usize,
}

/// So many bytes of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new(total), returned: Condvar::new(), total })
    }

    /// Waits for `bytes`; more than all there is counts as all there is.
    /// `None` once `stop` says so.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, stop: &dyn Fn() -> bool) -> Option<Permit> {
        // One frame larger than the whole budget goes alone; it would wait for ever otherwise.
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            if stop() {
                return None;
            }
            free = self.returned.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= bytes;
        Some(Permit { budget: Arc::clone(self), bytes })
    }

    fn give_back(&self, bytes: usize) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.returned.notify_all();
    }
}

impl Permit {
    /// Keeps `bytes`, gives the rest back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.budget.give_back(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// Takes over what `other` stands for.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_add_up_and_come_back() {
        let budget = Budget::new(100);
        let never = || false;
        let mut a = budget.take(60, &never).unwrap();
        let b = budget.take(40, &never).unwrap();
        assert!(budget.take(1, &|| true).is_none());
        a.shrink(10);
        let c = budget.take(50, &never).unwrap();
        a.join(c);
        drop(a);
        drop(b);
        assert!(budget.take(100, &|| true).is_some());
    }

    #[test]
    fn asking_for_more_than_there_is_waits_for_everything() {
        let budget = Budget::new(10);
        let all = budget.take(1000, &|| false).unwrap();
        assert!(budget.take(1, &|| true).is_none());
        drop(all);
        assert!(budget.take(10, &|| true).is_some());
    }
}

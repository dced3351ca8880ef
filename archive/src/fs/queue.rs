//! A bounded queue between plain threads, with several takers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(room: usize) -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), closed: false }),
            changed: Condvar::new(),
            room,
        }
    }

    /// Waits for room. False, and the item dropped, once the queue is closed.
    pub(crate) fn put(&self, item: T) -> bool {
        let mut state = self.lock();
        while !state.closed && state.items.len() >= self.room {
            // Takers and putters wait for the same condition, so every change notifies all.
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.items.push_back(item);
        self.changed.notify_all();
        true
    }

    /// Waits for an item; `None` once the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                self.changed.notify_all();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for one item, then takes what follows until `full` says so of what
    /// was taken, nothing has come for `linger`, or the queue is closed. Empty
    /// only when the queue is closed and empty.
    pub(crate) fn take_batch(&self, linger: Duration, mut full: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(first) = self.take() else { return Vec::new() };
        let mut done = full(&first);
        let mut batch = vec![first];
        let mut state = self.lock();
        while !done {
            if let Some(item) = state.items.pop_front() {
                done = full(&item);
                batch.push(item);
                self.changed.notify_all();
                continue;
            }
            if state.closed {
                break;
            }
            let (next, waited) =
                self.changed.wait_timeout(state, linger).unwrap_or_else(PoisonError::into_inner);
            state = next;
            // An item may have come in the very moment the time was up.
            done = waited.timed_out() && state.items.is_empty();
        }
        batch
    }

    /// Nothing more comes in; what is there can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Nothing more comes in and what is there is thrown away.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.items.clear();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_put_before_closing_is_taken_once() {
        let queue = Queue::new(2);
        let sum = std::thread::scope(|scope| {
            let takers: Vec<_> =
                (0..3).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.take()).sum::<u64>())).collect();
            assert!((1..=1000).all(|n| queue.put(n)));
            queue.close();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum::<u64>()
        });
        assert_eq!(sum, 500_500);
        assert!(!queue.put(1));
    }

    #[test]
    fn a_batch_ends_when_full_or_closed() {
        let queue = Queue::new(10);
        (0..5).for_each(|n| assert!(queue.put(n)));
        let long = Duration::from_secs(3600);
        assert_eq!(queue.take_batch(long, |&n| n == 2), [0, 1, 2]);
        assert_eq!(queue.take_batch(Duration::ZERO, |_| false), [3, 4]);
        assert!(queue.put(5));
        queue.close();
        assert_eq!(queue.take_batch(long, |_| false), [5]);
        assert!(queue.take_batch(long, |_| false).is_empty());
    }
}

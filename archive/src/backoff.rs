//! How long to wait before something that failed is tried again.
//!
//! The loops that try again differ in what ends them and in what interrupts a
//! pause, and some keep the count of failures on disk. What they share is this.

use std::time::Duration;

/// Doublings after which any pause in use is at its cap, and no shift overflows.
const MAX_DOUBLINGS: u32 = 16;

/// Pauses that double from `first` to `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after `failures` in a row, from 1: between half of `first`, doubled with each
    /// further failure up to `longest`, and all of that ("equal jitter", M. Brooker,
    /// "Exponential Backoff And Jitter", 2015). A fleet which lost its controller or its store
    /// at one moment does not come back at one.
    pub fn pause(&self, failures: u32) -> Duration {
        self.most(failures).mul_f64(rand::random_range(0.5..=1.0))
    }

    fn most(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

    #[test]
    fn pauses_double_up_to_the_longest() {
        let most = [0, 1, 2, 3, 6, 7, 100, u32::MAX].map(|failures| BACKOFF.most(failures).as_secs());
        assert_eq!(most, [1, 1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn pauses_are_drawn_from_the_upper_half() {
        for failures in [1, 3, u32::MAX] {
            let most = BACKOFF.most(failures);
            let drawn: Vec<Duration> = (0..100).map(|_| BACKOFF.pause(failures)).collect();
            assert!(drawn.iter().all(|pause| *pause >= most / 2 && *pause <= most), "{drawn:?}");
            assert!(drawn.iter().any(|pause| *pause != drawn[0]), "{drawn:?}");
        }
    }
}

//! How patient the jobs are. One place, read once, passed along.

use std::time::Duration;

/// Limits of driving jobs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Times a job is started on its host before it is given up.
    pub attempts: u32,
    /// Pause before the second attempt; doubled from one to the next.
    pub retry_first: Duration,
    pub retry_most: Duration,
    /// A running job whose host stays away this long has failed.
    pub host_gone: Duration,
    /// A queued job whose host does not come at all in this time has failed.
    pub host_never: Duration,
    /// A stream that says nothing for so long is opened anew.
    pub stream_idle: Duration,
    /// After asking an agent to cancel, how long its answer is awaited.
    pub cancel_wait: Duration,
    /// Deadline of one short call to an agent.
    pub call: Duration,
    /// Deadline of a call for which an agent may have to fetch an image.
    pub fetch: Duration,
    /// Jobs that run at the same time, over all hosts.
    pub running_most: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 5,
            retry_first: Duration::from_secs(1),
            retry_most: Duration::from_mins(1),
            host_gone: Duration::from_hours(1),
            host_never: Duration::from_hours(24),
            stream_idle: Duration::from_mins(10),
            cancel_wait: Duration::from_mins(2),
            call: Duration::from_secs(30),
            fetch: Duration::from_mins(20),
            running_most: 32,
        }
    }
}

impl Settings {
    /// Pause after `failures` failures in a row, from 1. A quarter of it is
    /// drawn, so that a fleet that lost its controller does not come back as
    /// one.
    pub fn retry_pause(&self, failures: u32) -> Duration {
        let doubled = self.retry_first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(self.retry_most);
        pause.mul_f64(rand::random_range(0.75..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let settings = Settings::default();
        assert!(settings.retry_pause(1) <= Duration::from_secs(1));
        assert!(settings.retry_pause(3) >= Duration::from_secs(3));
        assert!(settings.retry_pause(u32::MAX) <= Duration::from_mins(1));
    }
}

//! How patient the jobs are. One place, read once, passed along.

use std::time::Duration;

use holdfast_archive::backoff::Backoff;

/// Limits of driving jobs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Times a job is started on its host before it is given up.
    pub attempts: u32,
    /// Pauses before the second attempt and the later ones.
    pub retry: Backoff,
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
            retry: Backoff::new(Duration::from_secs(1), Duration::from_mins(1)),
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
    /// Pause after `failures` failures in a row, from 1.
    pub fn retry_pause(&self, failures: u32) -> Duration {
        self.retry.pause(failures)
    }
}

//! Acts at a deadline whatever the job it watches is doing.
//!
//! The watched work may be blocked in a read or wait for the controller; the
//! watchdog is a task of its own and needs nothing from it. It ends with its
//! guard.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Dropping it calls the watchdog off.
#[derive(Debug)]
#[must_use = "a watchdog that is dropped watches nothing"]
pub(crate) struct Watchdog {
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Runs `act` at `deadline` unless the guard is dropped before. Once begun
    /// it runs to its end.
    pub(crate) fn arm(deadline: Instant, act: impl Future<Output = ()> + Send + 'static) -> Self {
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            // A task of its own: the guard's abort must not cut it in half.
            tokio::spawn(act);
        });
        Self { task }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Where the deadline passed already this hits a task that has done its part.
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_acts_while_the_watched_work_is_stuck() {
        let acted = Arc::new(Notify::new());
        let watchdog = {
            let acted = acted.clone();
            Watchdog::arm(Instant::now() + Duration::from_millis(10), async move { acted.notify_one() })
        };
        tokio::time::timeout(Duration::from_secs(120), acted.notified()).await.unwrap();
        drop(watchdog);
    }

    #[tokio::test]
    async fn called_off_it_does_nothing() {
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let arm = |notify: &Arc<Notify>| {
            let notify = notify.clone();
            Watchdog::arm(Instant::now() + Duration::from_millis(10), async move { notify.notify_one() })
        };
        drop(arm(&first));
        let _guard = arm(&second);
        tokio::select! {
            () = first.notified() => panic!("it was called off"),
            () = second.notified() => {}
        }
    }
}

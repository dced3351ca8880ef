//! What the agent knows of its controller: the last greeting.
//!
//! A connection that was refused looks to the agent like one that was
//! accepted, until the greeting comes; the link waits for it here.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

/// What a controller said when it took the agent's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub controller_version: String,
    pub host_id: String,
    /// The name this host has in the fleet.
    pub host_name: String,
    /// How far this host's clock is ahead of the controller's, in milliseconds.
    pub skew_ms: i64,
    /// Directories of the controller; none where it runs on another kernel.
    pub own: Vec<OwnDirectory>,
}

/// A directory in which the controller keeps its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDirectory {
    /// What it is, as the end of a sentence.
    pub what: String,
    /// As the controller sees it, which may be in a container.
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// The last greeting, shared by the services and the link.
#[derive(Debug, Clone)]
pub struct Controller {
    greeting: Arc<watch::Sender<Option<Greeting>>>,
}

impl Default for Controller {
    fn default() -> Self {
        Self { greeting: Arc::new(watch::Sender::new(None)) }
    }
}

impl Controller {
    /// Clocks further apart than this are worth a warning.
    const SKEW_WARNING_MS: u64 = 60_000;

    /// Remembers a greeting and wakes whoever waits for one.
    pub fn greeted(&self, greeting: Greeting) {
        if greeting.skew_ms.unsigned_abs() > Self::SKEW_WARNING_MS {
            tracing::warn!(
                skew_ms = greeting.skew_ms,
                "this host's clock and the controller's are far apart"
            );
        }
        self.greeting.send_replace(Some(greeting));
    }

    /// The last greeting, if there was one.
    pub fn last(&self) -> Option<Greeting> {
        self.greeting.borrow().clone()
    }

    /// Greetings from now on: `changed()` resolves with the next one.
    pub fn greetings(&self) -> watch::Receiver<Option<Greeting>> {
        self.greeting.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_by_the_next_greeting_only() {
        let controller = Controller::default();
        let greeting = Greeting {
            controller_version: "0.1.0".to_owned(),
            host_id: "h".to_owned(),
            host_name: "web-1".to_owned(),
            skew_ms: 0,
            own: Vec::new(),
        };
        controller.greeted(greeting.clone());
        let mut greetings = controller.greetings();
        assert!(!greetings.has_changed().unwrap(), "an old greeting is not a new one");
        controller.greeted(greeting.clone());
        greetings.changed().await.unwrap();
        assert_eq!(controller.last(), Some(greeting));
    }
}

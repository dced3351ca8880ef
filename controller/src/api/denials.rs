//! Rows for refused calls, at a bounded rate: being refused must not be a way
//! to fill the controller's disk. What is over the rate is logged only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::status_map::causes;
use crate::catalog::Catalog;
use crate::catalog::audit::{AuditEntry, Outcome};
use crate::clock::now_ms;

/// Rows written per minute.
const PER_MINUTE: u32 = 300;

/// Writes denials into the audit chain; clones share the rate.
#[derive(Debug, Clone)]
pub struct Denials {
    catalog: Catalog,
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    count: u32,
}

impl Denials {
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, window: Arc::default() }
    }

    /// Logs a denial and writes its row, while the rate allows. A row that
    /// cannot be written is an error in the log: the call is refused anyway.
    pub async fn record(&self, actor: &str, action: &str, subject: &str, detail: &str) {
        tracing::warn!(actor, action, subject, detail, "call denied");
        if !self.may_write() {
            return;
        }
        let outcome = Outcome::Denied;
        let entry = AuditEntry { at_ms: now_ms(), actor, action, subject, outcome, detail };
        if let Err(error) = self.catalog.audit(&entry).await {
            tracing::error!(error = %causes(&error), actor, action, "an audit row could not be written");
        }
    }

    fn may_write(&self) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| since.elapsed() >= Duration::from_secs(60)) {
            *window = Window { since: Some(Instant::now()), count: 0 };
        }
        window.count = window.count.saturating_add(1);
        window.count <= PER_MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_denials_is_bounded() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let denials = Denials::new(catalog.clone());
        for _ in 0..PER_MINUTE + 50 {
            denials.record("anonymous", "/x", "", "no").await;
        }
        let rows = catalog.audit_rows(0, 1000).await.expect("rows");
        assert_eq!(rows.len(), usize::try_from(PER_MINUTE).expect("small"));
    }
}

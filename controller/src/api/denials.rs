//! Rows for refused calls, at a bounded rate: being refused must not be a way
//! to fill the controller's disk. What is over the rate is logged only. Whoever
//! is known has a rate of his own, so that noise from outside does not cover
//! what hosts and operators were refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_archive::text::causes;
use tokio::time::Instant;

use crate::catalog::Catalog;
use crate::catalog::audit::{AuditEntry, Book, Outcome};
use crate::clock::now_ms;
use crate::limits::{ANONYMOUS_DENIALS_PER_DAY, ANONYMOUS_DENIALS_PER_MINUTE, DENIALS_PER_MINUTE, clipped};

/// Writes denials into the audit chain; clones share the rates.
#[derive(Debug, Clone)]
pub struct Denials {
    catalog: Catalog,
    rates: Arc<Mutex<Rates>>,
}

#[derive(Debug)]
struct Rates {
    known: Rate,
    anonymous_minute: Rate,
    anonymous_day: Rate,
}

/// So many in a time, counted anew when it is over.
#[derive(Debug)]
struct Rate {
    most: u32,
    time: Duration,
    since: Option<Instant>,
    count: u32,
}

impl Denials {
    pub fn new(catalog: Catalog) -> Self {
        let minute = Duration::from_mins(1);
        let rates = Rates {
            known: Rate::new(DENIALS_PER_MINUTE, minute),
            anonymous_minute: Rate::new(ANONYMOUS_DENIALS_PER_MINUTE, minute),
            anonymous_day: Rate::new(ANONYMOUS_DENIALS_PER_DAY, Duration::from_hours(24)),
        };
        Self { catalog, rates: Arc::new(Mutex::new(rates)) }
    }

    /// Logs a denial and writes its row, while the rate allows. A row that
    /// cannot be written is an error in the log: the call is refused anyway.
    pub async fn record(&self, actor: &str, action: &str, subject: &str, detail: &str) {
        tracing::warn!(actor, action, subject, detail, "call denied");
        if !self.may_write(actor, Instant::now()) {
            return;
        }
        let (subject, detail) = (clipped(subject), clipped(detail));
        let outcome = Outcome::Denied;
        let entry = AuditEntry { at_ms: now_ms(), actor, action, subject, outcome, detail };
        // A join token that was used before is no noise: somebody has it.
        let noise = is_anonymous(actor) && !detail.starts_with("alarm: ");
        let book = if noise { Book::Anonymous } else { Book::Main };
        // The call is refused either way: a full disk must not let it through.
        if let Err(error) = self.catalog.audit_in(book, &entry).await {
            tracing::error!(error = %causes(&error), actor, action, "an audit row could not be written");
        }
    }

    fn may_write(&self, actor: &str, now: Instant) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if is_anonymous(actor) {
            // The minute comes first: what it refuses takes nothing of the day.
            return rates.anonymous_minute.take(now) && rates.anonymous_day.take(now);
        }
        rates.known.take(now)
    }
}

/// Nobody who is known: the name, if any, is what somebody said.
fn is_anonymous(actor: &str) -> bool {
    actor == "anonymous" || actor.starts_with("joining")
}

impl Rate {
    fn new(most: u32, time: Duration) -> Self {
        Self { most, time, since: None, count: 0 }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= self.time) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn v04_a_flood_of_denials_is_bounded_and_covers_nobody_elses() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let denials = Denials::new(catalog.clone());
        for _ in 0..DENIALS_PER_MINUTE {
            denials.record("anonymous", "/x", "", "no").await;
        }
        denials.record("agent:web-1", "/x", "", "not its own").await;
        let mut rows = catalog.audit_rows(Book::Main, 0, 1000).await.expect("rows");
        assert_eq!(rows.len(), 1, "noise is in a book of its own");
        rows.extend(catalog.audit_rows(Book::Anonymous, 0, 1000).await.expect("rows"));
        let of = |actor: &str| rows.iter().filter(|row| row.actor == actor).count();
        assert_eq!(of("anonymous"), ANONYMOUS_DENIALS_PER_MINUTE as usize);
        assert_eq!(of("agent:web-1"), 1);
    }

    #[tokio::test]
    async fn v04_a_days_noise_is_bounded_however_slow_it_comes() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let denials = Denials::new(catalog);
        let begun = Instant::now();
        let written = (0..1440_u32)
            .flat_map(|minute| [minute; 2])
            .filter(|&minute| denials.may_write("anonymous", begun + Duration::from_mins(1) * minute))
            .count();
        assert_eq!(written, ANONYMOUS_DENIALS_PER_DAY as usize);
        assert!(denials.may_write("anonymous", begun + Duration::from_hours(24)));
    }
}

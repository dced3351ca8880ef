//! Connections on which an operator's token was shown, so that they end with
//! the token.
//!
//! A call is refused as soon as its token was revoked; a stream that was open
//! before would go on. Tokens are revoked by a command beside this process,
//! in the catalogue they share: it is looked at every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::text::causes;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::places::Ticket;

/// How often the catalogue is asked whether the tokens in use still count.
const LOOK: Duration = Duration::from_secs(5);

/// Clones share the connections.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    /// By the hash of the token, then by connection.
    by_token: Arc<Mutex<HashMap<String, HashMap<u64, CancellationToken>>>>,
}

impl Sessions {
    /// A token was shown on a connection.
    pub(super) fn note(&self, token_hash: &str, ticket: &Ticket) {
        let mut by_token = self.lock();
        // Most calls are not the first of their connection.
        let of_token = match by_token.get_mut(token_hash) {
            Some(of_token) => of_token,
            None => by_token.entry(token_hash.to_owned()).or_default(),
        };
        of_token.entry(ticket.number()).or_insert_with(|| ticket.closing().clone());
    }

    /// Closes what ended tokens have open, until `stop`.
    pub async fn keep(&self, catalog: &Catalog, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.close_ended(catalog, now_ms()).await {
                tracing::warn!(error = %causes(&error), "whether tokens still count could not be asked");
            }
        }
    }

    /// Closes connections whose token was revoked, replaced or has expired.
    async fn close_ended(&self, catalog: &Catalog, now_ms: i64) -> Result<(), CatalogError> {
        let in_use: Vec<String> = {
            let mut by_token = self.lock();
            for of_token in by_token.values_mut() {
                // Cancelled by its place when a connection has ended.
                of_token.retain(|_, closing| !closing.is_cancelled());
            }
            by_token.retain(|_, of_token| !of_token.is_empty());
            by_token.keys().cloned().collect()
        };
        for hash in in_use {
            let counts =
                catalog.operator_by_token(&hash).await?.is_some_and(|operator| !operator.has_expired(now_ms));
            if counts {
                continue;
            }
            let ended = self.lock().remove(&hash).unwrap_or_default();
            tracing::info!(connections = ended.len(), "a token in use has ended: its connections are closed");
            ended.into_values().for_each(|closing| closing.cancel());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<u64, CancellationToken>>> {
        // Nothing that can panic runs under the lock; the maps are whole.
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

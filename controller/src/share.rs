//! Shares of memory and of attention: so many bytes in all, and of them so
//! many for one host; so many things of one host at once.
//!
//! A host's own share is taken first: whoever uses up his waits for himself,
//! before he stands in anybody's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_archive::ids::HostId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for.
const UNIT: usize = 64 << 10;

/// What can be shared out.
#[derive(Debug)]
pub(crate) struct Shares {
    all: Arc<Semaphore>,
    hosts: Turns,
}

/// Bytes that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    _of_host: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Shares {
    pub(crate) fn new(all_bytes: usize, bytes_of_host: usize) -> Self {
        let all = (all_bytes / UNIT).max(1);
        let of_host = (bytes_of_host / UNIT).clamp(1, all);
        Self { all: Arc::new(Semaphore::new(all)), hosts: Turns::new(of_host) }
    }

    /// So many bytes for this host, as soon as there are. Whoever asks for
    /// more than a host may have gets all a host may have.
    pub(crate) async fn take(&self, host: HostId, bytes: u64) -> Share {
        let units = usize::try_from(bytes.div_ceil(UNIT as u64)).unwrap_or(usize::MAX).min(self.hosts.most);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let of_host = self.hosts.of(host).acquire_many_owned(units).await.expect(NEVER_CLOSED);
        let of_all = self.all.clone().acquire_many_owned(units).await.expect(NEVER_CLOSED);
        Share { _of_host: of_host, _of_all: of_all }
    }
}

const NEVER_CLOSED: &str = "these semaphores are never closed";

/// So many at once of each host.
#[derive(Debug)]
pub(crate) struct Turns {
    most: usize,
    hosts: Mutex<HashMap<HostId, Arc<Semaphore>>>,
}

impl Turns {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), hosts: Mutex::default() }
    }

    /// One of this host's, as soon as there is one.
    pub(crate) async fn take(&self, host: HostId) -> OwnedSemaphorePermit {
        self.of(host).acquire_owned().await.expect(NEVER_CLOSED)
    }

    fn of(&self, host: HostId) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(self.most))).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn v04_a_host_that_uses_up_its_share_waits_for_itself() {
        let (shares, one, other) = (Shares::new(8 * UNIT, 2 * UNIT), HostId::generate(), HostId::generate());
        let two = 2 * UNIT as u64;
        let held = shares.take(one, two).await;
        assert!(shares.take(one, 1).now_or_never().is_none());
        assert!(shares.take(other, two).now_or_never().is_some());
        drop(held);
        let all = shares.take(one, u64::MAX).now_or_never();
        assert!(all.is_some(), "all a host may have");
    }

    #[tokio::test]
    async fn v04_all_hosts_together_have_a_bound() {
        let shares = Shares::new(4 * UNIT, 2 * UNIT);
        let two = 2 * UNIT as u64;
        let held = [shares.take(HostId::generate(), two).await, shares.take(HostId::generate(), two).await];
        assert!(shares.take(HostId::generate(), 1).now_or_never().is_none());
        drop(held);
        assert!(shares.take(HostId::generate(), two).now_or_never().is_some());
    }

    #[tokio::test]
    async fn v04_a_host_has_so_many_turns_and_leaves_others_theirs() {
        let (turns, one, other) = (Turns::new(2), HostId::generate(), HostId::generate());
        let mut held = vec![turns.take(one).await, turns.take(one).await];
        assert!(turns.take(one).now_or_never().is_none(), "a third one waits");
        assert!(turns.take(other).now_or_never().is_some(), "another host has its own");
        held.pop();
        assert!(turns.take(one).now_or_never().is_some(), "one was given back");
    }
}

//! Who is connected.
//!
//! Two agents with one identity are a cloned machine: the second is refused
//! for as long as the first answers, because two taking turns would run each
//! other's jobs. So a connection is replaced only by one whose maker has seen
//! that exact connection silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_archive::ids::HostId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::model::own_directory::OwnDirectory;

/// A host's connection.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) channel: Channel,
    pub(super) instance_id: String,
    /// Cancelled: the connection is torn down.
    pub(super) close: CancellationToken,
    number: u64,
}

/// Who is connected; clones share it.
#[derive(Debug, Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    own: Vec<OwnDirectory>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<HostId, Member>,
    /// Parents of the ordinary connections each host has open.
    sessions: HashMap<HostId, CancellationToken>,
    next_number: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    pub fn new() -> Self {
        Self::with_own(Vec::new())
    }

    /// `own`: directories of this controller, of which agents are told.
    pub fn with_own(own: Vec<OwnDirectory>) -> Self {
        let (changes, _) = watch::channel(0);
        Self { inner: Arc::new(Inner { state: Mutex::default(), changes, own }) }
    }

    /// Directories that agents on this machine are never to back up.
    pub(super) fn own(&self) -> Vec<OwnDirectory> {
        self.inner.own.clone()
    }

    /// How to call the host's agent, while it is connected. Calls need a
    /// deadline of their own.
    pub fn channel(&self, host: HostId) -> Option<Channel> {
        self.lock().members.get(&host).map(|member| member.channel.clone())
    }

    /// The hosts that are connected now, in order.
    pub fn connected(&self) -> Vec<HostId> {
        let mut hosts: Vec<HostId> = self.lock().members.keys().copied().collect();
        hosts.sort_unstable();
        hosts
    }

    /// Whether the host is connected now.
    pub fn is_connected(&self, host: HostId) -> bool {
        self.lock().members.contains_key(&host)
    }

    /// Counts up whenever a host comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Tears down every connection of the host, the agent's own calls
    /// included. It may dial again; whether it gets in is not decided here.
    pub fn disconnect(&self, host: HostId) {
        let mut state = self.lock();
        // Both under one lock: nothing registers between them with a certificate that was
        // just refused, and what does afterwards checks it again.
        let member = state.members.remove(&host);
        let sessions = state.sessions.remove(&host);
        drop(state);
        if let Some(member) = member {
            member.close.cancel();
            self.changed();
        }
        if let Some(sessions) = sessions {
            sessions.cancel();
        }
    }

    /// Tears down every connection; used when the controller stops.
    pub fn disconnect_all(&self) {
        for host in self.connected() {
            self.disconnect(host);
        }
    }

    /// A token that is cancelled when the host is disconnected, for a
    /// connection on which the host is the caller.
    pub fn session(&self, host: HostId) -> CancellationToken {
        self.lock().sessions.entry(host).or_default().child_token()
    }

    /// A connection without a handshake, for tests of what calls hosts.
    #[cfg(test)]
    pub(crate) fn insert(&self, host: HostId, channel: Channel) {
        let replacing = self.member(host);
        self.register(host, channel, String::new(), CancellationToken::new(), replacing.as_ref());
    }

    pub(super) fn member(&self, host: HostId) -> Option<Member> {
        self.lock().members.get(&host).cloned()
    }

    /// Puts the host's connection in place, closing the one before, unless
    /// that one is not `replacing`: then somebody else was faster, and nothing
    /// changes.
    pub(super) fn register(
        &self,
        host: HostId,
        channel: Channel,
        instance_id: String,
        close: CancellationToken,
        replacing: Option<&Member>,
    ) -> Option<u64> {
        let mut state = self.lock();
        let current = state.members.get(&host);
        if current.is_some_and(|member| replacing.map(|member| member.number) != Some(member.number)) {
            return None;
        }
        state.next_number += 1;
        let number = state.next_number;
        let before = state.members.insert(host, Member { channel, instance_id, close, number });
        drop(state);
        if let Some(before) = before {
            before.close.cancel();
        }
        self.changed();
        Some(number)
    }

    /// Takes the connection away, unless a newer one has replaced it.
    pub(super) fn unregister(&self, host: HostId, number: u64) {
        let mut state = self.lock();
        if state.members.get(&host).is_some_and(|member| member.number == number) {
            state.members.remove(&host);
            drop(state);
            self.changed();
        }
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock; the state is whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    fn join(
        fleet: &Fleet,
        host: HostId,
        instance: &str,
        replacing: Option<&Member>,
    ) -> (Option<u64>, CancellationToken) {
        let close = CancellationToken::new();
        let channel = Endpoint::from_static("http://agent").connect_lazy();
        (fleet.register(host, channel, instance.to_owned(), close.clone(), replacing), close)
    }

    #[tokio::test]
    async fn d19_only_the_connection_that_was_seen_silent_is_replaced() {
        let (fleet, host) = (Fleet::new(), HostId::generate());
        let changes = fleet.changes();
        let (first, first_close) = join(&fleet, host, "a", None);
        assert_eq!(join(&fleet, host, "b", None).0, None);
        assert!(!first_close.is_cancelled());

        let silent = fleet.member(host);
        let (second, _) = join(&fleet, host, "a", silent.as_ref());
        assert!(second > first && first_close.is_cancelled());
        fleet.unregister(host, first.expect("registered"));
        assert_eq!(fleet.connected(), [host], "a replaced connection takes nothing away");
        assert_eq!(join(&fleet, host, "b", silent.as_ref()).0, None, "silence of an older one");
        assert_eq!(*changes.borrow(), 2);
    }

    #[tokio::test]
    async fn x05_disconnecting_reaches_every_connection_of_a_host() {
        let (fleet, host) = (Fleet::new(), HostId::generate());
        let (_, close) = join(&fleet, host, "a", None);
        let (session, other) = (fleet.session(host), fleet.session(HostId::generate()));
        fleet.disconnect(host);
        assert!(close.is_cancelled() && session.is_cancelled() && !other.is_cancelled());
        assert!(!fleet.is_connected(host) && !fleet.session(host).is_cancelled());
    }
}

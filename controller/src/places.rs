//! Places for connections: who may be connected, and who makes room.
//!
//! A connection is anonymous from the first byte until a call on it, or its
//! certificate, has shown who is there. Anonymous ones have few places of
//! their own, so that whoever is known never competes with whoever is not.
//! Where all places are taken, a new connection takes that of the oldest of the network that
//! has most: a flood pushes out itself. Its own network is the last to be
//! spared: there a connection is given two seconds, time for a handshake and a
//! call, before another one pushes it out, and who comes meanwhile is turned
//! away at once. So a flood makes this controller do no more handshakes than
//! places in that time, and cannot hold a place for longer.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use holdfast_archive::ids::HostId;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Without an authenticated call.
    pub anonymous: usize,
    /// How long one may stay so.
    pub anonymous_time: Duration,
    /// Of hosts and operators, all together.
    pub known: usize,
    pub of_host: usize,
    pub of_operator: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            anonymous: limits::ANONYMOUS_CONNECTIONS,
            anonymous_time: limits::ANONYMOUS_TIME,
            known: limits::KNOWN_CONNECTIONS,
            of_host: limits::HOST_CONNECTIONS,
            of_operator: limits::OPERATOR_CONNECTIONS,
        }
    }
}

impl Limits {
    /// What a process may take that may have so many files open: a quarter
    /// stays for the catalogue, the store and the log. Connections being
    /// closed still have theirs, so each anonymous place counts twice.
    pub fn for_files(files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let default = Self::default();
        let connections = files - files / 4;
        let anonymous = default.anonymous.min(connections / 4).max(1);
        let known = default.known.min(connections.saturating_sub(2 * anonymous)).max(1);
        Self { anonymous, known, ..default }
    }
}

/// Whom a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    Host(HostId),
    Operator(String),
}

/// An IPv4 address, or the /64 of an IPv6 address: what one peer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => {
                let bits = u128::from(address) & !u128::from(u64::MAX);
                Self(Ipv6Addr::from(bits).into())
            }
        }
    }
}

/// All places; clones share them.
#[derive(Debug, Clone)]
pub struct Places {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    anonymous: Queues<Network>,
    known: Queues<Owner>,
    /// Told to close, and not gone yet.
    closing: usize,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    since: Instant,
    close: CancellationToken,
}

/// Connections by whom they belong to, oldest first.
#[derive(Debug)]
struct Queues<K> {
    by_key: HashMap<K, VecDeque<Waiting>>,
    count: usize,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    ticket: Ticket,
}

/// Names a place to whoever learns who is there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ticket {
    places: Places,
    number: u64,
    network: Network,
    close: CancellationToken,
    owner: Arc<OnceLock<Owner>>,
    calls: Arc<Semaphore>,
}

// === impl Places ===

impl Places {
    pub fn new(limits: Limits) -> Self {
        Self { inner: Arc::new(Inner { limits, state: Mutex::default() }) }
    }

    /// A place for a new connection; `None`: it is to be turned away.
    pub fn take(&self, network: Network, now: Instant) -> Option<Place> {
        let mut state = self.state();
        let most = self.inner.limits.anonymous;
        if state.closing >= most {
            return None;
        }
        if state.anonymous.count >= most {
            let oldest = state.make_room(network, now)?;
            oldest.close.cancel();
            state.closing += 1;
        }
        let (number, close) = (state.next, CancellationToken::new());
        state.next += 1;
        state.anonymous.push(network, Waiting { number, since: now, close: close.clone() });
        drop(state);
        let ticket = Ticket {
            places: self.clone(),
            number,
            network,
            close,
            owner: Arc::default(),
            calls: Arc::new(Semaphore::new(limits::ANONYMOUS_CALLS)),
        };
        Some(Place { ticket })
    }

    /// Closes connections that have stayed anonymous for too long.
    pub fn expire(&self, now: Instant) {
        let mut state = self.state();
        let State { anonymous, closing, .. } = &mut *state;
        let most = self.inner.limits.anonymous_time;
        *closing += anonymous.expire(now, most);
    }

    /// Closes them as their time comes, until `stop`.
    pub async fn keep_time(&self, stop: &CancellationToken) {
        let look =
            (self.inner.limits.anonymous_time / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(look) => self.expire(Instant::now()),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock; the state is whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whose place a new connection takes: that of the oldest of the network that has
    /// most, or nobody's where that is its own and nobody in it had
    /// his time yet.
    fn make_room(&mut self, arriving: Network, now: Instant) -> Option<Waiting> {
        let age = |oldest: &Waiting| now.saturating_duration_since(oldest.since);
        let own = self.anonymous.by_key.get(&arriving).map_or(0, VecDeque::len);
        let largest =
            self.anonymous.by_key.iter().max_by_key(|(_, queue)| (queue.len(), queue.front().map(age)));
        let (largest, most) = largest.map(|(network, queue)| (*network, queue.len()))?;
        let (network, spared) = if own >= most { (arriving, true) } else { (largest, most == 1) };
        let oldest = self.anonymous.by_key.get(&network)?.front()?;
        if spared && age(oldest) < limits::ANONYMOUS_GRACE {
            return None;
        }
        self.anonymous.pop(&network)
    }
}

impl<K> Default for Queues<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), count: 0 }
    }
}

impl<K: Eq + std::hash::Hash + Clone> Queues<K> {
    fn push(&mut self, key: K, waiting: Waiting) {
        self.by_key.entry(key).or_default().push_back(waiting);
        self.count += 1;
    }

    fn pop(&mut self, key: &K) -> Option<Waiting> {
        let number = self.by_key.get(key)?.front()?.number;
        self.remove(key, number)
    }

    fn remove(&mut self, key: &K, number: u64) -> Option<Waiting> {
        let queue = self.by_key.get_mut(key)?;
        let at = queue.iter().position(|waiting| waiting.number == number)?;
        let removed = queue.remove(at);
        if queue.is_empty() {
            self.by_key.remove(key);
        }
        self.count -= 1;
        removed
    }

    /// Tells those to close that are older than `most`; gives how many.
    fn expire(&mut self, now: Instant, most: Duration) -> usize {
        let mut expired = 0;
        self.by_key.retain(|_, queue| {
            while let Some(oldest) =
                queue.pop_front_if(|oldest| now.saturating_duration_since(oldest.since) >= most)
            {
                oldest.close.cancel();
                expired += 1;
            }
            !queue.is_empty()
        });
        self.count -= expired;
        expired
    }
}

// === impl Place ===

impl Place {
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ticket { places, number, owner, .. } = &self.ticket;
        let mut state = places.state();
        let left = match owner.get() {
            Some(owner) => state.known.remove(owner, *number),
            None => state.anonymous.remove(&self.ticket.network, *number),
        };
        if left.is_none() {
            state.closing = state.closing.saturating_sub(1);
        }
        drop(state);
        // Ends whoever waits for this connection to be closed.
        self.ticket.close.cancel();
    }
}

// === impl Ticket ===

impl Ticket {
    /// Cancelled: the connection is to be closed.
    pub fn closing(&self) -> &CancellationToken {
        &self.close
    }

    /// Of this connection alone, as long as the process lives.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn is_known(&self) -> bool {
        self.owner.get().is_some()
    }

    /// Places for calls on a connection on which nobody is known yet.
    pub fn calls(&self) -> &Arc<Semaphore> {
        &self.calls
    }

    /// Moves the connection to the places of whom it belongs to, where its
    /// oldest makes room. False: there is no place, or it is being closed.
    pub fn belongs_to(&self, owner: Owner) -> bool {
        if self.is_known() {
            return true;
        }
        let limits = self.places.inner.limits;
        let most = match owner {
            Owner::Host(_) => limits.of_host,
            Owner::Operator(_) => limits.of_operator,
        };
        let mut state = self.places.state();
        let of_owner = state.known.by_key.get(&owner).map_or(0, VecDeque::len);
        let full = state.known.count >= limits.known;
        if full && of_owner == 0 {
            return false;
        }
        let Some(waiting) = state.anonymous.remove(&self.network, self.number) else {
            // Two calls at once: the other one was first.
            return self.is_known();
        };
        if (of_owner >= most || full)
            && let Some(oldest) = state.known.pop(&owner)
        {
            oldest.close.cancel();
            state.closing += 1;
        }
        self.owner.get_or_init(|| owner.clone());
        state.known.push(owner, waiting);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(anonymous: usize, known: usize) -> Limits {
        Limits { anonymous, known, of_host: 2, of_operator: 2, ..Limits::default() }
    }

    fn network(last: u8) -> Network {
        Network::of(IpAddr::from([10, 0, 0, last]))
    }

    fn closed(place: &Place) -> bool {
        place.ticket().closing().is_cancelled()
    }

    fn host() -> Owner {
        Owner::Host(HostId::generate())
    }

    #[test]
    fn v03_a_flood_from_one_network_pushes_out_itself() {
        let (places, now) = (Places::new(limits(4, 8)), Instant::now());
        let other = places.take(network(2), now).expect("a place");
        let flood: Vec<Place> = (0..3).map(|_| places.take(network(1), now).expect("a place")).collect();
        for _ in 0..1000 {
            assert!(places.take(network(1), now).is_none(), "turned away until one had its time");
        }
        let arriving = places.take(network(3), now).expect("a place");
        assert_eq!(flood.iter().map(closed).collect::<Vec<_>>(), [true, false, false]);
        assert!(!closed(&other) && !closed(&arriving), "other networks keep theirs");
        let later = now + limits::ANONYMOUS_GRACE;
        let next = places.take(network(1), later).expect("a place of its own network's");
        assert_eq!(flood.iter().map(closed).collect::<Vec<_>>(), [true, true, false]);
        assert!(!closed(&other) && !closed(&next));
    }

    #[test]
    fn v03_single_connections_of_many_networks_are_given_their_time() {
        let (places, now) = (Places::new(limits(3, 8)), Instant::now());
        let held: Vec<Place> = (0..3).map(|last| places.take(network(last), now).expect("a place")).collect();
        assert!(places.take(network(9), now).is_none());
        let arriving = places.take(network(9), now + limits::ANONYMOUS_GRACE).expect("a place");
        assert_eq!(held.iter().filter(|place| closed(place)).count(), 1);
        assert!(!closed(&arriving));
    }

    #[test]
    fn v03_whoever_is_known_does_not_compete_with_whoever_is_not() {
        let (places, now) = (Places::new(limits(2, 3)), Instant::now());
        let agent = places.take(network(1), now).expect("a place");
        assert!(agent.ticket().belongs_to(host()));
        let operator = places.take(network(1), now).expect("a place");
        assert!(operator.ticket().belongs_to(Owner::Operator("anna".to_owned())));
        let flood: Vec<Place> = (0..20).filter_map(|_| places.take(network(1), now)).collect();
        assert_eq!(flood.len(), 2);
        places.expire(now + limits::ANONYMOUS_TIME);
        assert!(flood.iter().all(closed), "their time is over");
        assert!(!closed(&agent) && !closed(&operator));
        assert!(agent.ticket().belongs_to(host()), "known already");
    }

    #[test]
    fn v03_a_host_makes_room_for_itself_and_for_nobody_else() {
        let (places, now) = (Places::new(limits(8, 3)), Instant::now());
        let known = |owner: &Owner| {
            let place = places.take(network(1), now).expect("a place");
            (place.ticket().belongs_to(owner.clone()), place)
        };
        let (one, other) = (host(), host());
        let (_, first) = known(&one);
        let (_, second) = known(&one);
        let (_, third) = known(&one);
        assert!(closed(&first) && !closed(&second) && !closed(&third));
        let (let_in, _other) = known(&other);
        assert!(let_in);
        assert!(!known(&host()).0, "all places of known ones are taken");
        assert!(known(&other).0, "its own oldest makes room");
        drop((first, second));
        assert!(known(&host()).0, "places are given back");
    }

    #[test]
    fn v03_no_more_are_open_than_twice_the_places() {
        let (places, now) = (Places::new(limits(2, 8)), Instant::now());
        let mut held: Vec<Place> =
            (1..5).filter_map(|n| places.take(network(1), now + limits::ANONYMOUS_GRACE * n)).collect();
        assert_eq!(held.len(), 4);
        let later = now + limits::ANONYMOUS_GRACE * 9;
        assert!(places.take(network(2), later).is_none(), "two are being closed and not gone");
        held.retain(|place| !closed(place));
        assert!(places.take(network(2), later).is_some());
    }

    #[test]
    fn v03_an_ipv6_peer_is_its_64_and_a_mapped_one_its_ipv4() {
        let of = |text: &str| Network::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), network(1));
        assert_ne!(network(1), network(2));
    }

    #[test]
    fn v03_places_follow_the_limit_of_open_files() {
        assert_eq!(Limits::for_files(65_536), Limits::default());
        for files in [64, 256, 1024, 4096, 16_384] {
            let Limits { anonymous, known, .. } = Limits::for_files(files);
            let most = usize::try_from(files).expect("small");
            assert!(2 * anonymous + known <= most - most / 4, "{files}: {anonymous} and {known}");
            assert!(known >= anonymous, "{files}: {anonymous} and {known}");
        }
    }
}

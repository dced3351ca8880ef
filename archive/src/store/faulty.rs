//! A store that fails on plan, for tests of everything above it.
//!
//! Faults lie between the repeating and the store itself, so what is tested
//! is what happens in earnest. A plan is deterministic: a rule counts the
//! requests it matches, lets some pass, then fails a number of them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::counters::Verb;
use super::error::{StoreError, StoreErrorKind};
use super::{RawBody, RawListed, RawPage, RetryPolicy};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 SlowDown.
    SlowDown,
    /// 500.
    Internal,
    /// The connection breaks before anything was done.
    Reset,
    /// It is done, but the answer never comes.
    AnswerLost,
    /// Nothing comes until the stall timer ends it.
    Stall,
    /// The last bytes of what is read do not come.
    Truncated(usize),
    /// More bytes come than were announced.
    TooLong(usize),
    /// One bit of the byte at this place is wrong; counted from the end when
    /// the content is shorter.
    Flipped(usize),
    /// 403 InvalidAccessKeyId.
    Auth,
    /// No space left.
    Full,
    /// The object is not there.
    Missing,
    /// A page of a listing leaves out the item at this place, counted round
    /// the page; it is not said that anything is missing.
    Omits(usize),
    /// A page of a listing has each item twice.
    Repeats,
    /// The medium has lost it: EIO.
    Medium,
}

/// Which requests fail, and how. Clones share the plan.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    rules: Arc<Mutex<Vec<Rule>>>,
}

/// One rule of a plan: by default every request of the verb, for ever.
#[derive(Debug, Clone)]
pub struct Rule {
    verb: Verb,
    fault: Fault,
    name_part: String,
    at: Option<u64>,
    skip: u64,
    times: u64,
    lasting: Option<Duration>,
    began: Option<Instant>,
    hits: u64,
}

impl Rule {
    pub fn new(verb: Verb, fault: Fault) -> Self {
        Self {
            verb,
            fault,
            name_part: String::new(),
            at: None,
            skip: 0,
            times: u64::MAX,
            lasting: None,
            began: None,
            hits: 0,
        }
    }

    /// Only objects whose name contains this.
    pub fn on(mut self, name_part: impl Into<String>) -> Self {
        self.name_part = name_part.into();
        self
    }

    /// Only requests that touch this byte of the object.
    pub fn at(mut self, byte: u64) -> Self {
        self.at = Some(byte);
        self
    }

    /// Lets the first `skip` pass.
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Fails that many, then no more.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Fails for that long from its first hit.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }

    fn matches(&mut self, verb: Verb, name: &str, range: Option<&Range<u64>>) -> bool {
        let touched = match (self.at, range) {
            (Some(byte), Some(range)) => range.contains(&byte),
            (None, _) | (Some(_), None) => true,
        };
        if self.verb != verb || !name.contains(&self.name_part) || !touched {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let over =
            self.lasting.is_some_and(|time| self.began.get_or_insert_with(Instant::now).elapsed() >= time);
        if self.hits == self.times || over {
            return false;
        }
        self.hits += 1;
        true
    }
}

impl FaultPlan {
    pub fn new() -> Self {
        Self::default()
    }

    /// Earlier rules are asked first.
    pub fn with(self, rule: Rule) -> Self {
        self.add(rule);
        self
    }

    /// Also while the store is in use.
    pub fn add(&self, rule: Rule) {
        self.lock().push(rule);
    }

    /// From now on nothing fails.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How many requests failed so far.
    pub fn hits(&self) -> u64 {
        self.lock().iter().map(|rule| rule.hits).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, verb: Verb, name: &str, range: Option<&Range<u64>>) -> Option<Fault> {
        self.lock().iter_mut().find_map(|rule| rule.matches(verb, name, range).then_some(rule.fault))
    }
}

impl Fault {
    /// Fails before the store is asked, where that is where it fails.
    pub(super) async fn before(self, name: &str, policy: &RetryPolicy) -> Result<(), StoreError> {
        let error = |kind, text: &str| Err(StoreError::new(kind, format!("{name}: {text}")));
        match self {
            Self::SlowDown => error(StoreErrorKind::Throttled, "the store asks to slow down (503 SlowDown)"),
            Self::Internal => error(StoreErrorKind::Other, "the store failed (500 InternalError)"),
            Self::Reset => error(StoreErrorKind::Unreachable, "the connection was reset"),
            Self::Stall => {
                tokio::time::sleep(policy.stall_after).await;
                error(StoreErrorKind::Unreachable, "the transfer stood still")
            }
            Self::Auth => error(StoreErrorKind::Auth, "access denied (403 InvalidAccessKeyId)"),
            Self::Full => error(StoreErrorKind::Full, "no space left"),
            Self::Missing => error(StoreErrorKind::NotFound, "no such object"),
            Self::Medium => error(StoreErrorKind::Corrupt, "input/output error").map_err(StoreError::at_rest),
            Self::AnswerLost
            | Self::Truncated(_)
            | Self::TooLong(_)
            | Self::Flipped(_)
            | Self::Omits(_)
            | Self::Repeats => Ok(()),
        }
    }

    /// Fails after it, where that is where it fails.
    pub(super) fn after(self, name: &str) -> Result<(), StoreError> {
        match self {
            Self::AnswerLost => {
                Err(StoreError::new(StoreErrorKind::Unreachable, format!("{name}: the answer did not come")))
            }
            _ => Ok(()),
        }
    }

    /// What becomes of bytes on their way.
    pub(super) fn damage(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Truncated(missing) => bytes.slice(..bytes.len().saturating_sub(missing)),
            Self::TooLong(more) => {
                let mut longer = BytesMut::from(&bytes[..]);
                longer.resize(bytes.len() + more, b'x');
                longer.freeze()
            }
            Self::Flipped(at) if !bytes.is_empty() => {
                let mut flipped = BytesMut::from(&bytes[..]);
                let at = at.min(bytes.len() - 1);
                flipped[at] ^= 0x10;
                flipped.freeze()
            }
            _ => bytes,
        }
    }

    /// What becomes of a listing.
    pub(super) fn damage_page(self, mut page: RawPage) -> RawPage {
        match self {
            Self::Omits(at) if !page.items.is_empty() => {
                page.items.remove(at % page.items.len());
            }
            Self::Repeats => {
                let twice = |item: RawListed| [RawListed { name: item.name.clone(), len: item.len }, item];
                page.items = page.items.into_iter().flat_map(twice).collect();
            }
            _ => {}
        }
        page
    }

    pub(super) fn damage_body(self, body: RawBody) -> RawBody {
        RawBody { declared: body.declared, bytes: self.damage(body.bytes) }
    }
}

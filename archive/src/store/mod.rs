//! The store a repository lies in: a local directory or an S3 bucket.
//!
//! One concrete handle. Each method is one request as callers think of it;
//! inside, it is repeated while repeating can help (`retry`), and what comes
//! back is checked as far as a store can be checked from outside: lengths
//! always, contents by whoever knows their hash.
//!
//! Writing the same bytes twice under one key is harmless, and keys here are
//! never used for other bytes except for the few the controller alone writes.
//! So an answer that got lost is followed by a look (HEAD with length and
//! checksum) and, if that proves nothing, by the same PUT again. Nothing
//! relies on put-if-absent: most stores do not have it (`probe`).
//!
//! Deliberately absent: multipart uploads. No object of ours is larger than
//! one PUT carries, and an upload that was never completed leaves nothing.
//!
//! Controller and command line open stores, agents never. What a name means
//! is known to [`crate::keys`]; here it is a name.

mod backend;
mod config;
mod counters;
mod directory;
mod error;
mod faulty;
mod listing;
mod probe;
mod retry;
mod root;
#[cfg(feature = "s3")]
mod s3;

use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use config::{InvalidLocation, Location, S3Options, StoreConfig};
pub use counters::{StoreCounters, Verb};
pub use error::{StoreError, StoreErrorKind};
pub use faulty::{Fault, FaultPlan, Rule};
pub use probe::{PresignedProbe, Probe};
pub use retry::RetryPolicy;
pub use root::NO_INFO;

use crate::ids::{PackId, RepositoryId};
use crate::keys::{ObjectKey, Prefix};
use backend::{Backend, RawBody, RawListed, RawPage};
use directory::Directory;

/// The largest object that is written or read whole.
pub const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024;

const PAGE: usize = 1000;

/// What a store says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Bytes.
    pub len: u64,
    /// As the store computed it when the object was written, where it did.
    pub sha256: Option<[u8; 32]>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the repository's prefix.
    pub name: String,
    /// `None` where the name is not one of ours.
    pub key: Option<ObjectKey>,
    /// Bytes.
    pub len: u64,
}

/// A part of a listing, in bytewise order of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<Listed>,
    /// What to pass as `after` for the following page; `None` at the end.
    pub next: Option<String>,
}

/// A request anybody may make once, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presigned {
    pub url: String,
    /// Signed: to be sent exactly so.
    pub headers: Vec<(String, String)>,
}

/// Where objects go that somebody else sends, and whom to trust there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// `scheme://host[:port]/bucket[/prefix]`; an object's name follows a slash.
    pub url: String,
    /// Certificates trusted instead of the machine's; empty: the machine's.
    pub ca_pem: String,
}

struct Inner {
    backend: Backend,
    faults: FaultPlan,
    policy: RetryPolicy,
    counters: Arc<counters::Counters>,
}

/// Handle of a store. Cheap to clone; clones count together. Its methods need
/// a tokio runtime.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.location()).finish()
    }
}

impl Store {
    /// Opens what the settings name. Makes nothing; asks an S3 store nothing
    /// yet.
    ///
    /// # Errors
    /// A directory that is not there or cannot be opened; settings of S3 that cannot be
    /// used, such as a file of keys that cannot be read.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        match &config.location {
            Location::Directory(path) => Self::directory(path),
            #[cfg(feature = "s3")]
            Location::S3 { bucket, prefix } => {
                s3::S3::open(bucket, prefix, &config.s3).map(|s3| Self::over(Backend::S3(s3)))
            }
            #[cfg(not(feature = "s3"))]
            Location::S3 { .. } => Err(StoreError::new(
                StoreErrorKind::Refused,
                format!(
                    "{} is an S3 store, and this program is built without S3; use the controller or the command line tool",
                    config.location
                ),
            )),
        }
    }

    /// Like [`Self::open`], but makes a directory that is not there. A bucket
    /// is never made.
    ///
    /// # Errors
    /// As [`Self::open`], and when the directory cannot be made.
    pub fn create(config: &StoreConfig) -> Result<Self, StoreError> {
        match &config.location {
            Location::Directory(path) => Self::create_directory(path),
            Location::S3 { .. } => Self::open(config),
        }
    }

    /// A directory that exists.
    ///
    /// # Errors
    /// It is not there, is no directory, or may not be entered.
    pub fn directory(path: &Path) -> Result<Self, StoreError> {
        Directory::open(path).map(|directory| Self::over(Backend::Directory(directory)))
    }

    /// A directory, made with its parents where it is not there.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn create_directory(path: &Path) -> Result<Self, StoreError> {
        Directory::create(path).map(|directory| Self::over(Backend::Directory(directory)))
    }

    fn over(backend: Backend) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                faults: FaultPlan::new(),
                policy: RetryPolicy::default(),
                counters: Arc::default(),
            }),
        }
    }

    fn altered(&self, faults: FaultPlan, policy: RetryPolicy) -> Self {
        let Inner { backend, counters, .. } = &*self.inner;
        let inner = Inner { backend: backend.clone(), faults, policy, counters: counters.clone() };
        Self { inner: Arc::new(inner) }
    }

    /// The same store, failing on plan. For tests.
    pub fn faulty(self, plan: FaultPlan) -> Self {
        self.altered(plan, self.inner.policy.clone())
    }

    /// The same store, repeating otherwise.
    pub fn with_retry(self, policy: RetryPolicy) -> Self {
        self.altered(self.inner.faults.clone(), policy)
    }

    /// Where it is, for people.
    pub fn location(&self) -> String {
        self.inner.backend.location()
    }

    /// Where a host may send packs by itself; none where it cannot.
    pub fn place(&self) -> Option<StorePlace> {
        self.inner.backend.place()
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.inner.backend, Backend::Directory(_))
    }

    /// Expects that repository here from now on; the first call counts, for all
    /// clones. A directory that does not hold it, because its disk is not
    /// mounted or another one is, then fails with `NoBucket` and is neither
    /// written to nor believed to have lost an object. Of S3, whose buckets do
    /// not change places, nothing is asked.
    pub fn bind(&self, repository: RepositoryId) {
        self.inner.backend.bind(repository);
    }

    pub fn counters(&self) -> StoreCounters {
        self.inner.counters.snapshot()
    }

    /// The whole object. One larger than [`MAX_OBJECT_BYTES`] is refused.
    ///
    /// # Errors
    /// The object is not there or too large, fewer bytes came than the store announced
    /// (`Corrupt`), or what the last try failed with.
    pub async fn get(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        let name = key.to_string();
        self.repeating(&name, || self.get_once(&name, None)).await
    }

    /// Exactly these bytes. An object that ends before is an error of kind
    /// `Corrupt`.
    ///
    /// # Errors
    /// As [`Self::get`], with `Corrupt` as said.
    pub async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let name = key.to_string();
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        if wanted > MAX_OBJECT_BYTES {
            return Err(too_large(&name, wanted));
        }
        self.repeating(&name, || self.get_once(&name, Some(range.clone()))).await
    }

    /// Writes the object, over one that is there. Returns once the store has
    /// said that it is kept.
    ///
    /// # Errors
    /// `Refused` for an object that is too large, or what the last try failed with: the
    /// object may be there all the same.
    pub async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        let sha256 = sha256(&bytes);
        self.put_hashed(key, bytes, sha256).await
    }

    /// Writes a pack whose bytes the caller has hashed: its name has their SHA-256, and they
    /// are not read once more to find it out. A store that checks hashes refuses other bytes.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_pack(&self, pack: PackId, bytes: Bytes) -> Result<(), StoreError> {
        self.put_hashed(&ObjectKey::Pack(pack), bytes, pack.sha256).await
    }

    async fn put_hashed(&self, key: &ObjectKey, bytes: Bytes, sha256: [u8; 32]) -> Result<(), StoreError> {
        let name = key.to_string();
        if bytes.len() as u64 > MAX_OBJECT_BYTES {
            return Err(too_large(&name, bytes.len() as u64));
        }
        self.repeating(&name, || async {
            match self.put_once(&name, &bytes, &sha256).await {
                // The answer was lost, and the bytes may be there: to look costs less than to send
                // 32 MiB again. Where the store does not tell hashes, they are sent again.
                Err(error) if is_ambiguous(&error) && self.has(&name, &bytes, &sha256).await => Ok(()),
                outcome => outcome,
            }
        })
        .await
    }

    /// What the store says about the object; `None` where there is none.
    ///
    /// # Errors
    /// What the last try failed with. An object that is not there is no error.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let name = key.to_string();
        self.repeating(&name, || self.head_once(&name)).await
    }

    /// A page of what the prefix holds, from after the name given.
    ///
    /// # Errors
    /// What the last try failed with, or a store that says there is more and does not go
    /// on.
    pub async fn list(&self, prefix: Prefix, after: Option<&str>) -> Result<Page, StoreError> {
        let prefix = prefix.to_string();
        let raw = self.repeating(&prefix, || self.list_once(&prefix, after)).await?;
        // A store that repeats itself must not make us go round for ever.
        let fresh = |item: &RawListed| after.is_none_or(|after| item.name.as_str() > after);
        // Names that are none of ours stay in the listing: who makes a repository has to see that
        // the place is not empty.
        let items: Vec<Listed> = raw
            .items
            .into_iter()
            .filter(fresh)
            .map(|RawListed { name, len }| Listed { key: ObjectKey::parse(&name), name, len })
            .collect();
        // From what is left after the filter: a page of nothing but repeated names has no end to go
        // on from.
        let next = raw.truncated.then(|| items.last().map(|item| item.name.clone())).flatten();
        if raw.truncated && next.is_none() {
            return Err(StoreError::new(
                StoreErrorKind::Other,
                format!("{}: the listing says there is more but does not go on", self.location()),
            ));
        }
        Ok(Page { items, next })
    }

    /// Removes the objects; those that are not there count as removed. Returns
    /// the ones that could not be, each with its reason; the whole fails only
    /// where nothing could be asked.
    ///
    /// # Errors
    /// No answer at all came for a batch; those before it are removed.
    pub async fn delete(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, StoreError)>, StoreError> {
        let mut failures = Vec::new();
        for batch in keys.chunks(PAGE) {
            self.delete_batch(batch.to_vec(), &mut failures).await?;
        }
        Ok(failures)
    }

    async fn delete_batch(
        &self,
        mut left: Vec<ObjectKey>,
        failures: &mut Vec<(ObjectKey, StoreError)>,
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut attempts = 0;
        while !left.is_empty() {
            attempts += 1;
            let names: Vec<String> = left.iter().map(ToString::to_string).collect();
            // Those that failed are asked for again and no others: the answer names each of them.
            let failed = self.repeating(&"delete", || self.delete_once(&names)).await?;
            let pause = failed
                .iter()
                .filter_map(|(_, error)| self.inner.policy.pause(error, attempts, began.elapsed()))
                .max();
            let (again, done): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|(_, error)| pause.is_some() && error.kind().is_transient());
            failures.extend(done.into_iter().map(|(at, error)| (left[at].clone(), error)));
            left = again.into_iter().map(|(at, _)| left[at].clone()).collect();
            if let Some(pause) = pause.filter(|_| !left.is_empty()) {
                self.inner.counters.retry();
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// A PUT of exactly that many bytes with that hash, for somebody without
    /// credentials. `None` where the store has no such thing. Whether the
    /// store holds the sender to it, only a probe tells.
    ///
    /// # Errors
    /// `expires` is longer than the week a signature may hold, or nothing can be signed.
    pub async fn presign_put(
        &self,
        key: &ObjectKey,
        len: u64,
        sha256: &[u8; 32],
        expires: Duration,
    ) -> Result<Option<Presigned>, StoreError> {
        self.inner.backend.presign_put(&key.to_string(), len, sha256, expires).await
    }

    /// A GET of exactly that range, for somebody without credentials. `None`
    /// where the store has no such thing.
    ///
    /// # Errors
    /// As [`Self::presign_put`].
    pub async fn presign_get(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        expires: Duration,
    ) -> Result<Option<Presigned>, StoreError> {
        self.inner.backend.presign_get(&key.to_string(), range, expires).await
    }

    async fn repeating<T, F>(&self, what: &impl Display, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            // On the heap: the futures of a client of S3 are deep, and whoever awaits a request would
            // have them inside its own.
            let error = match Box::pin(attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(pause) = self.inner.policy.pause(&error, attempts, began.elapsed()) else {
                return Err(error.after_attempts(attempts));
            };
            self.inner.counters.retry();
            tracing::warn!(
                store = %self.location(), object = %what, attempts, pause_ms = pause.as_millis() as u64,
                "{error}; trying again"
            );
            tokio::time::sleep(pause).await;
        }
    }

    fn begin(&self, verb: Verb, name: &str) -> Option<Fault> {
        self.begin_range(verb, name, None)
    }

    fn begin_range(&self, verb: Verb, name: &str, range: Option<&Range<u64>>) -> Option<Fault> {
        self.inner.counters.request(verb);
        self.inner.faults.take(verb, name, range)
    }

    async fn get_once(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let fault = self.begin_range(Verb::Get, name, range.as_ref());
        if let Some(fault) = fault {
            fault.before(name, &self.inner.policy).await?;
        }
        let mut body = self.inner.backend.get(name, range.clone(), &self.inner.policy).await?;
        if let Some(fault) = fault {
            fault.after(name)?;
            body = fault.damage_body(body);
        }
        self.inner.counters.read(body.bytes.len());
        // A range that was cut short and a whole object that is shorter than announced are the
        // same: damaged, or cut on its way.
        let wanted = range.map_or(body.declared, |range| range.end - range.start);
        if body.bytes.len() as u64 == wanted {
            return Ok(body.bytes);
        }
        Err(StoreError::new(
            StoreErrorKind::Corrupt,
            format!(
                "{name} in {}: {wanted} bytes were asked for and {} came; the object is damaged or the way to the store is",
                self.location(),
                body.bytes.len()
            ),
        ))
    }

    async fn put_once(&self, name: &str, bytes: &Bytes, sha256: &[u8; 32]) -> Result<(), StoreError> {
        let fault = self.begin(Verb::Put, name);
        let mut bytes = bytes.clone();
        if let Some(fault) = fault {
            fault.before(name, &self.inner.policy).await?;
            bytes = fault.damage(bytes);
        }
        self.inner.counters.written(bytes.len());
        self.inner.backend.put(name, bytes, sha256, &self.inner.policy).await?;
        fault.map_or(Ok(()), |fault| fault.after(name))
    }

    async fn head_once(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let fault = self.begin(Verb::Head, name);
        if let Some(fault) = fault {
            match fault.before(name, &self.inner.policy).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other?,
            }
        }
        let meta = self.inner.backend.head(name, &self.inner.policy).await?;
        fault.map_or(Ok(()), |fault| fault.after(name))?;
        Ok(meta)
    }

    async fn list_once(&self, prefix: &str, after: Option<&str>) -> Result<RawPage, StoreError> {
        let fault = self.begin(Verb::List, prefix);
        if let Some(fault) = fault {
            fault.before(prefix, &self.inner.policy).await?;
        }
        let page = self.inner.backend.list(prefix, after, &self.inner.policy).await?;
        fault.map_or(Ok(()), |fault| fault.after(prefix))?;
        Ok(match fault {
            Some(fault) => fault.damage_page(page),
            None => page,
        })
    }

    /// Failures by the place of their name.
    async fn delete_once(&self, names: &[String]) -> Result<Vec<(usize, StoreError)>, StoreError> {
        let all = names.join(" ");
        let fault = self.begin(Verb::Delete, &all);
        if let Some(fault) = fault {
            fault.before("delete", &self.inner.policy).await?;
        }
        let failures = self.inner.backend.delete(names, &self.inner.policy).await?;
        fault.map_or(Ok(()), |fault| fault.after("delete"))?;
        Ok(failures)
    }

    /// Whether the store holds exactly this under that name, by its own word.
    async fn has(&self, name: &str, bytes: &Bytes, sha256: &[u8; 32]) -> bool {
        match self.head_once(name).await {
            Ok(Some(meta)) => meta.len == bytes.len() as u64 && meta.sha256.as_ref() == Some(sha256),
            Ok(None) | Err(_) => false,
        }
    }
}

/// Whether the store may have done it all the same.
fn is_ambiguous(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Unreachable | StoreErrorKind::Other)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn too_large(name: &dyn Display, len: u64) -> StoreError {
    StoreError::new(
        StoreErrorKind::Refused,
        format!("{name}: {len} bytes are more than the {MAX_OBJECT_BYTES} one request carries"),
    )
}

#[cfg(test)]
mod tests;

//! What a store can do, found out by asking for it.
//!
//! Documentation and server names are no help: of four servers with the same
//! interface, two ignore a put-if-absent and two a wrong checksum. Nothing
//! that a repository's safety depends on is taken from here; it decides which
//! way packs travel and what an operator is told.

use serde::{Deserialize, Serialize};

use super::{Backend, Store, StoreError};
use crate::keys::{ObjectKey, Prefix};

/// What a store was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// A part of an object can be read.
    pub reads_ranges: bool,
    /// A new object is in the very next listing.
    pub lists_at_once: bool,
    /// A removed object is gone at the very next look.
    pub removes_at_once: bool,
    /// Refuses to write over an object when asked to.
    pub honours_if_none_match: bool,
    /// Refuses bytes that have another SHA-256 than announced.
    pub checks_sha256: bool,
    /// Tells the SHA-256 of an object.
    pub tells_sha256: bool,
    /// `None` where there are no presigned requests.
    pub presigned: Option<PresignedProbe>,
}

/// What holds a sender to a presigned PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresignedProbe {
    pub works: bool,
    /// Another length than the signed one is refused.
    pub holds_to_length: bool,
    /// Other content than the signed hash says is refused.
    pub holds_to_content: bool,
    /// Another key than the signed one is refused.
    pub holds_to_key: bool,
}

impl Probe {
    /// Whether packs may go straight from a host to the store: it holds the
    /// sender to what was signed, and tells the hash of what it has. The
    /// latter is what a commit is to compare: a server was seen to refuse a
    /// wrong body and to keep it all the same.
    pub fn allows_direct_uploads(&self) -> bool {
        self.presigned.is_some_and(|presigned| {
            self.tells_sha256
                && presigned.works
                && presigned.holds_to_length
                && presigned.holds_to_content
                && presigned.holds_to_key
        })
    }
}

impl Store {
    /// Finds out what the store can do, with a few small objects that are
    /// removed again. Fails as any request does: credentials, bucket, way.
    ///
    /// # Errors
    /// What stands in the way of any request: the keys, the bucket, the way there.
    pub async fn probe(&self) -> Result<Probe, StoreError> {
        // Room for the three keys below it; at random, because another controller may probe the
        // same store.
        let number = rand::random::<u64>() >> 8;
        let keys = [0, 1, 2].map(|at| ObjectKey::Probe((number << 2) + at));
        let outcome = self.probe_with(&keys).await;
        let removed = self.delete(&keys).await;
        let mut probe = outcome?;
        if let Some((key, error)) = removed?.into_iter().next() {
            tracing::warn!(store = %self.location(), object = %key, "{error}");
            probe.removes_at_once = false;
            return Ok(probe);
        }
        probe.removes_at_once = self.head(&keys[0]).await?.is_none();
        Ok(probe)
    }

    async fn probe_with(&self, keys: &[ObjectKey; 3]) -> Result<Probe, StoreError> {
        let bytes = bytes::Bytes::from_static(b"written by a probe of this store; safe to remove");
        let sha256 = super::sha256(&bytes);
        // Asked before anything is written: some servers make a bucket of a PUT.
        self.list(Prefix::State, None).await?;
        self.put(&keys[0], bytes.clone()).await?;
        let meta = self.head(&keys[0]).await?;
        let part = self.get_range(&keys[0], 8..10).await;
        let before = keys[0].to_string();
        let before = &before[..before.len() - 1];
        let listed = self.list(Prefix::All, Some(before)).await?;
        let probe = Probe {
            reads_ranges: part.is_ok_and(|part| part == "by"),
            lists_at_once: listed.items.iter().any(|item| item.key.as_ref() == Some(&keys[0])),
            removes_at_once: false,
            honours_if_none_match: false,
            checks_sha256: false,
            tells_sha256: meta.is_some_and(|meta| meta.sha256 == Some(sha256)),
            presigned: None,
        };
        match &self.inner.backend {
            Backend::Directory(_) => Ok(probe),
            #[cfg(feature = "s3")]
            Backend::S3(s3) => self.probe_s3(s3, keys, &bytes, probe).await,
        }
    }
}

#[cfg(feature = "s3")]
impl Store {
    async fn probe_s3(
        &self,
        s3: &super::s3::S3,
        keys: &[ObjectKey; 3],
        bytes: &bytes::Bytes,
        mut probe: Probe,
    ) -> Result<Probe, StoreError> {
        let policy = &self.inner.policy;
        let sha256 = super::sha256(bytes);
        let wrong = [7; 32];
        let names = keys.each_ref().map(ToString::to_string);
        probe.honours_if_none_match = declined(s3.put_if(&names[0], bytes, &sha256, true, policy).await)?;
        probe.checks_sha256 = declined(s3.put_if(&names[1], bytes, &wrong, false, policy).await)?;
        let expires = std::time::Duration::from_secs(300);
        let presigned = s3.presign_put(&names[2], bytes.len() as u64, &sha256, expires).await?;

        // The wrong ones first: each would be a new object.
        let mut longer = bytes.to_vec();
        longer.push(b'!');
        let mut length = presigned.clone();
        length.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        length.headers.push(("content-length".to_owned(), longer.len().to_string()));
        let mut elsewhere = presigned.clone();
        elsewhere.url = elsewhere.url.replacen(&names[2], &names[1], 1);
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        let refused = |status: u16| status >= 300;
        probe.presigned = Some(PresignedProbe {
            holds_to_length: refused(s3.put_presigned(length, longer.into(), policy).await?),
            holds_to_key: refused(s3.put_presigned(elsewhere, bytes.clone(), policy).await?),
            holds_to_content: refused(s3.put_presigned(presigned.clone(), other.into(), policy).await?),
            works: !refused(s3.put_presigned(presigned, bytes.clone(), policy).await?),
        });
        Ok(probe)
    }
}

/// A store that cannot be asked has declined nothing.
#[cfg(feature = "s3")]
fn declined(outcome: Result<(), StoreError>) -> Result<bool, StoreError> {
    use super::StoreErrorKind::{Other, Throttled, Unreachable};
    match outcome {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.kind(), Unreachable | Throttled | Other) => Err(error),
        Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_found_to_be_one_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::directory(dir.path()).unwrap();
        let probe = store.probe().await.unwrap();
        assert!(probe.reads_ranges && probe.lists_at_once && probe.removes_at_once);
        assert!(!probe.allows_direct_uploads());
        assert!(store.list(Prefix::All, None).await.unwrap().items.is_empty());
    }
}

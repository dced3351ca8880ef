//! The one place that knows which kinds of store there are: it gives a request
//! to the directory or to the bucket, once. What comes back is not looked at
//! here; [`super::Store`] repeats, counts and checks.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::directory::Directory;
#[cfg(feature = "s3")]
use super::s3::S3;
use super::{ObjectMeta, PAGE, Presigned, RetryPolicy, StoreError, StoreErrorKind, StorePlace};
use crate::ids::RepositoryId;

#[derive(Clone)]
pub(super) enum Backend {
    Directory(Directory),
    #[cfg(feature = "s3")]
    S3(S3),
}

#[derive(Debug)]
pub(super) struct RawBody {
    /// What the store announced.
    pub(super) declared: u64,
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
pub(super) struct RawListed {
    pub(super) name: String,
    pub(super) len: u64,
}

#[derive(Debug)]
pub(super) struct RawPage {
    pub(super) items: Vec<RawListed>,
    pub(super) truncated: bool,
}

impl Backend {
    pub(super) fn location(&self) -> String {
        match self {
            Self::Directory(directory) => directory.location(),
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.location(),
        }
    }

    pub(super) fn place(&self) -> Option<StorePlace> {
        match self {
            Self::Directory(_) => None,
            #[cfg(feature = "s3")]
            Self::S3(s3) => Some(s3.place()),
        }
    }

    pub(super) fn bind(&self, repository: RepositoryId) {
        match self {
            Self::Directory(directory) => directory.bind(repository),
            #[cfg(feature = "s3")]
            Self::S3(_) => {}
        }
    }

    pub(super) async fn get(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        policy: &RetryPolicy,
    ) -> Result<RawBody, StoreError> {
        match self {
            Self::Directory(directory) => {
                let _ = policy;
                let (directory, name) = (directory.clone(), name.to_owned());
                blocking(move || directory.get(&name, range)).await
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.get(name, range, policy).await,
        }
    }

    pub(super) async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        sha256: &[u8; 32],
        policy: &RetryPolicy,
    ) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => {
                let _ = (sha256, policy);
                let (directory, name) = (directory.clone(), name.to_owned());
                blocking(move || directory.put(&name, &bytes)).await
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.put(name, &bytes, sha256, policy).await,
        }
    }

    pub(super) async fn head(
        &self,
        name: &str,
        policy: &RetryPolicy,
    ) -> Result<Option<ObjectMeta>, StoreError> {
        match self {
            Self::Directory(directory) => {
                let _ = policy;
                let (directory, name) = (directory.clone(), name.to_owned());
                let len = blocking(move || directory.head(&name)).await?;
                // A directory keeps no hashes: who needs one reads the bytes.
                Ok(len.map(|len| ObjectMeta { len, sha256: None }))
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.head(name, policy).await,
        }
    }

    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        policy: &RetryPolicy,
    ) -> Result<RawPage, StoreError> {
        match self {
            Self::Directory(directory) => {
                let _ = policy;
                let (directory, prefix) = (directory.clone(), prefix.to_owned());
                let after = after.map(ToOwned::to_owned);
                blocking(move || directory.list(&prefix, after.as_deref(), PAGE)).await
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.list(prefix, after, policy).await,
        }
    }

    /// Failures by the place of their name.
    pub(super) async fn delete(
        &self,
        names: &[String],
        policy: &RetryPolicy,
    ) -> Result<Vec<(usize, StoreError)>, StoreError> {
        match self {
            Self::Directory(directory) => {
                let _ = policy;
                let (directory, names) = (directory.clone(), names.to_vec());
                blocking(move || {
                    let each = names.iter().enumerate();
                    Ok(each.filter_map(|(at, name)| Some((at, directory.delete(name).err()?))).collect())
                })
                .await
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => s3.delete(names, policy).await,
        }
    }

    pub(super) async fn presign_put(
        &self,
        name: &str,
        len: u64,
        sha256: &[u8; 32],
        expires: Duration,
    ) -> Result<Option<Presigned>, StoreError> {
        match self {
            Self::Directory(_) => {
                let _ = (name, len, sha256, expires);
                Ok(None)
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => Box::pin(s3.presign_put(name, len, sha256, expires)).await.map(Some),
        }
    }

    pub(super) async fn presign_get(
        &self,
        name: &str,
        range: Range<u64>,
        expires: Duration,
    ) -> Result<Option<Presigned>, StoreError> {
        match self {
            Self::Directory(_) => {
                let _ = (name, range, expires);
                Ok(None)
            }
            #[cfg(feature = "s3")]
            Self::S3(s3) => Box::pin(s3.presign_get(name, range, expires)).await.map(Some),
        }
    }
}

/// Runs what waits for a disk on a thread that may wait. It runs to its end
/// also when the caller goes away: no file is left half renamed by that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    // The work was cut off by a panic or by the end of the program.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError::new(StoreErrorKind::Other, "a request to the repository's directory was cut off")
            .caused_by(error))
    })
}

//! `state/head`: how far the repository has come, as the bucket knows it.
//!
//! It is raised before a snapshot's object is put, before a batch of packs is
//! deleted and before snapshots are purged. A catalogue that was put back
//! from a copy therefore finds a higher number than its own and suspends
//! itself: what it believes to be in the bucket may be gone, and what it does
//! not know of may be needed.

use holdfast_archive::keys::{ObjectKey, StateFile};
use holdfast_archive::repository::{InfoError, RepositoryInfo};
use holdfast_archive::state::{AuditMark, Head, decode_head, encode_head};
use holdfast_archive::store::{NO_INFO, StoreError, StoreErrorKind};

use super::info::REMEDY;
use super::reread::LOOKS;
use super::{Repository, RepositoryError, locked};
use crate::catalog::repository::RepositoryRow;
use crate::model::protocol::{Protocol, Trust};

/// What was found of `state/head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeadRead {
    Head(Head),
    Absent,
    /// Why it says nothing.
    Damaged(String),
}

impl Repository {
    /// Compares the catalogue with the bucket: at start, and before each
    /// batch of deletes. Suspends the repository where they disagree, and
    /// says so; a store that cannot be asked is an error and suspends nothing, but
    /// one without a repository does ([`Self::info`]).
    ///
    /// The bucket is read first. Its number is never raised above the
    /// catalogue's, which only grows: a commit between the two readings makes
    /// the catalogue look further ahead, never behind.
    ///
    /// # Errors
    /// The store cannot be asked, `state/head` is damaged, or the catalogue fails.
    pub async fn check(&self) -> Result<Trust, RepositoryError> {
        let info = self.info().await?;
        self.catalog().adopt_repository(info.id, &info.owner).await?;
        if let Some(row) = self.catalog().repository().await?
            && !is_ours(&info, &row)
        {
            // Its numbers say nothing of ours.
            self.suspend_foreign(&info, &row).await?;
            return Ok(Trust::Foreign);
        }
        self.keep_info(&info).await?;
        // Whether it should be there, and how far it is at least; asked first, for both only grow.
        let expected = self.catalog().repository_counts().await?.snapshots > 0;
        let committed = self.catalog().newest_commit().await?;
        let head = match self.read_head(expected).await? {
            HeadRead::Head(head) => head,
            HeadRead::Absent if expected => return self.without_head().await,
            HeadRead::Absent => Head::default(),
            HeadRead::Damaged(reason) => {
                return Err(RepositoryError::Damaged(format!(
                    "state/head cannot be read: {reason}; `holdfast-controller reconcile` writes it anew"
                )));
            }
        };
        let Some(row) = self.catalog().repository().await? else {
            return Err(RepositoryError::Damaged(
                "the catalogue does not keep its repository's row".to_owned(),
            ));
        };
        let trust = Protocol::WHOLE.trust(is_ours(&info, &row), head.commit_number, row.commit_number);
        match trust {
            Trust::Whole if Protocol::WHOLE.is_old_copy(head.commit_number, committed) => {
                self.suspend_old_bucket(head.commit_number, committed).await?;
                return Ok(Trust::BucketBehind);
            }
            Trust::Whole | Trust::BucketBehind => {}
            Trust::Foreign => {
                self.suspend_foreign(&info, &row).await?;
            }
            Trust::Behind => {
                let reason = format!(
                    "the catalogue ends at commit {} and the bucket at {}: the catalogue is an old copy",
                    row.commit_number, head.commit_number
                );
                self.suspend(&reason, Some(&head)).await?;
            }
        }
        Ok(trust)
    }

    /// Makes the repository known to a catalogue that has not seen it yet: the
    /// controller starts for the first time, or the store was out of reach
    /// until now.
    pub(crate) async fn first_reached(&self) -> Result<(), RepositoryError> {
        if self.catalog().repository().await?.is_none() {
            self.check().await?;
        }
        Ok(())
    }

    /// [`Self::check`], once in the life of this process and before anything
    /// is built on what the catalogue believes.
    pub(super) async fn compared(&self) -> Result<(), RepositoryError> {
        self.inner.compared.get_or_try_init(|| async { self.check().await.map(|_| ()) }).await?;
        Ok(())
    }

    /// Suspends the repository where the bucket was put back to an older copy of
    /// itself: asked before an upload begins to build on what the catalogue
    /// believes to be there, and before a commit counts on it.
    ///
    /// A head that is missing or damaged says nothing of that; it is
    /// [`Self::check`] that minds it.
    pub(super) async fn notice_old_bucket(&self) -> Result<(), RepositoryError> {
        // Before the head is read: what was committed then had raised it.
        let committed = self.catalog().newest_commit().await?;
        match self.read_head(false).await? {
            HeadRead::Head(head) if Protocol::WHOLE.is_old_copy(head.commit_number, committed) => {
                self.suspend_old_bucket(head.commit_number, committed).await
            }
            HeadRead::Head(_) | HeadRead::Absent | HeadRead::Damaged(_) => Ok(()),
        }
    }

    /// The head is raised at once: the catalogue remembers what was found, and
    /// what is uploaded from now on is not what was lost.
    async fn suspend_old_bucket(&self, head: u64, committed: u64) -> Result<(), RepositoryError> {
        let reason = format!(
            "the bucket ends at commit {head} and commit {committed} was stored in it: it was put back to an older \
             copy; `holdfast-controller reconcile` compares the two"
        );
        self.suspend(&reason, None).await?;
        self.raise_head().await
    }

    async fn suspend(&self, reason: &str, head: Option<&Head>) -> Result<(), RepositoryError> {
        tracing::error!(reason, "the repository is suspended: nothing is deleted and nothing is shared");
        self.catalog().suspend(reason, head).await?;
        Ok(())
    }

    /// Suspends for good, and gives the reason: only an operator decides whose
    /// the repository is.
    async fn suspend_foreign(
        &self,
        info: &RepositoryInfo,
        row: &RepositoryRow,
    ) -> Result<String, RepositoryError> {
        let reason = format!(
            "{} holds repository {} of controller {}, and this catalogue is of repository {} of controller {}",
            self.store().location(),
            info.id,
            info.owner,
            row.repository,
            row.owner
        );
        if row.suspended != reason {
            self.suspend(&reason, None).await?;
        }
        Ok(reason)
    }

    /// What `repo.json` says now. A place without one suspends the repository
    /// until it is found there again: the disk below a directory is not
    /// mounted, most likely.
    pub(super) async fn info(&self) -> Result<RepositoryInfo, RepositoryError> {
        if let Some(row) = self.catalog().repository().await? {
            self.store().bind(row.repository);
        }
        let bytes = match self.store().get(&ObjectKey::Repository).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let Some(text) = self.absence(&error) else { return Err(error.into()) };
                self.note_absent(Some(text.clone()));
                return Err(StoreError::new(StoreErrorKind::NoBucket, text).into());
            }
        };
        self.note_absent(None);
        let info = RepositoryInfo::decode(&bytes).map_err(|error| {
            let location = self.store().location();
            RepositoryError::Damaged(match error {
                InfoError::Damaged(_) => format!("{location}: {error}; {REMEDY}"),
                InfoError::Format(_) | InfoError::Features(_) | InfoError::Crypto(_) => {
                    format!("{location}: {error}")
                }
            })
        })?;
        self.store().bind(info.id);
        Ok(info)
    }

    /// That the place holds no repository, in words; `None`: the error says nothing of it.
    fn absence(&self, error: &StoreError) -> Option<String> {
        if error.is_not_found() {
            let location = self.store().location();
            return Some(format!(
                "{location} holds no repository: repo.json is missing; if nothing else is: {REMEDY}"
            ));
        }
        if error.kind() != StoreErrorKind::NoBucket {
            return None;
        }
        // A directory is looked at before anything is read from it.
        Some(match error.to_string() {
            text if text.contains(NO_INFO) => format!("{text}; if nothing else is lost: {REMEDY}"),
            text => text,
        })
    }

    fn note_absent(&self, reason: Option<String>) {
        let before = std::mem::replace(&mut *locked(&self.inner.absent), reason.clone());
        match (before, reason) {
            (None, Some(reason)) => tracing::error!(reason, "the repository is suspended until it is back"),
            (Some(_), None) => tracing::info!(store = %self.store().location(), "the repository is back"),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// Snapshots are committed after the head was raised. So a bucket without one
    /// is not as this catalogue left it, and whether it is behind cannot be told.
    async fn without_head(&self) -> Result<Trust, RepositoryError> {
        let reason = "state/head is not in the bucket, although snapshots were committed: objects were removed, \
                      or the catalogue is an old copy; `holdfast-controller reconcile` compares the two";
        self.suspend(reason, None).await?;
        Ok(Trust::Behind)
    }

    /// Reads `state/head`. One that is damaged, or is not there although it is
    /// expected, is looked at again.
    pub(super) async fn read_head(&self, expected: bool) -> Result<HeadRead, RepositoryError> {
        let mut read = HeadRead::Absent;
        for look in 0..LOOKS {
            if look > 0 {
                self.pause().await;
            }
            read = match self.store().get(&ObjectKey::State(StateFile::Head)).await {
                Ok(bytes) => match decode_head(&bytes) {
                    Ok(head) => return Ok(HeadRead::Head(head)),
                    Err(error) => HeadRead::Damaged(error.to_string()),
                },
                Err(error) if error.is_not_found() && !expected => return Ok(HeadRead::Absent),
                Err(error) if error.is_not_found() => HeadRead::Absent,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(read)
    }

    /// The newest row of the audit chain that the bucket knows of.
    ///
    /// # Errors
    /// When the store fails, or the repository is not there.
    pub async fn audit_mark(&self) -> Result<Option<AuditMark>, RepositoryError> {
        match self.read_head(false).await? {
            HeadRead::Head(head) => Ok(head.audit),
            // A place without the repository knows of no row either, and says nothing.
            HeadRead::Absent => self.info().await.map(|_| None),
            HeadRead::Damaged(reason) => {
                Err(RepositoryError::Damaged(format!("state/head cannot be read: {reason}")))
            }
        }
    }

    /// Writes the catalogue's numbers to the bucket, if that is still ours:
    /// over another controller's they would hide what it has committed.
    pub(super) async fn raise_head(&self) -> Result<(), RepositoryError> {
        let _one = self.inner.head.lock().await;
        self.refuse_foreign().await?;
        let head = self.catalog().head().await?;
        self.store().put(&ObjectKey::State(StateFile::Head), encode_head(&head).into()).await?;
        Ok(())
    }

    /// [`Self::raise_head`] before something is deleted. On a full store there
    /// may be no room for that, and without it nothing may be deleted that
    /// makes room. Files under `index/` may go at any time: they are removed,
    /// the largest first, until the head fits, and written again later.
    pub(super) async fn raise_head_on_a_full_store(&self) -> Result<(), RepositoryError> {
        loop {
            match self.raise_head().await {
                Err(RepositoryError::Store(error)) if error.kind() == StoreErrorKind::Full => {
                    if !self.give_up_hints().await? {
                        return Err(error.into());
                    }
                    tracing::warn!(%error, "the store is full: an index file made room for state/head");
                }
                outcome => return outcome,
            }
        }
    }

    /// Why the repository is suspended, if it is.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn suspended(&self) -> Result<Option<String>, RepositoryError> {
        if locked(&self.inner.absent).is_some() {
            // It may be back; if not, the reason stays.
            let _ = self.info().await;
        }
        let absent = locked(&self.inner.absent).clone();
        if absent.is_some() {
            return Ok(absent);
        }
        let row = self.catalog().repository().await?;
        Ok(row.map(|row| row.suspended).filter(|reason| !reason.is_empty()))
    }

    pub(super) async fn refuse_suspended(&self) -> Result<(), RepositoryError> {
        match self.suspended().await? {
            Some(reason) => Err(RepositoryError::Suspended(reason)),
            None => Ok(()),
        }
    }

    /// Refuses to delete while something is missing from the bucket.
    pub(super) async fn refuse_collection_off(&self) -> Result<(), RepositoryError> {
        let row = self.catalog().repository().await?;
        match row.map(|row| row.collection_off).filter(|reason| !reason.is_empty()) {
            Some(reason) => Err(RepositoryError::Suspended(reason)),
            None => Ok(()),
        }
    }

    /// Refuses a bucket that is not ours, or not ours any more, as `repo.json`
    /// says at this moment: before anything is written or called lost there,
    /// and before a commit is acknowledged. A catalogue that is only behind may
    /// go on writing: its numbers were raised above the bucket's, and it builds
    /// on nothing it knew before.
    pub(super) async fn refuse_foreign(&self) -> Result<(), RepositoryError> {
        let info = self.info().await?;
        let Some(row) = self.catalog().repository().await? else {
            return Err(RepositoryError::Busy("the repository has not been reached yet".to_owned()));
        };
        if is_ours(&info, &row) {
            return Ok(());
        }
        Err(RepositoryError::Suspended(self.suspend_foreign(&info, &row).await?))
    }
}

pub(super) fn is_ours(info: &RepositoryInfo, row: &RepositoryRow) -> bool {
    row.repository == info.id && row.owner == info.owner
}

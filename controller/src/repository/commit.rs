//! Committing a snapshot.
//!
//! The controller believes nothing about which frames a snapshot uses: it
//! reads the manifest's pages, as far as it has not read them for an earlier
//! snapshot, and derives the set. Transaction 1 checks each of them and
//! numbers the snapshot; then the head is raised, the object is put, the
//! bucket is seen to be ours still, transaction 2 follows, and only then is the
//! agent told. Whatever dies in
//! between, the row says `committing`, keeps its frames, and is finished by
//! whoever comes next: the agent's own repetition or the loop.

use std::sync::Arc;

use holdfast_archive::ids::{FrameId, HostId, SourceId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::manifest::{PageRefs, page_refs};
use holdfast_archive::snapshot::{MAX_OBJECT_LEN, Names, SnapshotBody, decode_body, encode_object};
use holdfast_proto::ids::LeaseId;
use roaring::RoaringTreemap;

use super::lease::upload_source;
use super::read::grouped;
use super::{Repository, RepositoryError, locked};
use crate::catalog::commits::{Begun, NewSnapshot};
use crate::catalog::frames::PageRefRow;
use crate::catalog::jobs::GrantKind;
use crate::catalog::leases::LeaseRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::limits::{PAGE_BYTES, PAGES, clipped};
use crate::model::protocol::{CommitStep, Protocol, SnapshotState};

/// Missing frames named in one answer.
const MAX_MISSING: usize = 65_536;

/// How often the references are derived anew because frames went meanwhile.
const ATTEMPTS: u32 = 4;

/// Room a snapshot's header takes beside its body.
const HEADER_ROOM: usize = 16 << 10;

/// What became of a snapshot offered.
#[derive(Debug, Clone, PartialEq)]
pub enum Committed {
    Snapshot(Box<SnapshotRecord>),
    /// Frames that are not there.
    Missing(Vec<FrameId>),
}

/// What a manifest reaches.
enum Reach {
    Frames { all: RoaringTreemap, pages: RoaringTreemap },
    Missing(Vec<FrameId>),
}

impl Repository {
    /// Commits the snapshot whose account `body` is.
    ///
    /// # Errors
    /// The lease is not this host's or has ended, the account cannot be read, the
    /// host is over a quota, or store or catalogue fail.
    pub async fn commit_snapshot(
        &self,
        host: HostId,
        lease: LeaseId,
        body: &[u8],
    ) -> Result<Committed, RepositoryError> {
        let lease = self.known_lease(host, lease).await?;
        let source = upload_source(&lease)?;
        if body.len() > MAX_OBJECT_LEN - HEADER_ROOM {
            return Err(RepositoryError::Invalid(
                "the snapshot's account of itself is over 4 MiB".to_owned(),
            ));
        }
        // A repetition, perhaps by a later attempt, gets the first answer.
        if let Some(before) = self.catalog().snapshot_of_job(lease.job, source).await? {
            return self.answer_again(before).await;
        }
        let lease = self.lease(host, lease.id).await?;
        match self.running_grant(host, lease.job).await?.kind {
            GrantKind::Upload { sources } if sources.contains(&source) => {}
            GrantKind::Upload { .. } | GrantKind::Restore { .. } => {
                return Err(RepositoryError::Denied(format!("job {} does not back up {source}", lease.job)));
            }
        }
        self.commit_account(host, &lease, source, body).await
    }

    /// Commits what was not committed before: transaction 1, and what follows it.
    async fn commit_account(
        &self,
        host: HostId,
        lease: &LeaseRecord,
        source: SourceId,
        body: &[u8],
    ) -> Result<Committed, RepositoryError> {
        self.refuse_foreign().await?;
        // Frames of a bucket that was put back are missing from here on, and sent again.
        self.notice_old_bucket().await?;
        let account = decode_body(body).map_err(|error| RepositoryError::Invalid(error.to_string()))?;
        let names = self.names_of(host, source).await?;
        // A host must not file a snapshot under a name that the catalogue does not have for it.
        refuse_other_names(&names, &account)?;
        // Outside of the transaction, for it reads the store: what it found may be gone when
        // the transaction looks, and then it is looked for once more.
        for _ in 0..ATTEMPTS {
            let (frames, pages) = match self.reach(host, account.root).await? {
                Reach::Missing(missing) => return Ok(Committed::Missing(missing)),
                Reach::Frames { all, pages } => (all, pages),
            };
            let new = NewSnapshot {
                lease: lease.number,
                job: lease.job,
                host,
                source,
                names: &names,
                body: &account,
                body_bytes: body,
                frames: &frames,
                created_ms: now_ms(),
            };
            match self.catalog().begin_commit(&new).await? {
                Begun::Committing(record) => {
                    failpoint("controller.commit.after-row");
                    return self
                        .drive_commit(record)
                        .await
                        .map(|record| Committed::Snapshot(Box::new(record)));
                }
                Begun::Before(record) => return self.answer_again(record).await,
                Begun::Missing(mut missing, absent) if absent.is_empty() => {
                    missing.truncate(MAX_MISSING);
                    return Ok(Committed::Missing(missing));
                }
                // What was known of some page names frames that have lost
                // their rows since: the pages themselves have to be asked.
                Begun::Missing(..) => self.catalog().drop_page_refs(&pages).await?,
                Begun::LeaseLost => {
                    return Err(RepositoryError::LeaseLost(format!("lease {} has ended", lease.id)));
                }
            }
        }
        Err(RepositoryError::TooMuch("frames go as fast as they are looked for; try again".to_owned()))
    }

    /// What the catalogue calls a host and a source of it.
    async fn names_of(&self, host: HostId, source: SourceId) -> Result<Names, RepositoryError> {
        let host_record = self.catalog().host(host).await?;
        // A source of another host gets the same answer as one that is not there.
        let source_record = self.catalog().source(source).await?.filter(|record| record.host == host);
        let (Some(host_record), Some(source_record)) = (host_record, source_record) else {
            return Err(RepositoryError::Denied(format!("host {host} has no source {source}")));
        };
        Ok(Names {
            host: host_record.name,
            kind: source_record.kind.as_str().to_owned(),
            source: source_record.name,
        })
    }

    async fn answer_again(&self, record: SnapshotRecord) -> Result<Committed, RepositoryError> {
        match record.state {
            SnapshotState::Committing => {
                self.drive_commit(record).await.map(|record| Committed::Snapshot(Box::new(record)))
            }
            SnapshotState::Committed | SnapshotState::Forgotten => Ok(Committed::Snapshot(Box::new(record))),
            SnapshotState::Purging => {
                Err(RepositoryError::LeaseLost(format!("snapshot {} of this job was removed", record.id)))
            }
        }
    }

    /// What a committed snapshot says of itself. That of a first attempt is
    /// what counts, whatever a later one has read.
    ///
    /// # Errors
    /// The catalogue fails, or does not have it whole.
    pub async fn account(&self, record: &SnapshotRecord) -> Result<SnapshotBody, RepositoryError> {
        let number = record.commit_number;
        let Some(body) = self.catalog().snapshot_body(number).await? else {
            return Err(RepositoryError::Damaged(format!("commit {number} has no body")));
        };
        decode_body(&body).map_err(|error| RepositoryError::Damaged(format!("commit {number}: {error}")))
    }

    /// Finishes commits that were cut off. Safe at any time: one that is
    /// being driven is waited for.
    ///
    /// # Errors
    /// The store is out of reach, or the catalogue fails.
    pub async fn finish_committing(&self) -> Result<u64, RepositoryError> {
        self.compared().await?;
        if self.suspended().await?.is_some() {
            return Ok(0);
        }
        let mut finished = 0;
        for number in self.catalog().snapshots_in(SnapshotState::Committing, 1000).await? {
            if let Some(record) = self.catalog().snapshot_by_commit(number).await? {
                self.drive_commit(record).await?;
                finished += 1;
            }
        }
        Ok(finished)
    }

    /// From transaction 1 to transaction 2, in a task of its own: a caller
    /// that goes away does not leave it half-way.
    async fn drive_commit(&self, record: SnapshotRecord) -> Result<SnapshotRecord, RepositoryError> {
        let repository = self.clone();
        let driven = tokio::spawn(async move { repository.drive_commit_alone(record).await });
        driven.await.map_err(|error| RepositoryError::Damaged(format!("a commit broke off: {error}")))?
    }

    async fn drive_commit_alone(&self, record: SnapshotRecord) -> Result<SnapshotRecord, RepositoryError> {
        let number = record.commit_number;
        let turn = locked(&self.inner.driving).entry(number).or_default().clone();
        let outcome = {
            // A second driver waits here, and then finds what the first one has done.
            let _turn = turn.lock().await;
            self.take_steps(number).await
        };
        let mut driving = locked(&self.inner.driving);
        // The map and `turn` are the last two.
        if Arc::strong_count(&turn) == 2 {
            driving.remove(&number);
        }
        outcome
    }

    async fn take_steps(&self, number: u64) -> Result<SnapshotRecord, RepositoryError> {
        let (mut raised, mut put) = (false, false);
        loop {
            let Some(record) = self.catalog().snapshot_by_commit(number).await? else {
                return Err(RepositoryError::LeaseLost(format!("commit {number} was given up")));
            };
            if record.state != SnapshotState::Committing {
                return Ok(record);
            }
            match Protocol::WHOLE.commit_step(raised, put) {
                CommitStep::RaiseHead => {
                    self.raise_head().await?;
                    raised = true;
                }
                CommitStep::PutObject => {
                    self.put_snapshot(&record).await?;
                    put = true;
                    failpoint("controller.commit.after-object");
                }
                CommitStep::SetCommitted => {
                    // After the object was put: whoever takes the repository over
                    // later than this lists it, and whoever did before is seen.
                    self.refuse_foreign().await?;
                    self.catalog().set_committed(number).await?;
                    failpoint("controller.commit.after-committed");
                }
            }
        }
    }

    async fn put_snapshot(&self, record: &SnapshotRecord) -> Result<(), RepositoryError> {
        let number = record.commit_number;
        let Some(stored) = self.catalog().stored_snapshot(number).await? else {
            return Err(RepositoryError::Damaged(format!("commit {number} has no body")));
        };
        let object = encode_object(&stored.header, &stored.body);
        self.store().put(&ObjectKey::Snapshot(record.id), object.into()).await?;
        Ok(())
    }

    /// Every frame that a manifest of this host reaches.
    async fn reach(&self, host: HostId, root: FrameId) -> Result<Reach, RepositoryError> {
        let mut missing = Vec::new();
        let found = self.catalog().find_frames(host, &[root]).await?.into_iter().flatten().next();
        let Some(found) = found else { return Ok(Reach::Missing(vec![root])) };
        let mut pages = RoaringTreemap::from_iter([found.number]);
        let mut all = pages.clone();
        let mut todo = pages.clone();
        // Level by level from the root. What a page refers to never changes, so it is read
        // from the store once, by the first commit that reaches it.
        while !todo.is_empty() {
            let batch: RoaringTreemap = todo.iter().take(PAGES).collect();
            todo -= &batch;
            let mut known = self.catalog().page_refs(&batch).await?;
            let unknown = &batch - known.keys().copied().collect::<RoaringTreemap>();
            let read = self.read_pages(host, &unknown, &mut missing).await?;
            self.catalog().put_page_refs(&read).await?;
            known.extend(read);
            for refs in known.into_values() {
                todo |= &refs.pages - &pages;
                pages |= &refs.pages;
                all |= refs.pages;
                all |= refs.data;
            }
            // Enough for one answer: once these are sent, the pages below them can be read.
            if missing.len() >= MAX_MISSING {
                break;
            }
        }
        missing.truncate(MAX_MISSING);
        Ok(if missing.is_empty() { Reach::Frames { all, pages } } else { Reach::Missing(missing) })
    }

    /// Reads pages from the store. What cannot be had is added to `missing`
    /// and marked, so that it is asked for and not offered.
    async fn read_pages(
        &self,
        host: HostId,
        pages: &RoaringTreemap,
        missing: &mut Vec<FrameId>,
    ) -> Result<Vec<(u64, PageRefRow)>, RepositoryError> {
        if pages.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.catalog().frames_by_number(pages).await?;
        let numbers: std::collections::HashMap<FrameId, u64> =
            rows.iter().map(|row| (row.location.entry.id, row.number)).collect();
        let mut resolved = Vec::new();
        let mut lost = RoaringTreemap::new();
        // A page says less than it decodes to: few bytes can be many pages.
        for group in grouped(rows.into_iter().map(|row| row.location), PAGE_BYTES) {
            let _share = self.inner.read_memory.take(host, PAGE_BYTES as u64).await;
            for (id, refs) in self.read_each_surely(group, |raw| page_refs(&raw)).await? {
                let Some(refs) = refs else {
                    lost.extend(numbers.get(&id));
                    missing.push(id);
                    continue;
                };
                let refs = refs.map_err(|error| {
                    RepositoryError::Invalid(format!("the manifest's page {id}: {error}"))
                })?;
                let row = self.resolve_refs(host, &refs, missing).await?;
                if let (Some(row), Some(&number)) = (row, numbers.get(&id)) {
                    resolved.push((number, row));
                }
            }
        }
        if !lost.is_empty() {
            self.catalog().mark_damaged(&lost).await?;
        }
        Ok(resolved)
    }

    /// A page's references as numbers; `None` where some are not there.
    async fn resolve_refs(
        &self,
        host: HostId,
        refs: &PageRefs,
        missing: &mut Vec<FrameId>,
    ) -> Result<Option<PageRefRow>, RepositoryError> {
        let before = missing.len();
        let mut row = PageRefRow::default();
        for (ids, numbers) in [(&refs.pages, &mut row.pages), (&refs.data, &mut row.data)] {
            for (id, found) in ids.iter().zip(self.catalog().find_frames(host, ids).await?) {
                match found {
                    Some(frame) => {
                        numbers.insert(frame.number);
                    }
                    None => missing.push(*id),
                }
            }
        }
        Ok((missing.len() == before).then_some(row))
    }
}
/// Refuses an account that says it is of another host or source than the one
/// whose certificate and job sent it: offline, names are what people go by.
///
/// The path of a directory is not compared: the host says where the directory
/// really is, past links, and the header says what it is called.
fn refuse_other_names(names: &Names, account: &SnapshotBody) -> Result<(), RepositoryError> {
    let SnapshotBody { host_name, source, .. } = account;
    let volume = names.kind == "volume";
    let mismatch = [
        ("host", host_name, &names.host, host_name.is_empty()),
        ("kind of source", &source.kind, &names.kind, false),
        ("source", &source.name, &names.source, !volume),
    ];
    match mismatch.into_iter().find(|(_, said, known, free)| said != known && !free) {
        None => Ok(()),
        Some((what, said, known, _)) => Err(RepositoryError::Denied(format!(
            "the snapshot names another {what} than its job: {:?} and not `{known}`",
            clipped(said)
        ))),
    }
}

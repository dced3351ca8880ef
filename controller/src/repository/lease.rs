//! Opening, checking and closing leases: who may use the data plane for what.
//!
//! The host comes from the certificate alone. A lease is bound to it and to a
//! running job of that host: it ends with the job, and with the host when that
//! is revoked. A newer attempt of the job ends the leases of older ones, and an
//! older attempt that comes back is refused.

use holdfast_archive::ids::{HostId, RepositoryId, SnapshotId, SourceId};
use holdfast_archive::snapshot::{SnapshotBody, encode_object};
use holdfast_proto::ids::{JobId, LeaseId};

use super::{Repository, RepositoryError};
use crate::catalog::frames::DamagedPage;
use crate::catalog::jobs::{GrantKind, JobGrant};
use crate::catalog::leases::{LeaseKind, LeaseRecord, NewLease, Opened};
use crate::catalog::snapshots::SnapshotRecord;
use crate::model::protocol::SnapshotState;
use crate::quota::Usage;

/// Damaged frames in one answer: 34 bytes each on the wire, and a message has
/// 4 MiB at most.
const DAMAGED_PAGE: usize = 65_536;

/// A lease in use says so at most once in so many ticks.
const RENEW_TICKS: u64 = 30;

/// An upload that may begin.
#[derive(Debug)]
pub struct OpenedUpload {
    pub lease: LeaseId,
    pub repository: RepositoryId,
    pub base: Option<(SnapshotRecord, SnapshotBody)>,
    /// Frames of the base that were found unreadable, the first page of them.
    pub damaged: DamagedPage,
}

/// A restore that may begin.
#[derive(Debug)]
pub struct OpenedRestore {
    pub lease: LeaseId,
    pub repository: RepositoryId,
    /// As it lies in the bucket.
    pub object: Vec<u8>,
    pub same_host: bool,
}

impl Repository {
    /// Opens an upload of one source of a running job.
    ///
    /// # Errors
    /// The job does not run on this host, is held under a newer generation or does
    /// not back up this source, the host is over a quota, the repository is another
    /// controller's, or store or catalogue fail.
    pub async fn open_upload(
        &self,
        host: HostId,
        job: JobId,
        generation: u64,
        source: SourceId,
    ) -> Result<OpenedUpload, RepositoryError> {
        // By the job's row: an agent can open only what its running job is about.
        let backs_up = match self.grant(host, job, generation).await?.kind {
            GrantKind::Upload { sources } => sources.contains(&source),
            GrantKind::Restore { .. } => false,
        };
        if !backs_up {
            return Err(RepositoryError::Denied(format!("job {job} does not back up source {source}")));
        }
        // Before the agent hears what it may leave out: that is what the catalogue believes to
        // be in the bucket.
        self.refuse_to_build().await?;
        self.charge(host, Usage { leases: 1, ..Usage::default() }).await?;
        let with_base = self.suspended().await?.is_none();
        let kind = LeaseKind::Upload { source };
        let new = NewLease { kind, job, generation, host, snapshot: None, with_base };
        // From here on the lease holds its base; what is read of it below stays.
        let lease = self.opened(new).await?;
        let mut opened = OpenedUpload {
            lease: lease.id,
            repository: self.id().await?,
            base: None,
            damaged: DamagedPage::default(),
        };
        if let Some(number) = lease.snapshot.filter(|_| with_base)
            && let Some(base) = self.catalog().snapshot_by_commit(number).await?
        {
            let body = self.body(&base.id).await?;
            opened.damaged = self.damaged_of(host, number, 0).await?;
            opened.base = Some((base, body));
        }
        Ok(opened)
    }

    /// Refuses to be built upon unless the bucket is the same one, still ours, and
    /// not an older copy of itself.
    async fn refuse_to_build(&self) -> Result<(), RepositoryError> {
        self.compared().await?;
        self.refuse_foreign().await?;
        self.notice_old_bucket().await
    }

    /// Frames of an upload's base that were found unreadable, one page of them
    /// from the frame number on that the page before ended with.
    ///
    /// # Errors
    /// The lease is not this host's upload or has ended, or the catalogue fails.
    pub async fn list_damaged(
        &self,
        host: HostId,
        lease: LeaseId,
        from: u64,
    ) -> Result<DamagedPage, RepositoryError> {
        let (lease, _) = self.upload_lease(host, lease).await?;
        match lease.snapshot {
            Some(base) => self.damaged_of(host, base, from).await,
            None => Ok(DamagedPage::default()),
        }
    }

    async fn damaged_of(
        &self,
        host: HostId,
        commit_number: u64,
        from: u64,
    ) -> Result<DamagedPage, RepositoryError> {
        let frames = self.frames_of(commit_number).await?;
        Ok(self.catalog().damaged_frames(host, &frames, from, DAMAGED_PAGE).await?)
    }

    /// Opens a restore of the snapshot a running job restores.
    ///
    /// # Errors
    /// The job does not run on this host, is held under a newer generation or
    /// restores something else, the snapshot is gone, the host is over a quota, or
    /// the catalogue fails.
    pub async fn open_restore(
        &self,
        host: HostId,
        job: JobId,
        generation: u64,
        snapshot: SnapshotId,
    ) -> Result<OpenedRestore, RepositoryError> {
        let grant = self.grant(host, job, generation).await?;
        if grant.kind != (GrantKind::Restore { snapshot }) {
            return Err(RepositoryError::Denied(format!("job {job} does not restore snapshot {snapshot}")));
        }
        let record = self.get(&snapshot).await?;
        if !matches!(record.state, SnapshotState::Committed | SnapshotState::Forgotten) {
            return Err(RepositoryError::no_snapshot(&snapshot));
        }
        self.charge(host, Usage { leases: 1, ..Usage::default() }).await?;
        let new = NewLease {
            kind: LeaseKind::Restore,
            job,
            generation,
            host,
            snapshot: Some(record.commit_number),
            with_base: false,
        };
        // The lease first: a purge that begins now spares the snapshot.
        let lease = self.opened(new).await?;
        let stored = self
            .catalog()
            .stored_snapshot(record.commit_number)
            .await?
            .ok_or_else(|| RepositoryError::no_snapshot(&snapshot))?;
        Ok(OpenedRestore {
            lease: lease.id,
            repository: self.id().await?,
            object: encode_object(&stored.header, &stored.body),
            same_host: snapshot.host == host,
        })
    }

    /// Ends a lease. One that is ended already stays so.
    ///
    /// # Errors
    /// It is another host's, or the catalogue fails.
    pub async fn close_lease(&self, host: HostId, lease: LeaseId) -> Result<(), RepositoryError> {
        match self.catalog().lease(lease).await? {
            Some(record) if record.host != host => Err(foreign_lease(lease)),
            Some(record) => Ok(self.catalog().end_lease(record.number).await?),
            // A lease that is gone has ended, so a repetition is no error.
            None => Ok(()),
        }
    }

    /// The open lease of that id, for its own host, while its job runs.
    pub(super) async fn lease(&self, host: HostId, lease: LeaseId) -> Result<LeaseRecord, RepositoryError> {
        let record = self.known_lease(host, lease).await?;
        if record.facts.ended_tick.is_some() {
            return Err(RepositoryError::LeaseLost(format!(
                "lease {lease} has ended: it was closed, its job has ended, or a newer attempt of the job took its place"
            )));
        }
        // Its end ends the lease; looked at once more, because a lease is worth
        // as much as the job it was granted to, whatever ended that.
        if !self.catalog().job_runs_on(record.job, host).await? {
            return Err(RepositoryError::LeaseLost(format!(
                "job {} of lease {lease} does not run",
                record.job
            )));
        }
        self.catalog().renew_lease(record.number, RENEW_TICKS).await?;
        Ok(record)
    }

    /// The lease of that id, open or not, for its own host.
    pub(super) async fn known_lease(
        &self,
        host: HostId,
        lease: LeaseId,
    ) -> Result<LeaseRecord, RepositoryError> {
        match self.catalog().lease(lease).await? {
            None => Err(RepositoryError::LeaseLost(format!("there is no lease {lease} any more"))),
            Some(record) if record.host != host => Err(foreign_lease(lease)),
            Some(record) => Ok(record),
        }
    }

    /// The open upload lease of that id.
    pub(super) async fn upload_lease(
        &self,
        host: HostId,
        lease: LeaseId,
    ) -> Result<(LeaseRecord, SourceId), RepositoryError> {
        self.compared().await?;
        let record = self.lease(host, lease).await?;
        let source = upload_source(&record)?;
        Ok((record, source))
    }

    /// What the running job may do, if it is this host's and of that
    /// generation.
    async fn grant(&self, host: HostId, job: JobId, generation: u64) -> Result<JobGrant, RepositoryError> {
        let grant = self.running_grant(host, job).await?;
        // Ahead of the row there is no attempt. One behind it is refused when the lease is opened.
        if generation > grant.generation {
            return Err(RepositoryError::Denied(format!(
                "job {job} is at generation {}, not {generation}",
                grant.generation
            )));
        }
        Ok(grant)
    }

    pub(super) async fn running_grant(&self, host: HostId, job: JobId) -> Result<JobGrant, RepositoryError> {
        match self.catalog().job_grant(job).await? {
            None => Err(RepositoryError::LeaseLost(format!("job {job} does not run"))),
            Some(grant) if grant.host != host => {
                Err(RepositoryError::Denied(format!("job {job} is not one of this host")))
            }
            Some(grant) => Ok(grant),
        }
    }

    async fn opened(&self, new: NewLease) -> Result<LeaseRecord, RepositoryError> {
        match self.catalog().open_lease(new).await? {
            Opened::Lease(lease) => Ok(lease),
            Opened::Superseded => Err(RepositoryError::Stale(format!(
                "a newer attempt of job {} has begun; generation {} is over",
                new.job, new.generation
            ))),
        }
    }

    /// The repository's id, as this catalogue keeps it.
    pub(super) async fn id(&self) -> Result<RepositoryId, RepositoryError> {
        match self.catalog().repository().await? {
            Some(row) => Ok(row.repository),
            None => Err(RepositoryError::Busy("the repository has not been reached yet".to_owned())),
        }
    }
}

pub(super) fn upload_source(lease: &LeaseRecord) -> Result<SourceId, RepositoryError> {
    match lease.kind {
        LeaseKind::Upload { source } => Ok(source),
        LeaseKind::Restore => Err(RepositoryError::Denied(format!("lease {} is for reading", lease.id))),
    }
}

fn foreign_lease(lease: LeaseId) -> RepositoryError {
    RepositoryError::Denied(format!("lease {lease} is not one of this host"))
}

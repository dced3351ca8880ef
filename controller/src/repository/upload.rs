//! Packs on their way in: what need not be sent, where a pack goes, its bytes
//! through the controller, and the check that makes its frames visible.
//!
//! A pack's row is written before its object can be. Its table counts only as
//! it stands in the bytes themselves: what the agent sends along must be
//! equal to it. A controller that relays a pack has seen the bytes; for any
//! other it reads the pack's end from the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_archive::ids::{AllocationId, FrameId, HostId, PackId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::pack::{FOOTER_LEN, MAX_PACK_LEN, TableRead, check_table, read_table, table_len};
use holdfast_archive::pack_io::PackEntry;
use holdfast_archive::store::{Presigned, StoreErrorKind};
use holdfast_proto::ids::LeaseId;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Repository, RepositoryError, locked};
use crate::catalog::packs::PackRecord;
use crate::failpoint::failpoint;
use crate::limits;
use crate::model::protocol::{PackCommit, PackState};
use crate::quota::Usage;
use crate::share::Share;

/// Most ids in one question.
pub(super) const MAX_IDS: usize = 4096;

/// Packs one lease may have announced and not committed.
const MAX_INTENTS: u64 = 64;

/// Bytes of a pack's end that hold most tables.
const TAIL: u64 = 64 << 10;

/// How long a presigned request is good for.
const PRESIGNED_FOR: Duration = Duration::from_secs(15 * 60);

/// Tables kept in memory between upload and commit.
const TABLES: usize = 64;

/// Rows of them all together, a row being 64 bytes.
const TABLE_ROWS: usize = 1 << 18;

/// Tables of packs that went through this controller.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: HashMap<PackId, Arc<Vec<PackEntry>>>,
    order: VecDeque<PackId>,
    rows: usize,
}

impl Tables {
    fn put(&mut self, pack: PackId, table: Vec<PackEntry>) {
        self.rows += table.len();
        match self.known.insert(pack, Arc::new(table)) {
            None => self.order.push_back(pack),
            Some(before) => self.rows -= before.len(),
        }
        while self.order.len() > TABLES || self.rows > TABLE_ROWS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, pack: &PackId) {
        self.rows -= self.known.remove(pack).map_or(0, |table| table.len());
    }
}

/// How a pack gets into the bucket.
#[derive(Debug)]
pub enum Way {
    Direct { request: Presigned, expires: Duration },
    Relay,
}

/// A pack's bytes while they come in.
#[derive(Debug)]
pub struct Incoming {
    lease: LeaseId,
    pack: PackRecord,
    bytes: BytesMut,
    hash: Sha256,
    /// Another call has stored it already: what comes is dropped.
    done: bool,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
    _memory: Share,
}

impl Incoming {
    /// Until when all of it has to be here, however steadily it comes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes the next bytes. More than announced are refused at once.
    ///
    /// # Errors
    /// There are more bytes than announced.
    pub fn push(&mut self, data: &[u8]) -> Result<(), RepositoryError> {
        if self.done {
            return Ok(());
        }
        if (self.bytes.len() + data.len()) as u64 > self.pack.length {
            return Err(RepositoryError::UploadFailed(format!(
                "pack {} is longer than the {} bytes announced",
                self.pack.id, self.pack.length
            )));
        }
        self.hash.update(data);
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Repository {
    /// Which of these frames this host need not send.
    ///
    /// # Errors
    /// Too many frames are asked for at once, the lease is not this host's or has
    /// ended, or the catalogue fails.
    pub async fn have(
        &self,
        host: HostId,
        lease: LeaseId,
        frames: &[FrameId],
    ) -> Result<Vec<bool>, RepositoryError> {
        check_count(frames.len())?;
        self.upload_lease(host, lease).await?;
        Ok(self.catalog().have(host, frames).await?)
    }

    /// Announces a pack: its row, then the way its bytes may go.
    ///
    /// # Errors
    /// The lease is not this host's or has ended, no pack is that long, the host is
    /// over a quota, or the catalogue fails.
    pub async fn alloc_pack(
        &self,
        host: HostId,
        lease: LeaseId,
        length: u64,
        sha256: [u8; 32],
    ) -> Result<(PackId, Way), RepositoryError> {
        // The shortest one has nothing but a table of one frame.
        let most = longest_pack(self.settings().pack_bytes);
        if length < table_len(1) as u64 || length > most {
            return Err(RepositoryError::Invalid(format!(
                "{length} bytes are no length a pack can have; at most {most} are"
            )));
        }
        let (lease, _) = self.upload_lease(host, lease).await?;
        self.refuse_foreign().await?;
        // By what is announced, before there is a row: bytes that never come count as well.
        self.charge(host, Usage { bytes: length, packs: 1, ..Usage::default() }).await?;
        // The allocation makes the key new: a late deletion of equal bytes cannot hit this pack.
        let pack = PackId { sha256, allocation: AllocationId::generate() };
        let intended = self.catalog().intend_pack(&pack, host, lease.number, length, MAX_INTENTS).await?;
        let Some(pack) = intended else {
            return Err(RepositoryError::TooMuch(format!(
                "lease {} has {MAX_INTENTS} packs announced and not committed",
                lease.id
            )));
        };
        failpoint("controller.pack.after-intent");
        Ok((pack, self.way_of(&pack, length).await?))
    }

    async fn way_of(&self, pack: &PackId, length: u64) -> Result<Way, RepositoryError> {
        if self.direct().await {
            let key = ObjectKey::Pack(*pack);
            if let Some(request) = self.store().presign_put(&key, length, &pack.sha256, PRESIGNED_FOR).await?
            {
                return Ok(Way::Direct { request, expires: PRESIGNED_FOR });
            }
        }
        Ok(Way::Relay)
    }

    /// Whether packs may go straight to the store: wished for, and the store
    /// was seen to hold senders to what was signed.
    async fn direct(&self) -> bool {
        if !self.settings().direct_uploads {
            return false;
        }
        let probe = || async { self.store().probe().await.map(|probe| probe.allows_direct_uploads()) };
        match self.inner.direct.get_or_try_init(probe).await {
            Ok(allowed) => *allowed,
            Err(error) => {
                tracing::warn!(%error, "the store could not be probed; packs go through the controller");
                false
            }
        }
    }

    /// Makes room for a pack's bytes: waits while the host sends too many at
    /// once, or all hosts together.
    ///
    /// # Errors
    /// The lease is not this host's or has ended, the pack is not the lease's, or
    /// the catalogue fails.
    pub async fn begin_upload(
        &self,
        host: HostId,
        lease: LeaseId,
        pack: PackId,
    ) -> Result<Incoming, RepositoryError> {
        let (lease, _) = self.upload_lease(host, lease).await?;
        let row = self.own_pack(host, lease.number, &pack).await?;
        // The place before the memory: who waits for a place holds none.
        let place = self.inner.uploads.take(host).await;
        let memory = self.inner.upload_memory.take(host, row.length).await;
        Ok(Incoming {
            lease: lease.id,
            done: row.state != PackState::Intended,
            bytes: BytesMut::with_capacity(usize::try_from(row.length).unwrap_or(0)),
            hash: Sha256::new(),
            deadline: Instant::now() + time_for(row.length),
            pack: row,
            _place: place,
            _memory: memory,
        })
    }

    /// Stores a pack whose bytes are all there, if they are what was announced.
    ///
    /// # Errors
    /// The job has ended meanwhile, the bytes are not those announced or no pack,
    /// or the store fails.
    pub async fn finish_upload(&self, incoming: Incoming) -> Result<(), RepositoryError> {
        let Incoming { lease, pack, bytes, hash, done, .. } = incoming;
        if done {
            return Ok(());
        }
        // Its bytes may have taken an hour: the job may have ended meanwhile.
        self.upload_lease(pack.host, lease).await?;
        check_content(&pack, bytes.len(), hash)?;
        let bytes: Bytes = bytes.freeze();
        let table = table_of(&pack, &bytes)?;
        // Last before the bytes are stored: nothing is put into a bucket that another controller
        // has taken over meanwhile.
        self.refuse_foreign().await?;
        self.store().put_pack(pack.id, bytes).await.map_err(|error| match error.kind() {
            // They were what was announced when they came here; nothing stored is damaged.
            StoreErrorKind::Corrupt => upload_failed(&pack, &error.to_string()),
            _ => error.into(),
        })?;
        // The commit needs the table next, and need not read it from the store.
        locked(&self.inner.tables).put(pack.id, table);
        failpoint("controller.pack.after-store");
        Ok(())
    }

    /// Checks a stored pack and makes its frames visible.
    ///
    /// # Errors
    /// The lease is not this host's or has ended, the pack is not stored, the table
    /// is not the one in it, the host is over a quota, or store or catalogue fail.
    pub async fn commit_pack(
        &self,
        host: HostId,
        lease: LeaseId,
        pack: PackId,
        table: &[PackEntry],
    ) -> Result<(), RepositoryError> {
        let (lease, _) = self.upload_lease(host, lease).await?;
        let row = self.own_pack(host, lease.number, &pack).await?;
        check_table(row.length, table)
            .map_err(|error| RepositoryError::Invalid(format!("the table sent for pack {pack}: {error}")))?;
        // A row that is committed was seen in the store then: a repetition does not ask again.
        let seen = row.state == PackState::Intended && self.is_stored(&row.id, row.length).await?;
        // A false table would make frames visible that the pack does not have.
        if seen && *self.true_table(&row).await? != table {
            return Err(RepositoryError::Invalid(format!(
                "the table sent for pack {pack} is not the one in the pack"
            )));
        }
        // A repetition is not charged twice.
        if seen {
            self.charge(host, Usage { frames: table.len() as u64, ..Usage::default() }).await?;
        }
        let lost = |what: &str| RepositoryError::UploadFailed(format!("pack {pack} {what}: send it again"));
        match self.catalog().commit_pack(&pack, table, seen).await? {
            PackCommit::Accept | PackCommit::Repeat => {
                locked(&self.inner.tables).remove(&pack);
                failpoint("controller.pack.after-commit");
                Ok(())
            }
            PackCommit::NotStored => Err(lost("is not in the store as announced")),
            PackCommit::Lost => Err(lost("was given up meanwhile")),
        }
    }

    /// The row of a pack that was announced under this lease.
    async fn own_pack(&self, host: HostId, lease: u64, pack: &PackId) -> Result<PackRecord, RepositoryError> {
        match self.catalog().pack(pack).await? {
            None => Err(RepositoryError::UploadFailed(format!("pack {pack} is not announced any more"))),
            Some(row) if row.host != host || row.lease != lease => {
                Err(RepositoryError::Denied(format!("pack {pack} was not announced under this lease")))
            }
            Some(row) => Ok(row),
        }
    }

    /// Whether the store has a pack of that name, length and hash; the hash only
    /// where the store knows it.
    ///
    /// # Errors
    /// The store fails.
    pub(super) async fn is_stored(&self, pack: &PackId, length: u64) -> Result<bool, RepositoryError> {
        let Some(meta) = self.store().head(&ObjectKey::Pack(*pack)).await? else { return Ok(false) };
        let same_hash = meta.sha256.is_none_or(|sha256| sha256 == pack.sha256);
        Ok(meta.len == length && same_hash)
    }

    /// The table as it stands in the pack's own bytes.
    async fn true_table(&self, row: &PackRecord) -> Result<Arc<Vec<PackEntry>>, RepositoryError> {
        let known = locked(&self.inner.tables).known.get(&row.id).cloned();
        match known {
            Some(table) => Ok(table),
            None => self.read_table(&row.id, row.length).await.map(Arc::new),
        }
    }

    /// Reads a pack's table from the store.
    pub(super) async fn read_table(
        &self,
        pack: &PackId,
        length: u64,
    ) -> Result<Vec<PackEntry>, RepositoryError> {
        let wrong = |error| RepositoryError::Invalid(format!("pack {pack}: {error}"));
        let (mut wanted, mut narrow) = (TAIL.min(length), false);
        loop {
            let range = length - wanted..length;
            let tail = match self.store().get_range(&ObjectKey::Pack(*pack), range).await {
                // What lies before the table may be all that the medium has lost.
                Err(error) if error.is_at_rest() && !narrow => {
                    (wanted, narrow) = ((FOOTER_LEN as u64).min(length), true);
                    continue;
                }
                tail => tail?,
            };
            match read_table(&tail, length).map_err(wrong)? {
                TableRead::Table(table) => return Ok(table),
                // Only ever more, up to the whole: a damaged footer cannot loop for ever.
                TableRead::NeedTail(more) if more > wanted && more <= length => wanted = more,
                TableRead::NeedTail(_) => {
                    return Err(RepositoryError::Invalid(format!("pack {pack} has no table")));
                }
            }
        }
    }
}

/// Longest pack that writers make who aim at `pack_bytes`: pages kept back, up
/// to a quarter of it, may come on top at once, then a last frame and the table.
fn longest_pack(pack_bytes: u32) -> u64 {
    let aim = u64::from(pack_bytes);
    (aim + aim / 4 + limits::PACK_ROOM).min(MAX_PACK_LEN)
}

fn upload_failed(pack: &PackRecord, what: &str) -> RepositoryError {
    RepositoryError::UploadFailed(format!("pack {}: {what}", pack.id))
}

/// Refuses bytes that are not those announced.
fn check_content(pack: &PackRecord, length: usize, hash: Sha256) -> Result<(), RepositoryError> {
    if length as u64 != pack.length {
        return Err(upload_failed(pack, &format!("{length} of {} bytes came", pack.length)));
    }
    if hash.finalize().as_slice() != pack.id.sha256 {
        return Err(upload_failed(pack, "its bytes have another SHA-256 than announced"));
    }
    Ok(())
}

/// The table as the pack itself has it, at its end.
fn table_of(pack: &PackRecord, bytes: &Bytes) -> Result<Vec<PackEntry>, RepositoryError> {
    match read_table(bytes, pack.length) {
        Ok(TableRead::Table(table)) => Ok(table),
        Ok(TableRead::NeedTail(_)) => Err(RepositoryError::Invalid(format!("{}: no table", pack.id))),
        Err(error) => Err(RepositoryError::Invalid(format!("pack {}: {error}", pack.id))),
    }
}

/// How long an upload of so many bytes may take.
fn time_for(length: u64) -> Duration {
    limits::UPLOAD_TIME + Duration::from_secs(length / limits::UPLOAD_RATE)
}

pub(super) fn check_count(count: usize) -> Result<(), RepositoryError> {
    if count > MAX_IDS {
        return Err(RepositoryError::Invalid(format!(
            "{count} frames were asked for at once; {MAX_IDS} may be"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_archive::pack_io::FrameKind;

    use super::*;

    #[test]
    fn v04_an_upload_has_a_time_that_goes_with_its_length() {
        assert_eq!(time_for(0), Duration::from_secs(60));
        assert_eq!(time_for(32 << 20), Duration::from_secs(60 + 512));
    }

    /// Whoever learns of a presigned request has no longer than this.
    #[test]
    fn x23_a_presigned_request_is_good_for_a_quarter_of_an_hour_at_most() {
        assert!(PRESIGNED_FOR <= Duration::from_mins(15), "{PRESIGNED_FOR:?}");
    }

    #[test]
    fn v04_packs_are_as_long_as_writers_make_them() {
        assert_eq!(longest_pack(32 << 20), 48 << 20);
        assert_eq!(longest_pack(u32::MAX), MAX_PACK_LEN);
    }

    #[test]
    fn v04_tables_in_memory_are_bounded_by_their_rows() {
        let entry = PackEntry {
            id: FrameId([0; 32]),
            kind: FrameKind::Data,
            key_epoch: 0,
            offset: 0,
            stored_len: 1,
            raw_len: 1,
        };
        let pack = || PackId { sha256: [0; 32], allocation: AllocationId::generate() };
        let mut tables = Tables::default();
        for _ in 0..2 * TABLES {
            tables.put(pack(), vec![entry.clone()]);
        }
        assert_eq!((tables.known.len(), tables.rows), (TABLES, TABLES));
        let last = pack();
        for id in [pack(), last, last] {
            tables.put(id, vec![entry.clone(); TABLE_ROWS - 1]);
        }
        assert_eq!((tables.known.len(), tables.rows), (1, TABLE_ROWS - 1));
        tables.remove(&last);
        assert_eq!((tables.known.len(), tables.rows), (0, 0));
    }
}

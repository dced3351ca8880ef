//! Reading: where frames lie, bytes of packs for a lease, and snapshots for
//! whoever browses them on the controller.
//!
//! A host may read its own frames. One that restores another host's snapshot
//! gets exactly the frames of that snapshot: what lies between them in a pack
//! belongs to other sources and comes as zeros.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use holdfast_archive::frame::decode;
use holdfast_archive::ids::{FrameId, HostId, PackId, SnapshotId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::pack::MAX_PACK_LEN;
use holdfast_archive::pack_io::{FrameLocation, PackIoError, PackSource};
use holdfast_archive::store::{StoreError, StoreErrorKind};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::LeaseId;
use roaring::RoaringTreemap;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::reread::LOOKS;
use super::upload::{MAX_IDS, check_count};
use super::{Repository, RepositoryError};
use crate::catalog::frames::FoundFrame;
use crate::catalog::leases::{LeaseKind, LeaseRecord};
use crate::limits::{DECODE_TURN, READ_BYTES_OF_HOST, READ_PIECE};
use crate::model::protocol::SnapshotState;
use crate::share::Share;

/// Bitmaps of snapshots that are being read.
const READABLE: usize = 8;

/// Neighbouring frames are read together across a gap of at most this.
const GAP: u64 = 128 << 10;
/// And at most so many bytes at once.
const SPAN: u64 = 4 << 20;
/// Ranges read at once.
const READS: usize = 8;
/// The same where a host asked for it.
pub(super) const READS_OF_HOST: usize = 2;

/// A few bitmaps, the least recently made going first.
#[derive(Debug, Default)]
pub(super) struct Readable {
    known: VecDeque<(u64, Arc<RoaringTreemap>)>,
}

impl Readable {
    pub(super) fn get(&self, commit_number: u64) -> Option<Arc<RoaringTreemap>> {
        self.known.iter().find(|(number, _)| *number == commit_number).map(|(_, frames)| frames.clone())
    }

    pub(super) fn put(&mut self, commit_number: u64, frames: Arc<RoaringTreemap>) {
        self.known.push_back((commit_number, frames));
        if self.known.len() > READABLE {
            self.known.pop_front();
        }
    }
}

/// What a lease may read.
struct Scope {
    host: HostId,
    /// Of another host's snapshot: only these.
    only: Option<Arc<RoaringTreemap>>,
}

impl Repository {
    /// Where these frames lie, among those the lease may read.
    ///
    /// # Errors
    /// Too many frames are asked for at once, the lease is not this host's or has
    /// ended, or the catalogue fails.
    pub async fn locate(
        &self,
        host: HostId,
        lease: LeaseId,
        frames: &[FrameId],
    ) -> Result<Vec<Option<FrameLocation>>, RepositoryError> {
        check_count(frames.len())?;
        let lease = self.lease(host, lease).await?;
        let scope = self.scope(&lease).await?;
        self.locate_in(&scope, frames).await
    }

    async fn locate_in(
        &self,
        scope: &Scope,
        frames: &[FrameId],
    ) -> Result<Vec<Option<FrameLocation>>, RepositoryError> {
        let found = self.find_in(scope, frames).await?;
        Ok(found.into_iter().map(|frame| frame.map(|frame| frame.location)).collect())
    }

    async fn find_in(
        &self,
        scope: &Scope,
        frames: &[FrameId],
    ) -> Result<Vec<Option<FoundFrame>>, RepositoryError> {
        let found = self.catalog().find_frames(scope.host, frames).await?;
        let allowed = |number: u64| scope.only.as_ref().is_none_or(|only| only.contains(number));
        Ok(found.into_iter().map(|frame| frame.filter(|frame| allowed(frame.number))).collect())
    }

    /// Looks for itself at frames that a host says are gone or damaged, among
    /// those its lease may read. What cannot be read here either is not offered
    /// any more, and the next backup that needs it sends it again. Gives how
    /// many those are.
    ///
    /// # Errors
    /// Too many frames are named at once, the lease is not this host's or has
    /// ended, or the store cannot be asked.
    pub async fn report_lost(
        &self,
        host: HostId,
        lease: LeaseId,
        frames: &[FrameId],
    ) -> Result<u64, RepositoryError> {
        check_count(frames.len())?;
        let lease = self.lease(host, lease).await?;
        let scope = self.scope(&lease).await?;
        let found = self.find_in(&scope, frames).await?;
        // All a host may have: one such call of it at a time.
        let _share = self.inner.read_memory.take(host, READ_BYTES_OF_HOST as u64).await;
        self.note_lost(found.into_iter().flatten().collect()).await
    }

    /// [`Self::mark_lost`], for whoever asks how many those are.
    pub(super) async fn note_lost(&self, frames: Vec<FoundFrame>) -> Result<u64, RepositoryError> {
        Ok(self.mark_lost(frames).await?.len())
    }

    /// Reads these frames and marks those that are not there or not whole,
    /// after a second and a third look. Gives their numbers. Nothing is lost
    /// where the repository itself is not there.
    ///
    /// # Errors
    /// When the store fails for one pack; what was proved of the others is
    /// marked all the same.
    pub(super) async fn mark_lost(&self, frames: Vec<FoundFrame>) -> Result<RoaringTreemap, RepositoryError> {
        self.refuse_foreign().await?;
        // The same id may lie in packs of several hosts, so by place.
        let mut suspects: HashMap<PackId, Vec<FoundFrame>> = HashMap::new();
        for frame in frames {
            suspects.entry(frame.location.pack).or_default().push(frame);
        }
        let mut failed = None;
        for look in 0..LOOKS {
            if suspects.is_empty() {
                break;
            }
            // One pause for all packs: whoever reports waits for the answer.
            if look > 0 {
                self.pause().await;
            }
            let mut still = HashMap::new();
            for (pack, frames) in suspects {
                match self.not_whole(frames).await {
                    Ok(bad) if bad.is_empty() => {}
                    Ok(bad) => {
                        still.insert(pack, bad);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            suspects = still;
        }
        for (pack, frames) in &suspects {
            tracing::warn!(%pack, frames = frames.len(), "damaged: what still is on its host is sent again by the next backup");
        }
        let lost: RoaringTreemap = suspects.into_values().flatten().map(|frame| frame.number).collect();
        self.catalog().mark_damaged(&lost).await?;
        failed.map_or(Ok(lost), Err)
    }

    /// Those of a pack's frames that do not come whole. Two hosts may have a
    /// row each for one frame.
    async fn not_whole(&self, frames: Vec<FoundFrame>) -> Result<Vec<FoundFrame>, RepositoryError> {
        // Whether it is whole is all that is asked: what it decodes to is dropped at once.
        let wanted = frames.iter().map(|frame| frame.location.clone()).collect();
        let read = self.read_with(wanted, READS_OF_HOST, drop).await?;
        let whole: HashSet<FrameId> = read.into_iter().filter_map(|(id, whole)| whole.map(|()| id)).collect();
        Ok(frames.into_iter().filter(|frame| !whole.contains(&frame.location.entry.id)).collect())
    }

    /// That range of the pack, as far as the lease may read it, piece by piece.
    ///
    /// # Errors
    /// The lease is not this host's, has ended or may not read the pack, the range
    /// is none, or the catalogue fails.
    pub async fn read_pack(
        &self,
        host: HostId,
        lease: LeaseId,
        pack: PackId,
        range: Range<u64>,
    ) -> Result<PackReading, RepositoryError> {
        let lease = self.lease(host, lease).await?;
        let scope = self.scope(&lease).await?;
        if range.start > range.end || range.end > MAX_PACK_LEN {
            return Err(RepositoryError::Invalid(format!("{range:?} is no range of a pack")));
        }
        let denied = || RepositoryError::Denied(format!("pack {pack} is not one this lease may read"));
        let Some(only) = scope.only else {
            if self.catalog().pack(&pack).await?.is_some_and(|row| row.host == scope.host) {
                return Ok(self.reading(host, pack, range, None).await);
            }
            // A rebuilt catalogue may know frames of one pack for two hosts.
            let inside = self.frames_of_host_in(scope.host, &pack).await?;
            if inside.is_empty() {
                return Err(denied());
            }
            return Ok(self.reading(host, pack, range, Some(inside)).await);
        };
        let frames = self.catalog().frames_of_pack(&pack).await?;
        let readable = frames.into_iter().filter(|frame| only.contains(frame.number));
        let inside: Vec<Range<u64>> = readable.map(|frame| extent(&frame.location)).collect();
        if inside.is_empty() {
            return Err(denied());
        }
        Ok(self.reading(host, pack, range, Some(inside)).await)
    }

    async fn reading(
        &self,
        host: HostId,
        pack: PackId,
        rest: Range<u64>,
        inside: Option<Vec<Range<u64>>>,
    ) -> PackReading {
        let turn = Arc::new(self.inner.reads.take(host).await);
        PackReading { repository: self.clone(), host, pack, rest, inside, turn }
    }

    /// Where frames that have a row of this host lie in another's pack.
    async fn frames_of_host_in(
        &self,
        host: HostId,
        pack: &PackId,
    ) -> Result<Vec<Range<u64>>, RepositoryError> {
        let there = self.catalog().frames_of_pack(pack).await?;
        let ids: Vec<FrameId> = there.iter().map(|frame| frame.location.entry.id).collect();
        let mut inside = Vec::new();
        for ids in ids.chunks(MAX_IDS) {
            let found = self.catalog().find_frames(host, ids).await?;
            let here = found.into_iter().flatten().filter(|frame| frame.location.pack == *pack);
            inside.extend(here.map(|frame| extent(&frame.location)));
        }
        inside.sort_unstable_by_key(|range: &Range<u64>| range.start);
        inside.dedup();
        Ok(inside)
    }

    async fn scope(&self, lease: &LeaseRecord) -> Result<Scope, RepositoryError> {
        match (lease.kind, lease.snapshot) {
            (LeaseKind::Upload { .. }, _) | (LeaseKind::Restore, None) => {
                Ok(Scope { host: lease.host, only: None })
            }
            (LeaseKind::Restore, Some(number)) => {
                let Some(record) = self.catalog().snapshot_by_commit(number).await? else {
                    return Err(RepositoryError::LeaseLost(format!(
                        "the snapshot that lease {} restores is gone",
                        lease.id
                    )));
                };
                let host = record.id.host;
                let only = if host == lease.host { None } else { Some(self.frames_of(number).await?) };
                Ok(Scope { host, only })
            }
        }
    }

    /// A snapshot's root page and a source for its frames. The source blocks
    /// and is for plain threads.
    ///
    /// # Errors
    /// There is no snapshot of this id that can be restored, or the catalogue
    /// fails.
    pub async fn reader(&self, id: &SnapshotId) -> Result<(FrameId, Arc<dyn PackSource>), RepositoryError> {
        let record = self.get(id).await?;
        if !matches!(record.state, SnapshotState::Committed | SnapshotState::Forgotten) {
            return Err(RepositoryError::no_snapshot(id));
        }
        let source = SnapshotSource { repository: self.clone(), host: id.host, runtime: Handle::current() };
        Ok((record.root, Arc::new(source)))
    }

    /// Reads and decodes frames; `None` for one whose bytes are not there or
    /// are not the frame.
    pub(super) async fn read_frames(
        &self,
        wanted: Vec<FrameLocation>,
    ) -> Result<Vec<(FrameId, Option<Bytes>)>, RepositoryError> {
        self.read_with(wanted, READS, |raw| raw).await
    }

    pub(super) async fn read_with<T: Send + 'static>(
        &self,
        mut wanted: Vec<FrameLocation>,
        at_once: usize,
        keep: fn(Bytes) -> T,
    ) -> Result<Vec<(FrameId, Option<T>)>, RepositoryError> {
        wanted.sort_by_key(|location| (location.pack, location.entry.offset));
        let mut spans: Vec<Vec<FrameLocation>> = Vec::new();
        for location in wanted {
            let joins = spans.last().and_then(|span| Some((span.first()?, span.last()?))).is_some_and(
                |(first, last)| {
                    first.pack == location.pack
                        && location.entry.offset <= extent(last).end + GAP
                        && extent(&location).end - first.entry.offset <= SPAN
                },
            );
            match spans.last_mut() {
                Some(span) if joins => span.push(location),
                _ => spans.push(vec![location]),
            }
        }
        let read = spans.into_iter().map(|span| self.read_span(span, keep));
        let read: Vec<Vec<_>> =
            futures_util::stream::iter(read).buffer_unordered(at_once).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    async fn read_span<T: Send + 'static>(
        &self,
        span: Vec<FrameLocation>,
        keep: fn(Bytes) -> T,
    ) -> Result<Vec<(FrameId, Option<T>)>, RepositoryError> {
        let (Some(first), Some(last)) = (span.first(), span.last()) else { return Ok(Vec::new()) };
        let start = first.entry.offset;
        let range = start..extent(last).end;
        let bytes = match self.store().get_range(&ObjectKey::Pack(first.pack), range).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return Ok(span.into_iter().map(|location| (location.entry.id, None)).collect());
            }
            Err(error) if error.is_at_rest() => return self.read_one_by_one(span, keep).await,
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                return self.read_before_the_end(span, keep, error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let mut read = Vec::with_capacity(span.len());
        for turn in grouped(span, DECODE_TURN) {
            let Ok(_decoder) = self.inner.decoders.acquire().await else { break };
            let bytes = bytes.clone();
            // Decoding and hashing take milliseconds a frame: not on a thread that serves calls.
            let decoding = tokio::task::spawn_blocking(move || {
                let frame = |location: &FrameLocation| frame_of(&bytes, start, location).map(keep);
                turn.iter().map(|location| (location.entry.id, frame(location))).collect::<Vec<_>>()
            });
            let broken = |error| RepositoryError::Damaged(format!("decoding broke off: {error}"));
            read.extend(decoding.await.map_err(broken)?);
        }
        Ok(read)
    }

    /// Reads around what the medium has lost: a bad sector costs the frames
    /// that lie on it.
    async fn read_one_by_one<T: Send + 'static>(
        &self,
        span: Vec<FrameLocation>,
        keep: fn(Bytes) -> T,
    ) -> Result<Vec<(FrameId, Option<T>)>, RepositoryError> {
        if let [location] = &span[..] {
            return Ok(vec![(location.entry.id, None)]);
        }
        let mut read = Vec::with_capacity(span.len());
        for location in span {
            read.extend(Box::pin(self.read_span(vec![location], keep)).await?);
        }
        Ok(read)
    }

    /// Reads what a pack that ends too early still has: frames beyond its end
    /// are lost, those before are not. A pack that has all its bytes came wrong
    /// on its way, and nothing is lost.
    async fn read_before_the_end<T: Send + 'static>(
        &self,
        span: Vec<FrameLocation>,
        keep: fn(Bytes) -> T,
        error: StoreError,
    ) -> Result<Vec<(FrameId, Option<T>)>, RepositoryError> {
        let Some(pack) = span.first().map(|first| first.pack) else { return Ok(Vec::new()) };
        let length = self.store().head(&ObjectKey::Pack(pack)).await?.map_or(0, |meta| meta.len);
        let (before, beyond): (Vec<_>, Vec<_>) =
            span.into_iter().partition(|location| extent(location).end <= length);
        if beyond.is_empty() {
            return Err(error.into());
        }
        let mut read = Box::pin(self.read_span(before, keep)).await?;
        read.extend(beyond.into_iter().map(|location| (location.entry.id, None)));
        Ok(read)
    }
}

/// Bytes of a pack on their way to a host. One of its turns is taken as long
/// as this, or what was made of it, is there.
#[derive(Debug)]
pub struct PackReading {
    repository: Repository,
    host: HostId,
    pack: PackId,
    rest: Range<u64>,
    /// Everything else reads as zeros; `None`: all is as it is.
    inside: Option<Vec<Range<u64>>>,
    turn: Arc<OwnedSemaphorePermit>,
}

/// Bytes, and what was taken of the host's share for them.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Bytes,
    _share: Share,
}

impl PackReading {
    /// Keeps the turn for as long as the answer is open.
    pub fn turn(&self) -> Arc<OwnedSemaphorePermit> {
        self.turn.clone()
    }

    /// The next piece, once there is memory for it; `None` after the last.
    ///
    /// # Errors
    /// The store cannot read it.
    pub async fn next(&mut self) -> Result<Option<Piece>, RepositoryError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let range = self.rest.start..self.rest.end.min(self.rest.start + READ_PIECE as u64);
        let share = self.repository.inner.read_memory.take(self.host, range.end - range.start).await;
        let bytes = self.repository.store().get_range(&ObjectKey::Pack(self.pack), range.clone()).await?;
        let bytes = match &self.inside {
            Some(inside) => keep_only(&bytes, range.start, inside),
            None => bytes,
        };
        self.rest.start = range.end;
        Ok(Some(Piece { bytes, _share: share }))
    }
}

/// Frames in their order, in groups of at most so many raw bytes, or of one.
pub(super) fn grouped(
    frames: impl IntoIterator<Item = FrameLocation>,
    most: usize,
) -> Vec<Vec<FrameLocation>> {
    let mut groups: Vec<Vec<FrameLocation>> = Vec::new();
    let mut bytes = 0;
    for frame in frames {
        let raw = frame.entry.raw_len as usize;
        match groups.last_mut() {
            Some(group) if bytes + raw <= most => {
                bytes += raw;
                group.push(frame);
            }
            _ => {
                bytes = raw;
                groups.push(vec![frame]);
            }
        }
    }
    groups
}

/// A frame out of the bytes of a pack from `start` on; `None`: they are not it.
fn frame_of(bytes: &Bytes, start: u64, location: &FrameLocation) -> Option<Bytes> {
    let at = (location.entry.offset - start) as usize;
    decode(bytes.get(at..at + location.entry.stored_len as usize)?, &location.entry).ok()
}

fn extent(location: &FrameLocation) -> Range<u64> {
    location.entry.offset..location.entry.offset + u64::from(location.entry.stored_len)
}

/// The bytes from `start` on, zero where none of the ranges is.
fn keep_only(bytes: &[u8], start: u64, ranges: &[Range<u64>]) -> Bytes {
    let mut kept = BytesMut::zeroed(bytes.len());
    for range in ranges {
        let at = |position: u64| (position.saturating_sub(start) as usize).min(bytes.len());
        let (from, to) = (at(range.start), at(range.end));
        kept[from..to].copy_from_slice(&bytes[from..to]);
    }
    kept.freeze()
}

/// Frames of one host, read on the controller.
#[derive(Debug)]
pub struct SnapshotSource {
    repository: Repository,
    host: HostId,
    runtime: Handle,
}

impl PackSource for SnapshotSource {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        let scope = Scope { host: self.host, only: None };
        self.runtime.block_on(self.repository.locate_in(&scope, frames)).map_err(|error| match error {
            RepositoryError::Store(error) => error.into(),
            other => PackIoError::new(ErrorCode::CatalogFailed.as_str(), other.to_string()),
        })
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        Ok(self.runtime.block_on(self.repository.store().get_range(&ObjectKey::Pack(*pack), range))?)
    }

    fn lost(&self, frame: &FrameId, pack: &PackId) {
        let scope = Scope { host: self.host, only: None };
        let noted = self.runtime.block_on(async {
            let found = self.repository.find_in(&scope, &[*frame]).await?;
            self.repository.note_lost(found.into_iter().flatten().collect()).await
        });
        if let Err(error) = noted {
            tracing::warn!(%pack, %error, "damage could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::AllocationId;
    use holdfast_archive::pack_io::{FrameKind, PackEntry};

    use super::*;

    #[test]
    fn v04_frames_that_decode_to_much_are_taken_a_few_at_a_time() {
        let pack = PackId { sha256: [0; 32], allocation: AllocationId::generate() };
        let frame = |offset, raw_len| FrameLocation {
            pack,
            entry: PackEntry {
                id: FrameId([0; 32]),
                kind: FrameKind::Data,
                key_epoch: 0,
                offset,
                stored_len: 369,
                raw_len,
            },
        };
        let lengths = |frames: Vec<FrameLocation>, most| -> Vec<usize> {
            grouped(frames, most).iter().map(Vec::len).collect()
        };
        assert_eq!(lengths((0..9).map(|n| frame(n * 369, 4 << 20)).collect(), 16 << 20), [4, 4, 1]);
        assert_eq!(lengths((0..3).map(|n| frame(n * 369, 4 << 20)).collect(), 1), [1, 1, 1]);
        assert_eq!(lengths(Vec::new(), 1), [0; 0]);
    }

    #[test]
    fn what_is_not_allowed_reads_as_zeros() {
        let bytes = b"0123456789";
        assert_eq!(keep_only(bytes, 100, &[102..104, 108..200, 0..101]).as_ref(), b"0\x0023\0\0\0\x0089");
        assert_eq!(keep_only(bytes, 100, &[0..50, 300..400]).as_ref(), &[0; 10]);
        assert_eq!(keep_only(bytes, 0, &[0..4, 4..10]).as_ref(), bytes);
    }
}

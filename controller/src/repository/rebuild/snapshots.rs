//! The snapshots of the bucket, and what each reaches.
//!
//! A listing may leave one out, so those that have a row are asked for by
//! name, and so is each number that `state/head` says was given. The object of
//! one that has a row can be written again; the frames of one without are what
//! nobody must delete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::StreamExt as _;
use holdfast_archive::ids::{RepositoryId, SnapshotId};
use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::manifest::page_refs;
use holdfast_archive::snapshot::{Names, SnapshotBody, SnapshotHeader, decode_body, decode_object};
use holdfast_archive::state::Head;
use roaring::RoaringTreemap;

use super::bucket::{Bucket, Seen};
use super::{Losses, REQUESTS, Repository, RepositoryError};
use crate::catalog::losses::LossRow;
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::model::protocol::SnapshotState;
use crate::repository::reread::{LOOKS, is_about_object};

/// Manifest pages read together.
const PAGES: usize = 256;
/// Numbers of one source that are asked for though no listing has them, the
/// newest first.
const NUMBERS: u64 = 4096;
/// And of all sources together.
const ALL_NUMBERS: u64 = 100_000;

/// What the bucket answers for a snapshot.
enum Answer {
    Object(SnapshotHeader, Box<SnapshotBody>),
    Absent,
    /// An object, but not that snapshot's, or damaged.
    Unusable(String),
}

impl Repository {
    /// Finds all snapshots. Those that are missing and have no row are losses.
    pub(super) async fn survey_snapshots(
        &self,
        bucket: &mut Bucket,
        head: &Head,
        losses: &mut Losses,
    ) -> Result<(), RepositoryError> {
        let repository = self.id().await?;
        let states = SnapshotState::ALL.to_vec();
        let rows = self.list(&SnapshotFilter { states, ..SnapshotFilter::default() }).await?;
        // Three sources of names: the rows, the listing, and the numbers that were given.
        let rows: BTreeMap<SnapshotId, SnapshotRecord> = rows.into_iter().map(|row| (row.id, row)).collect();
        let mut expected: BTreeSet<SnapshotId> = rows.keys().copied().collect();
        for (key, _) in self.list_all(Prefix::Snapshots).await? {
            if let ObjectKey::Snapshot(id) = key {
                expected.insert(id);
            }
        }
        let guessed: Vec<SnapshotId> = given(head).filter(|id| !expected.contains(id)).collect();
        // What should be there is asked for several times, for an absence is a loss; what is
        // merely possible, once.
        let mut answers = self.ask(expected.into_iter().collect(), repository, LOOKS).await?;
        answers.extend(self.ask(guessed, repository, 1).await?.into_iter().filter(is_there));
        answers.sort_unstable_by_key(|(id, _)| *id);
        for (id, answer) in answers {
            match (answer, rows.get(&id)) {
                (Answer::Object(header, body), row) => {
                    if row.is_none() && bucket.was_removed(&id) {
                        bucket.notes.push(format!(
                            "snapshot {id} was removed for good, and its object is in the bucket again: \
                             somebody put it back; it counts as a snapshot from now on"
                        ));
                    }
                    let frames = RoaringTreemap::new();
                    bucket.snapshots.push(Seen { header, body: *body, stored: true, frames });
                }
                (answer, Some(row)) => {
                    if let Answer::Unusable(reason) = answer {
                        bucket.unusable.insert(id, reason);
                    }
                    bucket.snapshots.extend(self.seen_in_row(row, repository).await?);
                }
                (Answer::Unusable(reason), None) => losses.add(&id, LossRow::WHOLE, reason),
                (Answer::Absent, None) => {
                    let reason = format!("snapshot {id} is listed, and its object cannot be had");
                    losses.add(&id, LossRow::WHOLE, reason);
                }
            }
        }
        // In the order they were made, for their rows are written in it.
        bucket.snapshots.sort_by_key(|seen| seen.header.commit_number);
        Ok(())
    }

    /// A snapshot as its row has it; none that is on its way out.
    async fn seen_in_row(
        &self,
        row: &SnapshotRecord,
        repository: RepositoryId,
    ) -> Result<Option<Seen>, RepositoryError> {
        if row.state == SnapshotState::Purging {
            return Ok(None);
        }
        let body = self.catalog().snapshot_body(row.commit_number).await?;
        let Some(body) = body.and_then(|bytes| decode_body(&bytes).ok()) else { return Ok(None) };
        let header = SnapshotHeader {
            repository,
            id: row.id,
            created_unix_ms: row.created_ms,
            commit_number: row.commit_number,
            names: Names {
                host: row.host_name.clone(),
                kind: row.source_kind.clone(),
                source: row.source_name.clone(),
            },
        };
        Ok(Some(Seen { header, body, stored: false, frames: RoaringTreemap::new() }))
    }

    /// Asks for each of these by name, up to so many times.
    async fn ask(
        &self,
        ids: Vec<SnapshotId>,
        repository: RepositoryId,
        looks: usize,
    ) -> Result<Vec<(SnapshotId, Answer)>, RepositoryError> {
        let (mut left, mut answers) = (ids, Vec::new());
        for look in 1..=looks {
            if left.is_empty() {
                break;
            }
            if look > 1 {
                self.pause().await;
            }
            let objects = left.iter().map(|id| {
                let key = ObjectKey::Snapshot(*id);
                async move { (*id, self.store().get(&key).await) }
            });
            let objects: Vec<_> =
                futures_util::stream::iter(objects).buffer_unordered(REQUESTS).collect().await;
            left.clear();
            for (id, object) in objects {
                let answer = match object {
                    Ok(object) => read(id, repository, &object),
                    Err(error) if error.is_not_found() => Answer::Absent,
                    Err(error) if is_about_object(&error) => {
                        Answer::Unusable(format!("snapshot {id}: {error}"))
                    }
                    Err(error) => return Err(error.into()),
                };
                // What is gone or damaged is so at the last look alone.
                match answer {
                    Answer::Absent | Answer::Unusable(_) if look < looks => left.push(id),
                    answer => answers.push((id, answer)),
                }
            }
        }
        Ok(answers)
    }

    /// Follows each snapshot from its root; each page is read once.
    pub(super) async fn follow(&self, bucket: &mut Bucket) -> Result<(), RepositoryError> {
        // Of all snapshots together: most pages of one are those of the one before.
        let mut known: HashMap<u64, (RoaringTreemap, RoaringTreemap)> = HashMap::new();
        for at in 0..bucket.snapshots.len() {
            let root = bucket.number(bucket.snapshots[at].body.root);
            let mut all = RoaringTreemap::from_iter([root]);
            let (mut todo, mut done) = (all.clone(), RoaringTreemap::new());
            while !todo.is_empty() {
                let batch: RoaringTreemap = todo.iter().take(PAGES).collect();
                todo -= &batch;
                done |= &batch;
                let unknown: Vec<u64> = batch.iter().filter(|number| !known.contains_key(number)).collect();
                for (number, raw) in self.read_anywhere(bucket, &unknown).await? {
                    known.insert(number, bucket.refs(raw.as_deref()));
                }
                for number in &batch {
                    let (pages, data) = &known[&number];
                    todo |= pages - &done;
                    all |= pages;
                    all |= data;
                }
            }
            bucket.pages |= &done;
            bucket.snapshots[at].frames = all;
        }
        Ok(())
    }
}

impl Bucket {
    /// Whether a snapshot without a row is one that the catalogue once had: its
    /// number was given before this survey began.
    fn was_removed(&self, id: &SnapshotId) -> bool {
        self.given.get(&(id.host, id.source)).is_some_and(|highest| id.number <= *highest)
    }

    /// Pages and data a page refers to. Of a page that could not be read that
    /// is unknown, and none.
    fn refs(&mut self, raw: Option<&[u8]>) -> (RoaringTreemap, RoaringTreemap) {
        let Some(refs) = raw.and_then(|raw| page_refs(raw).ok()) else {
            return (RoaringTreemap::new(), RoaringTreemap::new());
        };
        let pages = refs.pages.into_iter().map(|id| self.number(id)).collect();
        let data = refs.data.into_iter().map(|id| self.number(id)).collect();
        (pages, data)
    }
}

fn is_there((_, answer): &(SnapshotId, Answer)) -> bool {
    !matches!(answer, Answer::Absent)
}

fn read(id: SnapshotId, repository: RepositoryId, object: &[u8]) -> Answer {
    match decode_object(object) {
        Ok((header, _)) if header.id != id || header.repository != repository => {
            Answer::Unusable(format!("the object of snapshot {id} is of another snapshot or repository"))
        }
        Ok((header, body)) => Answer::Object(header, Box::new(body)),
        Err(error) => Answer::Unusable(format!("snapshot {id}: {error}")),
    }
}

/// Snapshots whose numbers were given, the newest of each source.
fn given(head: &Head) -> impl Iterator<Item = SnapshotId> + '_ {
    // One request for each: the bound is shared, and a source among many has fewer.
    let each = (ALL_NUMBERS / (head.numbers.len() as u64).max(1)).clamp(1, NUMBERS);
    head.numbers.iter().flat_map(move |((host, source), highest)| {
        let first = highest.saturating_sub(each).saturating_add(1).max(1);
        (first..=*highest).map(move |number| SnapshotId { host: *host, source: *source, number })
    })
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::{HostId, SourceId};

    use super::*;

    #[test]
    fn numbers_that_were_given_are_asked_for_within_bounds() {
        let (host, source) = (HostId::generate(), SourceId::generate());
        let numbers = |highest| {
            let numbers = BTreeMap::from([((host, source), highest)]);
            let head = Head { commit_number: 9, numbers, audit: None };
            given(&head).map(|id| id.number).collect::<Vec<u64>>()
        };
        assert_eq!(numbers(0), [0_u64; 0]);
        assert_eq!(numbers(3), [1, 2, 3]);
        let most = numbers(u64::MAX - 1);
        assert_eq!((most.len() as u64, most.last()), (NUMBERS, Some(&(u64::MAX - 1))));
    }
}

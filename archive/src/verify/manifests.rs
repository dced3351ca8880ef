//! Every reference of every snapshot.
//!
//! Pages are shared between snapshots, so each is looked at once and what was
//! found below it is remembered. Only where something was found, or where
//! every pack is read anyway, are entries read one by one: that names the
//! files, and shows pages that are sound by themselves but in a wrong place.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Findings, Problem, ProblemKind, VerifyProgress, chain};
use crate::entry::EntryKind;
use crate::fetch::FrameFetcher;
use crate::ids::{FrameId, PackId, SnapshotId};
use crate::keys::ObjectKey;
use crate::manifest::{ManifestError, ManifestReader, PageRefs, page_refs};
use crate::pack_io::PackSource;
use crate::repository::{DirectSession, Snapshot};

const CACHE_BYTES: usize = 32 << 20;
/// Frames looked up at once.
const BATCH: usize = 4096;
/// Raw bytes of pages read together and held until they are looked at, for each
/// level of a manifest, of which there are few: neighbours lie together, and a
/// request brings a hundred of them instead of one.
const AHEAD_BYTES: usize = 8 << 20;

/// Walks from every snapshot; gives what was found with it. Blocks, and asks
/// the store much: for a thread of its own.
pub(super) fn check(
    session: DirectSession,
    snapshots: &[&Snapshot],
    thorough: bool,
    progress: &VerifyProgress,
    findings: Findings,
) -> Findings {
    let source: Arc<dyn PackSource> = Arc::new(session);
    let fetcher = FrameFetcher::new(source.clone(), CACHE_BYTES);
    let mut walk = Walk {
        fetcher: &fetcher,
        source: &*source,
        findings,
        below: HashMap::new(),
        missing: HashMap::new(),
        read: HashMap::new(),
    };
    progress.snapshots_total.store(snapshots.len() as u64, Ordering::Relaxed);
    progress.snapshots_done.store(0, Ordering::Relaxed);
    for snapshot in snapshots {
        walk.snapshot(snapshot, thorough);
        VerifyProgress::add(&progress.snapshots_done, 1);
    }
    walk.findings
}

struct Walk<'a> {
    fetcher: &'a FrameFetcher,
    source: &'a dyn PackSource,
    findings: Findings,
    /// Problems at or below each page that was looked at.
    below: HashMap<FrameId, Arc<BTreeSet<usize>>>,
    /// The problem of frames that are missing from each hinted pack.
    missing: HashMap<Option<PackId>, usize>,
    /// Roots whose entries were read, and whether they were sound.
    read: HashMap<FrameId, bool>,
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot, thorough: bool) {
        let root = snapshot.body.root;
        let problems = self.page(root, 0, None);
        for &problem in problems.iter() {
            self.findings.report.problems[problem].snapshots.insert(snapshot.header.id);
        }
        let known_sound = self.read.get(&root).copied().unwrap_or(false);
        if !problems.is_empty() || (thorough && !known_sound) {
            let sound = self.entries(snapshot);
            self.read.insert(root, sound);
        }
    }

    /// Problems at or below each of these pages.
    fn pages(&mut self, pages: &[FrameId], depth: usize) -> BTreeSet<usize> {
        let mut problems = BTreeSet::new();
        let mut ready = HashMap::new();
        for (n, page) in pages.iter().enumerate() {
            if ready.is_empty() && !self.is_settled(page) {
                let ahead: Vec<FrameId> =
                    pages[n..].iter().filter(|page| !self.is_settled(page)).copied().collect();
                ready = self.fetcher.ahead(&ahead, AHEAD_BYTES);
            }
            // One that did not come is asked for by itself, which says why.
            let raw = ready.remove(page);
            problems.extend(self.page(*page, depth, raw).iter());
        }
        problems
    }

    /// Whether a page need not be read.
    fn is_settled(&self, page: &FrameId) -> bool {
        self.below.contains_key(page) || self.findings.lost.contains_key(page)
    }

    /// Problems at or below a page; `raw` where it was read already.
    fn page(&mut self, id: FrameId, depth: usize, raw: Option<Bytes>) -> Arc<BTreeSet<usize>> {
        // Snapshots share most of their pages: each is read once, and its problems count for all of
        // them.
        if let Some(known) = self.below.get(&id) {
            return known.clone();
        }
        let mut problems = BTreeSet::new();
        match self.references(id, depth, raw) {
            Err(problem) => {
                problems.insert(problem);
            }
            Ok(PageRefs { pages, data }) => {
                problems.extend(self.data(&data));
                problems.extend(self.pages(&pages, depth + 1));
            }
        }
        let problems = Arc::new(problems);
        self.below.insert(id, problems.clone());
        problems
    }

    fn references(&mut self, id: FrameId, depth: usize, raw: Option<Bytes>) -> Result<PageRefs, usize> {
        const MAX_DEPTH: usize = 100;
        // Ids are hashes, so pages cannot refer to each other in a circle; a chain can still be
        // longer than a stack.
        if depth > MAX_DEPTH {
            let detail = "pages refer to each other deeper than any manifest goes";
            return Err(self.findings.add(Problem::new(ProblemKind::ManifestPage, id, detail)));
        }
        if let Some(&problem) = self.findings.lost.get(&id) {
            return Err(problem);
        }
        let raw = match raw.map_or_else(|| self.fetcher.get(id), Ok) {
            Ok(raw) => raw,
            Err(error) if error.is_loss() => return Err(self.lost(id, &chain(&error))),
            Err(error) => {
                let problem = Problem::new(ProblemKind::NotRead, format!("page {id}"), chain(&error));
                return Err(self.findings.add(problem));
            }
        };
        page_refs(&raw).map_err(|error| {
            self.findings.add(Problem::new(ProblemKind::ManifestPage, format!("page {id}"), chain(&error)))
        })
    }

    /// Problems of data frames that are referred to.
    fn data(&mut self, frames: &[FrameId]) -> BTreeSet<usize> {
        let mut problems = BTreeSet::new();
        for batch in frames.chunks(BATCH) {
            // The index is in memory and does not fail.
            let found = self.source.locate(batch).unwrap_or_else(|_| vec![None; batch.len()]);
            for (frame, location) in batch.iter().zip(found) {
                if let Some(&problem) = self.findings.lost.get(frame) {
                    problems.insert(problem);
                } else if location.is_none() {
                    problems.insert(self.lost(*frame, "no pack has it"));
                }
            }
        }
        problems
    }

    /// Books a frame that cannot be had on what is the reason.
    fn lost(&mut self, frame: FrameId, detail: &str) -> usize {
        if let Some(&problem) = self.findings.lost.get(&frame) {
            return problem;
        }
        let location = self.source.locate(&[frame]).ok().and_then(|mut found| found.pop().flatten());
        let problem = if let Some(location) = location {
            // It is listed where it should be and did not come: the pack is at fault.
            self.findings.add_pack(location.pack, ProblemKind::PackFrames, detail)
        } else {
            let pack = self.findings.hinted.get(&frame).copied();
            match (pack, self.missing.get(&pack).copied().or_else(|| self.findings.unlisted())) {
                (_, Some(known)) => known,
                (Some(pack), None) => {
                    let detail =
                        "frames that snapshots use were in it; it is not there, or its table is damaged";
                    let problem = self.findings.add_pack(pack, ProblemKind::MissingPack, detail);
                    self.missing.insert(Some(pack), problem);
                    problem
                }
                (None, None) => {
                    let detail = format!(
                        "snapshots use frames that no pack has, {frame} first: a pack is missing or its table is damaged"
                    );
                    let problem = self.findings.add(Problem::new(
                        ProblemKind::MissingFrames,
                        format!("{}*", crate::keys::Prefix::Packs),
                        detail,
                    ));
                    self.missing.insert(None, problem);
                    problem
                }
            }
        };
        self.findings.lose(frame, problem);
        problem
    }

    /// Reads all entries; names the files that are touched. Whether the whole
    /// could be read.
    fn entries(&mut self, snapshot: &Snapshot) -> bool {
        let id = snapshot.header.id;
        let mut sound = true;
        for outcome in ManifestReader::open(self.fetcher, snapshot.body.root).entries() {
            let entry = match outcome {
                Ok(entry) => entry,
                Err(error) => {
                    sound = false;
                    self.unread(id, &error);
                    continue;
                }
            };
            let EntryKind::File(data) = &entry.kind else { continue };
            let touched: BTreeSet<usize> = data
                .extents
                .iter()
                .filter_map(|extent| self.findings.lost.get(&extent.frame))
                .copied()
                .collect();
            sound &= touched.is_empty();
            for problem in touched {
                self.findings.report.problems[problem].touch(id, &entry.path);
            }
        }
        sound
    }

    /// Books a page that could not be read: on what is known of it, or as a
    /// problem of its own.
    fn unread(&mut self, id: SnapshotId, error: &ManifestError) {
        let page = error.page();
        let known = page.and_then(|page| self.below.get(&page)).filter(|found| !found.is_empty());
        if let Some(known) = known {
            for &problem in known.iter() {
                self.findings.report.problems[problem].snapshots.insert(id);
            }
            return;
        }
        let object = page.map_or(ObjectKey::Snapshot(id).to_string(), |page| format!("page {page}"));
        let kind = if error.is_loss() { ProblemKind::ManifestPage } else { ProblemKind::NotRead };
        let mut problem = Problem::new(kind, object, chain(error));
        problem.snapshots.insert(id);
        let problem = self.findings.add(problem);
        let Some(page) = page else { return };
        // It came for the first reading and not for this one.
        if matches!(error, ManifestError::Fetch(error) if error.is_loss()) {
            self.findings.lose(page, problem);
        }
        self.below.insert(page, Arc::new(BTreeSet::from([problem])));
    }
}

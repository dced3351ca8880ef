//! Whether a repository still is what it was.
//!
//! Works from the store alone; nothing is believed because it was true
//! yesterday. Level metadata lists everything, reads every object but the
//! frames of packs, and follows every manifest to its last reference. Level
//! packs also reads packs from end to end, all or a share, and decodes every
//! frame in them. Together every bit of every object is looked at.
//!
//! The repository may be in use. Snapshots are listed before packs: what one
//! uses was stored before it was. And what then seems to be lost is looked for
//! again (`looks`), since a collection may have run: snapshots go before their
//! packs do, and a frame is stored anew before its damaged copy goes.
//!
//! A problem does not end the verification. Each is reported once, by the
//! object that is at fault, with the snapshots and files it costs; a frame
//! that also lies elsewhere, sound, costs nothing.
//!
//! Called by the controller's verification and by the command line. It reads and
//! never writes; what is to be done about a problem is the caller's.

mod looks;
mod manifests;
mod packs;
mod report;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use report::{AffectedFile, Problem, ProblemKind, Report};

use crate::ids::{FrameId, PackId};
use crate::keys::{ObjectKey, Prefix, StateFile};
use crate::pack_io::{FrameLocation, PackEntry};
use crate::repository::{Index, RECOVERY_FILES, Repository, RepositoryInfo, Snapshots, is_released, list};
use crate::state::{Head, decode_head, decode_hosts, decode_index, decode_policies};
use crate::store::{Listed, StoreError};
use crate::text::causes as chain;

/// Of a file under `RECOVERY/` that no release known to this program wrote.
const FOREIGN_RECOVERY: &str = "it is not a file that this release of Holdfast or one before it wrote: somebody \
     changed it, or a newer release wrote it; do not run or follow it; `holdfast-controller verify` of the release \
     you trust writes its own in its place";

/// A part of all packs, by their hash: part `part` of `of`, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub part: u32,
    pub of: u32,
}

impl Share {
    pub const ALL: Self = Self { part: 0, of: 1 };

    fn covers(self, pack: &PackId) -> bool {
        let [a, b, c, d, ..] = pack.sha256;
        u32::from_be_bytes([a, b, c, d]) % self.of.max(1) == self.part
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All objects but the frames of packs.
    Metadata,
    /// And a share of the packs from end to end.
    Packs(Share),
}

/// How far a verification has come. Read from another thread.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    pub packs_total: AtomicU64,
    pub packs_done: AtomicU64,
    pub bytes_done: AtomicU64,
    pub snapshots_total: AtomicU64,
    pub snapshots_done: AtomicU64,
}

impl VerifyProgress {
    fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Verifies a repository.
///
/// # Errors
/// Only if the store cannot list the repository. Whatever else fails is in
/// the report.
pub async fn verify(
    repository: &Repository,
    level: Level,
    progress: Arc<VerifyProgress>,
) -> Result<Report, StoreError> {
    verify_with(repository, level, &[], progress).await
}

/// [`verify`], where somebody also knows which packs there should be, with
/// their lengths in bytes.
///
/// # Errors
/// As [`verify`].
pub async fn verify_with(
    repository: &Repository,
    level: Level,
    expected: &[(PackId, u64)],
    progress: Arc<VerifyProgress>,
) -> Result<Report, StoreError> {
    let mut findings = Findings::default();
    // Snapshots before packs, as said above: what one of these needs was stored before it was
    // listed.
    let snapshots = repository.snapshots().await?;
    let listed = list(repository.store(), Prefix::All).await?;
    findings.report.objects = listed.len() as u64;
    // Whoever can write to the bucket can put anything there; nothing of it is used, and it is
    // named.
    for object in listed.iter().filter(|object| object.key.is_none()) {
        let detail = "no object of a repository has such a name: something else was put here";
        findings.add(Problem::new(ProblemKind::UnknownObject, &object.name, detail));
    }
    check_info(repository, &mut findings).await;
    let index = repository.load_index().await?;
    compare_listing(&listed, expected, &mut findings);
    check_hints(repository, &listed, &index, &mut findings).await;
    packs::check(repository, &index, level, &progress, &mut findings).await;
    findings.report.packs = (index.packs().len() + index.broken().len()) as u64;
    findings.report.frames = index.frames() as u64;
    check_state(repository, &snapshots, &mut findings).await;
    let looks = looks::Looks {
        session: repository.session_with(index),
        snapshots: Arc::new(snapshots),
        thorough: level != Level::Metadata,
        progress,
        gone: HashSet::new(),
        removed: HashSet::new(),
    };
    let expected = expected.iter().map(|(pack, _)| *pack).collect();
    Ok(looks.finish(findings, &expected).await)
}

/// What is known so far: problems, and which of them cost which frame.
#[derive(Clone, Default)]
struct Findings {
    report: Report,
    /// Packs in which each of these frames cannot be had.
    bad: HashMap<FrameId, HashSet<PackId>>,
    /// Frames that cannot be had, and the problem that is the reason.
    lost: HashMap<FrameId, usize>,
    /// Where frames were that are not there any more, as far as hints say.
    hinted: HashMap<FrameId, PackId>,
    /// The problem of each pack that has one.
    packs: HashMap<PackId, usize>,
}

impl Findings {
    fn add(&mut self, problem: Problem) -> usize {
        self.report.problems.push(problem);
        self.report.problems.len() - 1
    }

    /// The problem of a pack; the first one reported stands for all of them.
    fn add_pack(&mut self, pack: PackId, kind: ProblemKind, detail: impl Into<String>) -> usize {
        if let Some(&known) = self.packs.get(&pack) {
            return known;
        }
        let problem = self.add(Problem::new(kind, ObjectKey::Pack(pack), detail));
        self.packs.insert(pack, problem);
        problem
    }

    /// The pack whose table is damaged, if there is just one.
    fn unlisted(&self) -> Option<usize> {
        // The frames of a pack without a table are in no index. With one such pack they were in
        // that one; with several nobody knows.
        let mut tables = self
            .packs
            .values()
            .filter(|&&problem| self.report.problems[problem].kind == ProblemKind::PackTable);
        tables.next().copied().filter(|_| tables.next().is_none())
    }

    /// Counts the frames as lost that cannot be had anywhere they lie.
    fn settle(&mut self, index: &Index) {
        let mut lost = Vec::new();
        for (frame, packs) in &self.bad {
            // Only where every place is bad: a frame that lies elsewhere, sound, is not lost.
            if index.contains(frame)
                && index.locations(frame).all(|location| packs.contains(&location.pack))
                && let Some(problem) = packs.iter().find_map(|pack| self.packs.get(pack)).copied()
            {
                lost.push((*frame, problem));
            }
        }
        lost.into_iter().for_each(|(frame, problem)| self.lose(frame, problem));
    }

    fn lose(&mut self, frame: FrameId, problem: usize) {
        if self.lost.insert(frame, problem).is_none() {
            self.report.problems[problem].lost_frames += 1;
        }
    }
}

async fn check_info(repository: &Repository, findings: &mut Findings) {
    let (store, key) = (repository.store(), ObjectKey::Repository);
    let outcome = match store.get(&key).await {
        Ok(bytes) => RepositoryInfo::decode(&bytes).map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    match outcome {
        Ok(info) if info == *repository.info() => {}
        Ok(_) => {
            let detail = "it has changed since the repository was opened";
            findings.add(Problem::new(ProblemKind::RepositoryInfo, &key, detail));
        }
        Err(detail) => {
            findings.add(Problem::new(ProblemKind::RepositoryInfo, &key, detail));
        }
    }
    for file in RECOVERY_FILES {
        let key = ObjectKey::Recovery(file);
        let detail = match store.get(&key).await {
            Ok(bytes) if is_released(file, &bytes) => continue,
            Ok(_) => FOREIGN_RECOVERY.to_owned(),
            Err(error) => chain(&error),
        };
        findings.add(Problem::new(ProblemKind::RecoveryFile, key, detail));
    }
}

fn compare_listing(listed: &[Listed], expected: &[(PackId, u64)], findings: &mut Findings) {
    let there: HashMap<PackId, u64> = listed
        .iter()
        .filter_map(|object| match object.key {
            Some(ObjectKey::Pack(id)) => Some((id, object.len)),
            _ => None,
        })
        .collect();
    for (pack, len) in expected {
        match there.get(pack) {
            Some(found) if found == len => {}
            Some(found) => {
                let detail = format!("it has {found} bytes where the catalogue has {len}");
                findings.add_pack(*pack, ProblemKind::PackLength, detail);
            }
            None => {
                findings.add_pack(*pack, ProblemKind::MissingPack, "the store does not list it");
            }
        }
    }
}

/// Index files: damaged ones are reported, others compared with the packs.
async fn check_hints(repository: &Repository, listed: &[Listed], index: &Index, findings: &mut Findings) {
    let whole: HashSet<PackId> = index.packs().iter().map(|pack| pack.id).collect();
    for object in listed {
        let Some(key @ ObjectKey::Index(_)) = &object.key else { continue };
        let decoded = match repository.store().get(key).await {
            Ok(bytes) => decode_index(&bytes).map_err(|error| chain(&error)),
            // The controller merged it into another one meanwhile; it is only a hint.
            Err(error) if error.is_not_found() => continue,
            Err(error) => Err(chain(&error)),
        };
        match decoded {
            Err(detail) => {
                findings.add(Problem::new(ProblemKind::Index, key, detail));
            }
            Ok(packs) => {
                for hint in packs {
                    let holds = |entry: &PackEntry| {
                        let same = |place: FrameLocation| place.pack == hint.pack && place.entry == *entry;
                        index.locations(&entry.id).any(same)
                    };
                    if !whole.contains(&hint.pack) {
                        findings.hinted.extend(hint.table.iter().map(|entry| (entry.id, hint.pack)));
                    } else if !hint.table.iter().all(holds) {
                        let detail = format!("what it says of pack {} is not so", hint.pack);
                        findings.add(Problem::new(ProblemKind::Index, key, detail));
                    }
                }
            }
        }
    }
}

async fn check_state(repository: &Repository, snapshots: &Snapshots, findings: &mut Findings) {
    for file in [StateFile::Head, StateFile::Policies, StateFile::Hosts] {
        let key = ObjectKey::State(file);
        let detail = match repository.store().get(&key).await {
            Ok(bytes) => match file {
                StateFile::Head => match decode_head(&bytes) {
                    Ok(head) => behind(&head, snapshots),
                    Err(error) => Some(chain(&error)),
                },
                StateFile::Policies => decode_policies(&bytes).err().map(|error| chain(&error)),
                StateFile::Hosts => decode_hosts(&bytes).err().map(|error| chain(&error)),
            },
            // A new repository has none of them. Snapshots are committed with a head.
            Err(error) if error.is_not_found() => (file == StateFile::Head && !snapshots.good.is_empty())
                .then(|| "there are snapshots, and it is missing".to_owned()),
            Err(error) => Some(chain(&error)),
        };
        if let Some(detail) = detail {
            findings.add(Problem::new(ProblemKind::State, key, detail));
        }
    }
}

/// A head that older than some snapshot was put back from a copy.
fn behind(head: &Head, snapshots: &Snapshots) -> Option<String> {
    snapshots.good.iter().map(|snapshot| &snapshot.header).find_map(|header| {
        let id = header.id;
        let given = head.numbers.get(&(id.host, id.source)).copied().unwrap_or_default();
        (header.commit_number > head.commit_number || id.number > given)
            .then(|| format!("it is older than snapshot {id}: it was put back from a copy"))
    })
}

//! What a survey has found: packs, where each frame lies, and which of these
//! places were tried.
//!
//! A frame may lie in several packs: it was found damaged and sent again, two
//! attempts sent it, two hosts have equal files. No place stands for the others
//! until it was tried, and a frame is lost only where every place was.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::DateTime;
use holdfast_archive::ids::{FrameId, HostId, PackId, SnapshotId, SourceId};
use holdfast_archive::pack_io::{FrameLocation, PackEntry};
use holdfast_archive::snapshot::{Names, SnapshotBody, SnapshotHeader};
use roaring::RoaringTreemap;

/// A pack, and a row of its table.
pub(super) type Place = (u32, u32);

/// A pack in the bucket.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: PackId,
    /// Bytes it was made with.
    pub(super) length: u64,
    pub(super) table: Vec<PackEntry>,
    pub(super) host: Option<HostId>,
    /// Its row says whose it is, or it holds a frame that only that host can
    /// have sent. Otherwise the host gets no frame of it but those it needs.
    pub(super) proven: bool,
    /// The index file that holds just this table.
    pub(super) hint: Option<u64>,
}

/// A snapshot of the bucket or the catalogue.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) header: SnapshotHeader,
    pub(super) body: SnapshotBody,
    /// Its object is in the bucket; else its row alone has it.
    pub(super) stored: bool,
    /// Numbers here of the frames it reaches, lost ones included.
    pub(super) frames: RoaringTreemap,
}

/// All that was found, frames by a number of this pass.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) packs: Vec<Found>,
    known: HashSet<PackId>,
    numbers: HashMap<FrameId, u64>,
    /// By number: id, and where it lies.
    frames: Vec<(FrameId, Vec<Place>)>,
    /// Whether the frame was there, of the places that were tried.
    tried: HashMap<Place, bool>,
    /// Frames that are read as manifest pages.
    pub(super) pages: RoaringTreemap,
    pub(super) snapshots: Vec<Seen>,
    /// The highest number of each source that was given when the survey began;
    /// empty where the catalogue may have forgotten some.
    pub(super) given: BTreeMap<(HostId, SourceId), u64>,
    /// Numbers of packs' rows whose object is gone.
    pub(super) absent: Vec<u64>,
    pub(super) notes: Vec<String>,
    /// Why the object of a snapshot that has a row cannot be used.
    pub(super) unusable: BTreeMap<SnapshotId, String>,
}

impl Seen {
    /// For people: id, whose it is, when it was made.
    pub(super) fn name(&self) -> String {
        let SnapshotHeader { id, created_unix_ms, .. } = &self.header;
        let made = DateTime::from_timestamp_millis(*created_unix_ms).unwrap_or_default();
        let Names { host, source, .. } = self.header.names.or_of(&self.body);
        format!("snapshot {id} ({host}/{source}, {})", made.format("%Y-%m-%d %H:%M UTC"))
    }
}

impl Bucket {
    /// Adds a pack; those of its rows that are in `outcomes` were tried. One
    /// that was listed twice is added once.
    pub(super) fn add(&mut self, found: Found, outcomes: &HashMap<u32, bool>) {
        if !self.known.insert(found.id) {
            return;
        }
        // Places are pairs of indices and not of ids: a bucket has millions of frames.
        let pack = self.packs.len() as u32;
        for (row, entry) in (0..).zip(&found.table) {
            let number = self.number(entry.id);
            self.frames[number as usize].1.push((pack, row));
        }
        self.tried.extend(outcomes.iter().map(|(row, there)| ((pack, *row), *there)));
        self.packs.push(found);
    }

    /// The number of a frame; a frame that lies nowhere gets one as well.
    pub(super) fn number(&mut self, id: FrameId) -> u64 {
        let next = self.frames.len() as u64;
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.frames.push((id, Vec::new()));
        }
        number
    }

    pub(super) fn frame_count(&self) -> u64 {
        self.frames.iter().filter(|(_, places)| !places.is_empty()).count() as u64
    }

    pub(super) fn id(&self, number: u64) -> FrameId {
        self.frames[number as usize].0
    }

    pub(super) fn places(&self, number: u64) -> &[Place] {
        &self.frames[number as usize].1
    }

    pub(super) fn entry(&self, (pack, row): Place) -> &PackEntry {
        &self.packs[pack as usize].table[row as usize]
    }

    pub(super) fn location(&self, place: Place) -> FrameLocation {
        FrameLocation { pack: self.packs[place.0 as usize].id, entry: self.entry(place).clone() }
    }

    pub(super) fn note(&mut self, place: Place, there: bool) {
        self.tried.insert(place, there);
    }

    pub(super) fn tried(&self, place: Place) -> Option<bool> {
        self.tried.get(&place).copied()
    }

    /// Where the host should have this frame from; `None` where it is lost. The
    /// host's own place comes before another's, and of those one that was tried
    /// before one that was not. Its own stays its own where another's was tried for
    /// that one's sake: where it has to be tried, `doubtful` says so, and a place
    /// that was tried in vain is none.
    pub(super) fn choose(&self, host: HostId, number: u64) -> Option<Place> {
        let worth = |place: &Place| {
            let own = self.packs[place.0 as usize].host == Some(host);
            (own, self.tried(*place) == Some(true))
        };
        let there = self.places(number).iter().filter(|place| self.tried(**place) != Some(false));
        // Of equals the first, so that the answer does not depend on chance.
        there.rev().max_by_key(|place| worth(place)).copied()
    }

    pub(super) fn is_lost(&self, number: u64) -> bool {
        self.places(number).iter().all(|place| self.tried(*place) == Some(false))
    }

    /// Frames each host needs.
    pub(super) fn needs(&self) -> BTreeMap<HostId, RoaringTreemap> {
        let mut needs: BTreeMap<HostId, RoaringTreemap> = BTreeMap::new();
        for seen in &self.snapshots {
            *needs.entry(seen.header.id.host).or_default() |= &seen.frames;
        }
        needs
    }

    /// Places that have to be tried before they are believed: the chosen place
    /// of a frame of which the host has several copies, or that is a page, or
    /// that was found damaged before.
    pub(super) fn doubtful(
        &self,
        needs: &BTreeMap<HostId, RoaringTreemap>,
        damaged: &HashSet<FrameId>,
    ) -> Vec<Place> {
        let mut doubtful = HashSet::new();
        for (host, needed) in needs {
            for number in needed {
                let places = self.places(number);
                let own =
                    places.iter().filter(|place| self.packs[place.0 as usize].host == Some(*host)).count();
                let sound = places.iter().all(|place| self.tried(*place) != Some(false));
                let plain = sound && (places.len() == 1 || own == 1);
                if plain && !self.pages.contains(number) && !damaged.contains(&self.id(number)) {
                    continue;
                }
                doubtful.extend(self.choose(*host, number).filter(|place| self.tried(*place).is_none()));
            }
        }
        let mut doubtful: Vec<Place> = doubtful.into_iter().collect();
        doubtful.sort_unstable();
        doubtful
    }

    /// Gives each pack that holds a needed frame its host: first where a frame
    /// lies nowhere else, then where a host has no other place of its own, and
    /// at last any that needs one of its frames. A pack without a host gets no
    /// row and is an orphan.
    pub(super) fn assign_hosts(&mut self) {
        let needs = self.needs();
        for round in 0..3 {
            for (host, needed) in &needs {
                for number in needed {
                    let places = &self.frames[number as usize].1;
                    let own = places.iter().any(|place| self.packs[place.0 as usize].host == Some(*host));
                    // A frame that lies in one pack alone proves whose the pack is. The later
                    // rounds guess, and a guess proves nothing.
                    let passed = match round {
                        0 => places.len() > 1,
                        1 => own,
                        _ => false,
                    };
                    if passed {
                        continue;
                    }
                    let free: Vec<u32> = places
                        .iter()
                        .filter(|place| self.tried(**place) != Some(false))
                        .map(|place| place.0)
                        .filter(|pack| self.packs[*pack as usize].host.is_none())
                        // In the last round every copy gets a host: one without would be deleted,
                        // and it may be the one that is whole.
                        .take(if round == 2 { usize::MAX } else { 1 })
                        .collect();
                    for pack in free {
                        let pack = &mut self.packs[pack as usize];
                        pack.host = Some(*host);
                        pack.proven |= round == 0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::{AllocationId, RepositoryId, SnapshotId, SourceId};
    use holdfast_archive::pack_io::FrameKind;

    use super::*;

    fn found(frames: &[u8], host: Option<HostId>) -> Found {
        let entry = |frame: &u8| PackEntry {
            id: FrameId([*frame; 32]),
            kind: FrameKind::Data,
            key_epoch: 0,
            offset: 0,
            stored_len: 1,
            raw_len: 1,
        };
        Found {
            id: PackId { sha256: [0; 32], allocation: AllocationId::generate() },
            length: 100,
            table: frames.iter().map(entry).collect(),
            host,
            proven: host.is_some(),
            hint: None,
        }
    }

    fn bucket(packs: &[&[u8]], snapshots: &[(HostId, &[u8])]) -> Bucket {
        let mut bucket = Bucket::default();
        packs.iter().for_each(|frames| bucket.add(found(frames, None), &HashMap::new()));
        for (host, frames) in snapshots {
            let frames = frames.iter().map(|frame| bucket.number(FrameId([*frame; 32]))).collect();
            let id = SnapshotId { host: *host, source: SourceId::generate(), number: 1 };
            let header = SnapshotHeader {
                repository: RepositoryId::generate(),
                id,
                created_unix_ms: 1,
                commit_number: 1,
                names: Names::default(),
            };
            bucket.snapshots.push(Seen { header, body: body(), stored: true, frames });
        }
        bucket
    }

    fn body() -> SnapshotBody {
        SnapshotBody {
            root: FrameId([0; 32]),
            started_unix_ns: 0,
            stats: holdfast_archive::snapshot::Stats::default(),
            source: holdfast_archive::snapshot::SourceFacts::default(),
            consistency: String::new(),
            host_name: String::new(),
            partial: false,
            problems: Vec::new(),
            downtime_ms: 0,
            agent_version: String::new(),
            containers: Vec::new(),
        }
    }

    #[test]
    fn h01_every_pack_that_holds_a_needed_frame_has_a_host() {
        let host = HostId::generate();
        // The second copy of everything that is in the first pack.
        let mut bucket = bucket(&[&[1, 2, 3], &[2, 3], &[9]], &[(host, &[1, 2, 3])]);
        bucket.assign_hosts();
        let hosts: Vec<_> = bucket.packs.iter().map(|pack| (pack.host, pack.proven)).collect();
        assert_eq!(hosts, [(Some(host), true), (Some(host), false), (None, false)]);
    }

    #[test]
    fn equal_files_of_two_hosts_stay_with_the_packs_each_has_sent() {
        let (a, b) = (HostId::generate(), HostId::generate());
        let mut bucket = bucket(&[&[1, 7], &[2, 7]], &[(a, &[1, 7]), (b, &[2, 7])]);
        bucket.assign_hosts();
        assert_eq!([bucket.packs[0].host, bucket.packs[1].host], [Some(a), Some(b)]);
        let shared = bucket.number(FrameId([7; 32]));
        assert_eq!([bucket.choose(a, shared), bucket.choose(b, shared)], [Some((0, 1)), Some((1, 1))]);
        assert!(bucket.doubtful(&bucket.needs(), &HashSet::new()).is_empty());
        // One's own copy is damaged: the other's is better than none.
        bucket.note((0, 1), false);
        assert_eq!(bucket.choose(a, shared), Some((1, 1)));
    }

    #[test]
    fn a_hosts_own_place_comes_before_one_that_was_tried_and_of_its_own_the_tried_one() {
        let (a, b) = (HostId::generate(), HostId::generate());
        let packs: [&[u8]; 3] = [&[1, 7], &[3, 7], &[2, 7]];
        let mut bucket = bucket(&packs, &[(a, &[1, 3, 7]), (b, &[2, 7])]);
        bucket.assign_hosts();
        let shared = bucket.number(FrameId([7; 32]));
        // Tried for b, and a has none of it: a's frames stay in packs of a.
        bucket.note((2, 1), true);
        assert_eq!(bucket.choose(a, shared), Some((0, 1)));
        assert_eq!(bucket.doubtful(&bucket.needs(), &HashSet::new()), [(0, 1)]);
        bucket.note((1, 1), true);
        assert_eq!(bucket.choose(a, shared), Some((1, 1)));
        assert_eq!(bucket.choose(b, shared), Some((2, 1)));
        bucket.note((0, 1), false);
        bucket.note((1, 1), false);
        assert_eq!(bucket.choose(a, shared), Some((2, 1)));
    }

    #[test]
    fn h01_of_two_copies_neither_stands_for_the_other_until_it_was_tried() {
        let host = HostId::generate();
        let mut bucket = bucket(&[&[1, 2], &[3, 2]], &[(host, &[1, 2, 3])]);
        bucket.assign_hosts();
        let (needs, none) = (bucket.needs(), HashSet::new());
        let twice = bucket.number(FrameId([2; 32]));
        assert_eq!(bucket.doubtful(&needs, &none), [(0, 1)]);
        bucket.note((0, 1), false);
        assert_eq!(bucket.doubtful(&needs, &none), [(1, 1)]);
        assert!(!bucket.is_lost(twice));
        bucket.note((1, 1), true);
        assert_eq!((bucket.doubtful(&needs, &none), bucket.choose(host, twice)), (vec![], Some((1, 1))));
        bucket.note((1, 1), false);
        assert!(bucket.is_lost(twice) && bucket.choose(host, twice).is_none());
        // A frame that is nowhere is lost from the start.
        let nowhere = bucket.number(FrameId([4; 32]));
        assert!(bucket.is_lost(nowhere));
    }
}

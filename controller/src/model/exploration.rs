//! Every interleaving of the repository's protocol on one frame: two uploads
//! (the second may send the same bytes again), collection, forgetting,
//! undeleting, purging, with a crash of agent or controller at every step;
//! and, in a world of its own, one upload beside a catalogue that is put back
//! from an older copy of itself. No sampling: breadth first until no state is
//! new. All decisions are those of `protocol`, the ones the real code takes.
//!
//! Leases hold nothing here, as if each had been cut off at once: what they
//! hold back only makes collection rarer. A commit is acknowledged in the
//! same breath as transaction 2, for the same reason: it can only be broken
//! sooner.

mod upload;

use std::collections::{HashMap, VecDeque};

use super::protocol::{
    CommitStep, FrameFact, Guard, PackFacts, PackState, Protocol, PurgeStep, SnapshotState, Trust, Verdict,
};

// What is there at the beginning, and one for each upload. That it is enough shows in the
// last test: without any guard a violation is found.
const PACKS: usize = 3;
const SNAPSHOTS: usize = 3;
const LEASES: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    state: PackState,
    suspect: bool,
}

/// What the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Catalogue {
    packs: [Option<Row>; PACKS],
    /// The pack the frame's row points at.
    frame: Option<u8>,
    snapshots: [Option<SnapshotState>; SNAPSHOTS],
    /// Snapshots that were ever numbered.
    numbered: u8,
    /// Commit number; only counted where a catalogue can be put back.
    number: u8,
    suspended: bool,
}

/// What the bucket holds, as sets of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bucket {
    packs: u8,
    snapshots: u8,
    head: u8,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Open,
    Upload,
    Put(u8),
    Stored(u8),
    Seen(u8, bool),
    Ready,
    Committing {
        head: bool,
        put: bool,
    },
    /// Done, or dead.
    Over,
}

/// Where collection stands; lost when the controller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Round {
    Idle,
    Marked(u8),
    Surveyed(u8),
    Sweeping(u8),
    HeadRaised(u8),
    ObjectsGone(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    catalogue: Catalogue,
    bucket: Bucket,
    steps: [Step; LEASES],
    round: Round,
    /// Allocation ids given out. Not part of the catalogue: they are random.
    allocated: u8,
    /// Acknowledged and not purged since.
    acknowledged: u8,
    saved: Option<Catalogue>,
    restored: bool,
}

/// What may happen besides the first upload.
#[derive(Debug, Clone, Copy)]
struct Scope {
    protocol: Protocol,
    /// That may begin at once; a catalogue put back meets another one.
    uploads: usize,
    old_catalogue: bool,
}

type Event = (&'static str, u8);

fn bit(n: u8) -> u8 {
    1 << n
}

fn begin(scope: Scope) -> World {
    let mut packs = [None; PACKS];
    packs[0] = Some(Row { state: PackState::Live, suspect: false });
    let mut steps = [Step::Over; LEASES];
    steps[..scope.uploads].fill(Step::Open);
    World {
        catalogue: Catalogue {
            packs,
            frame: Some(0),
            snapshots: [Some(SnapshotState::Committed), None, None],
            numbered: 1,
            number: 0,
            suspended: false,
        },
        bucket: Bucket { packs: 1, snapshots: 1, head: 0 },
        steps,
        round: Round::Idle,
        allocated: 1,
        acknowledged: 1,
        saved: None,
        restored: false,
    }
}

impl World {
    fn frame(&self) -> Option<FrameFact> {
        let row = self.catalogue.packs[usize::from(self.catalogue.frame?)]?;
        Some(FrameFact { pack: row.state, suspect: row.suspect, damaged: false })
    }

    fn reached(&self, protocol: Protocol, pack: u8) -> bool {
        let kept = |state: Option<SnapshotState>| state.is_some_and(|state| protocol.keeps(state));
        self.catalogue.frame == Some(pack) && self.catalogue.snapshots.into_iter().any(kept)
    }

    fn raise_number(&mut self, scope: Scope) {
        // Elsewhere nobody compares it, and counting would make equal worlds different.
        if scope.old_catalogue {
            self.catalogue.number = self.catalogue.number.max(self.bucket.head) + 1;
        }
    }

    fn raise_head(&mut self) {
        self.bucket.head = self.bucket.head.max(self.catalogue.number);
    }

    /// Only the order of commit numbers matters: the smallest that keep it.
    fn rank_numbers(&mut self) {
        let saved = self.saved.map_or(0, |saved| saved.number);
        let numbers = [0, saved, self.catalogue.number, self.bucket.head];
        let rank = |number: u8| {
            let below = |at: usize| numbers[at] < number && !numbers[..at].contains(&numbers[at]);
            (0..numbers.len()).filter(|&at| below(at)).count() as u8
        };
        self.catalogue.number = rank(self.catalogue.number);
        self.bucket.head = rank(self.bucket.head);
        if let Some(saved) = &mut self.saved {
            saved.number = rank(saved.number);
        }
    }

    /// The frame can be read, as far as the catalogue knows where it is.
    fn readable(&self) -> bool {
        // A suspended catalogue need not know where: a reconciliation finds the frame in
        // whichever pack is there.
        if self.catalogue.suspended {
            return self.bucket.packs != 0;
        }
        self.catalogue.frame.is_some_and(|pack| {
            self.bucket.packs & bit(pack) != 0
                && matches!(self.frame(), Some(f) if matches!(f.pack, PackState::Live | PackState::Condemned))
        })
    }

    fn violation(&self) -> Option<&'static str> {
        for k in 0..SNAPSHOTS as u8 {
            let row = self.catalogue.snapshots[usize::from(k)];
            let listed = self.bucket.snapshots & bit(k) != 0;
            // What an agent was told is kept must be there, readable and known.
            if self.acknowledged & bit(k) != 0 {
                if !self.readable() {
                    return Some("an acknowledged snapshot lost its frame");
                }
                if !listed {
                    return Some("an acknowledged snapshot is not in the bucket");
                }
                if row.is_none() && !self.catalogue.suspended {
                    return Some("the catalogue does not know an acknowledged snapshot");
                }
            }
            // A controller that is rebuilt trusts whatever the bucket lists.
            if listed && !self.readable() {
                return Some("a snapshot in the bucket refers to deleted data");
            }
            let promised = matches!(row, Some(SnapshotState::Committed | SnapshotState::Forgotten));
            if promised && !listed && !self.catalogue.suspended {
                return Some("the catalogue offers a snapshot that is not in the bucket");
            }
        }
        None
    }
}

/// The loop that finishes what a crash left, and what operators do.
fn snapshots(w: &World, scope: Scope, out: &mut Vec<(Event, World)>) {
    let protocol = scope.protocol;
    for k in 0..SNAPSHOTS as u8 {
        let at = usize::from(k);
        let mut go = |name: &'static str, change: &dyn Fn(&mut World)| {
            let mut next = *w;
            change(&mut next);
            out.push(((name, k), next));
        };
        let set = |state: SnapshotState| move |n: &mut World| n.catalogue.snapshots[at] = Some(state);
        let Some(state) = w.catalogue.snapshots[at] else { continue };
        // One at a time drives a commit: the controller holds a lock for each.
        let driven = k > 0 && matches!(w.steps[at - 1], Step::Committing { .. });
        if state == SnapshotState::Committing && !driven && !w.catalogue.suspended {
            go("finish", &|n| {
                // In one step: each of its parts may be cut off in `upload`.
                let (mut head, mut put) = (false, false);
                loop {
                    match protocol.commit_step(head, put) {
                        CommitStep::PutObject => {
                            n.bucket.snapshots |= bit(k);
                            put = true;
                        }
                        CommitStep::RaiseHead => {
                            n.raise_head();
                            head = true;
                        }
                        CommitStep::SetCommitted => break,
                    }
                }
                n.catalogue.snapshots[at] = Some(SnapshotState::Committed);
            });
        }
        if protocol.may_forget(state, false) {
            go("forget", &set(SnapshotState::Forgotten));
        }
        if protocol.may_undelete(state) && !w.catalogue.suspended {
            go("undelete", &|n| {
                n.catalogue.snapshots[at] = Some(SnapshotState::Committed);
                n.acknowledged |= bit(k);
            });
        }
        // Nothing is removed on the word of a catalogue that may be an old copy.
        if w.catalogue.suspended {
            continue;
        }
        if state == SnapshotState::Forgotten {
            go("purge begins", &|n| {
                n.raise_number(scope);
                if protocol.has(Guard::HeadFirst) {
                    n.raise_head();
                }
                n.acknowledged &= !bit(k);
                n.catalogue.snapshots[at] = Some(SnapshotState::Purging);
            });
        }
        if state == SnapshotState::Purging {
            match protocol.purge_step(w.bucket.snapshots & bit(k) == 0) {
                PurgeStep::DeleteObject => go("purge object", &|n| n.bucket.snapshots &= !bit(k)),
                PurgeStep::DeleteRow => go("purge row", &|n| n.catalogue.snapshots[at] = None),
            }
        }
    }
}

fn collection(w: &World, scope: Scope, out: &mut Vec<(Event, World)>) {
    let protocol = scope.protocol;
    if w.catalogue.suspended {
        return;
    }
    let rows = || (0u8..).zip(w.catalogue.packs).filter_map(|(p, row)| Some((p, row?)));
    let bits = |test: &dyn Fn(u8, Row) -> bool| {
        rows().filter(|&(p, row)| test(p, row)).fold(0, |set, (p, _)| set | bit(p))
    };
    let facts = |row: Row, used| PackFacts { state: row.state, used, held: false };
    let mut go = |name: &'static str, change: &dyn Fn(&mut World)| {
        let mut next = *w;
        change(&mut next);
        out.push(((name, 0), next));
    };
    match w.round {
        Round::Idle => {
            let unused = bits(&|p, row| protocol.first_mark(facts(row, w.reached(protocol, p))));
            if unused != 0 {
                go("mark", &|n| n.round = Round::Marked(unused));
            }
            // The survey is read before the transaction that decides: uploads may commit in
            // between, which is what `second_mark` is about.
            let open = bits(&|_, row| matches!(row.state, PackState::Condemned | PackState::Intended));
            if open != 0 {
                let used = bits(&|p, _| w.reached(protocol, p));
                go("survey", &|n| n.round = Round::Surveyed(used));
            }
            let deleting = bits(&|_, row| row.state == PackState::Deleting);
            if deleting != 0
                && protocol.trust(true, w.bucket.head.into(), w.catalogue.number.into()) == Trust::Whole
            {
                go("sweep", &|n| n.round = Round::Sweeping(deleting));
            }
            // In the real code only after they have been seen for long; here at once.
            let orphans = w.bucket.packs & !bits(&|_, _| true);
            if orphans != 0
                && protocol.trust(true, w.bucket.head.into(), w.catalogue.number.into()) == Trust::Whole
            {
                go("delete orphans", &|n| n.bucket.packs &= !orphans);
            }
        }
        Round::Marked(unused) => go("condemn", &|n| {
            n.round = Round::Idle;
            for row in (0u8..).zip(&mut n.catalogue.packs).filter(|(p, _)| unused & bit(*p) != 0) {
                if let Some(row) = row.1
                    && row.state == PackState::Live
                {
                    row.state = PackState::Condemned;
                }
            }
        }),
        Round::Surveyed(used) => go("decide", &|n| {
            n.round = Round::Idle;
            let mut deleting = false;
            for (p, row) in rows() {
                let state = match protocol.second_mark(facts(row, used & bit(p) != 0)) {
                    Verdict::Revive => PackState::Live,
                    Verdict::Delete => PackState::Deleting,
                    Verdict::Leave => continue,
                };
                deleting |= state == PackState::Deleting;
                n.catalogue.packs[usize::from(p)] = Some(Row { state, ..row });
            }
            if deleting {
                n.raise_number(scope);
            }
        }),
        Round::Sweeping(set) => go("raise head", &|n| {
            if protocol.has(Guard::HeadFirst) {
                n.raise_head();
            }
            n.round = Round::HeadRaised(set);
        }),
        Round::HeadRaised(set) => go("delete objects", &|n| {
            n.bucket.packs &= !set;
            n.round = Round::ObjectsGone(set);
        }),
        Round::ObjectsGone(set) => go("delete rows", &|n| {
            n.round = Round::Idle;
            // Only rows that are still to be deleted: under a name that was given again the
            // row is of the new pack.
            for p in (0..PACKS as u8).filter(|p| set & bit(*p) != 0) {
                if n.catalogue.packs[usize::from(p)].is_some_and(|row| row.state == PackState::Deleting) {
                    n.catalogue.packs[usize::from(p)] = None;
                    if n.catalogue.frame == Some(p) {
                        n.catalogue.frame = None;
                    }
                }
            }
        }),
    }
}

fn crash(n: &mut World) {
    n.round = Round::Idle;
    // What the controller had in memory is gone; an agent goes on from what it was told last.
    for step in &mut n.steps {
        *step = match *step {
            Step::Committing { .. } => Step::Ready,
            Step::Seen(p, _) => Step::Stored(p),
            other => other,
        };
    }
}

/// The catalogue is saved, put back later, and reconciled with the bucket.
fn old_catalogue(w: &World, scope: Scope, out: &mut Vec<(Event, World)>) {
    let protocol = scope.protocol;
    if w.saved.is_none() && !w.restored {
        out.push((("save catalogue", 0), World { saved: Some(w.catalogue), ..*w }));
    }
    if let Some(saved) = w.saved {
        let mut n = World { catalogue: saved, saved: None, restored: true, ..*w };
        crash(&mut n);
        // The first upload's lease is not in the copy; another upload meets it.
        n.steps[0] = Step::Over;
        n.steps[1] = Step::Open;
        if protocol.trust(true, n.bucket.head.into(), n.catalogue.number.into()) == Trust::Behind {
            n.catalogue.suspended = true;
            n.catalogue.packs.iter_mut().flatten().for_each(|row| row.suspect = true);
        }
        out.push((("put catalogue back", 0), n));
    }
    if w.catalogue.suspended {
        let mut n = *w;
        // Every pack that is there is live, one that is not is no row.
        for p in 0..PACKS as u8 {
            let row = &mut n.catalogue.packs[usize::from(p)];
            *row = (w.bucket.packs & bit(p) != 0).then_some(Row { state: PackState::Live, suspect: false });
        }
        if n.frame().is_none() {
            n.catalogue.frame = (0..PACKS as u8).find(|p| w.bucket.packs & bit(*p) != 0);
        }
        for k in 0..SNAPSHOTS as u8 {
            let row = &mut n.catalogue.snapshots[usize::from(k)];
            if w.bucket.snapshots & bit(k) == 0 {
                *row = None;
            } else if row.is_none() {
                *row = Some(SnapshotState::Committed);
                n.catalogue.numbered |= bit(k);
            }
        }
        // Leases end, and an older copy that is put back after this is known as one.
        crash(&mut n);
        n.raise_number(scope);
        n.raise_head();
        n.catalogue.suspended = false;
        out.push((("reconcile", 0), n));
    }
}

fn steps(w: &World, scope: Scope) -> Vec<(Event, World)> {
    let mut out = Vec::with_capacity(16);
    for i in 0..LEASES as u8 {
        upload::upload(w, scope, i, &mut out);
    }
    snapshots(w, scope, &mut out);
    collection(w, scope, &mut out);
    // Where nothing is in memory a crash changes nothing.
    if w.round != Round::Idle || w.steps.iter().any(|s| matches!(s, Step::Committing { .. } | Step::Seen(..)))
    {
        let mut n = *w;
        crash(&mut n);
        out.push((("controller dies", 0), n));
    }
    if scope.old_catalogue {
        old_catalogue(w, scope, &mut out);
        out.iter_mut().for_each(|(_, next)| next.rank_numbers());
    }
    out
}

/// Number of states, or the shortest way to a violation.
fn explore(scope: Scope) -> Result<usize, String> {
    let start = begin(scope);
    let mut seen: HashMap<World, Option<(World, Event)>> = HashMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        if let Some(what) = world.violation() {
            // Breadth first: the way back to the start is one of the shortest.
            let mut path = Vec::new();
            let mut at = world;
            while let Some((before, event)) = seen[&at] {
                path.push(format!("{}({})", event.0, event.1));
                at = before;
            }
            path.reverse();
            return Err(format!("{what}: {}", path.join(", ")));
        }
        for (event, next) in steps(&world, scope) {
            if let std::collections::hash_map::Entry::Vacant(slot) = seen.entry(next) {
                slot.insert(Some((world, event)));
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

fn two_uploads(protocol: Protocol) -> Scope {
    Scope { protocol, uploads: 2, old_catalogue: false }
}

fn put_back(protocol: Protocol) -> Scope {
    Scope { protocol, uploads: 1, old_catalogue: true }
}

#[test]
fn r01_r02_r03_r04_r06_no_interleaving_loses_an_acknowledged_snapshot() {
    let states = explore(two_uploads(Protocol::WHOLE)).expect("no violation");
    println!("two uploads, collection, forgetting and crashes: {states} states, none bad");
}

#[test]
fn r07_no_old_catalogue_loses_an_acknowledged_snapshot() {
    let states = explore(put_back(Protocol::WHOLE)).expect("no violation");
    println!("a catalogue put back from an older copy: {states} states, none bad");
}

#[test]
fn without_any_one_guard_data_is_lost() {
    for guard in Guard::ALL {
        let protocol = Protocol::without(guard);
        let found = explore(two_uploads(protocol)).err().or_else(|| explore(put_back(protocol)).err());
        let Some(path) = found else { panic!("{guard:?} guards nothing that was explored") };
        println!("without {guard:?}: {path}");
    }
}

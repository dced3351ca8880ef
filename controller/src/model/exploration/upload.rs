//! What an upload does, from the question which frames are there to the commit.

use super::{Event, PACKS, Row, Scope, Step, World, bit};
use crate::model::protocol::{CommitStep, Guard, PackCommit, PackState, Protocol, Reference, SnapshotState};

/// Adds a world that may follow, by the name of what leads to it.
type Go<'a> = dyn FnMut(&'static str, &dyn Fn(&mut World)) + 'a;

/// Steps of one upload, and the death of its agent at each.
pub(super) fn upload(w: &World, scope: Scope, i: u8, out: &mut Vec<(Event, World)>) {
    let protocol = scope.protocol;
    let lease = usize::from(i);
    let mut go = |name: &'static str, change: &dyn Fn(&mut World)| {
        let mut next = *w;
        change(&mut next);
        out.push(((name, i), next));
    };
    match w.steps[lease] {
        // Which frames need not be sent: asked once, and believed until the commit.
        Step::Open if w.frame().is_some_and(|frame| protocol.offers(frame)) => {
            go("have: yes", &to(lease, Step::Ready));
        }
        Step::Open => go("have: no", &to(lease, Step::Upload)),
        Step::Upload => {
            if let Some(p) = free_slot(w, protocol) {
                go("alloc", &|n| {
                    n.allocated |= bit(p);
                    n.catalogue.packs[usize::from(p)] =
                        Some(Row { state: PackState::Intended, suspect: false });
                    n.steps[lease] = Step::Put(p);
                });
            }
        }
        Step::Put(p) => {
            go("put pack", &|n| {
                n.bucket.packs |= bit(p);
                n.steps[lease] = Step::Stored(p);
            });
            // An agent that is broken or lies; what it says must cost nobody a frame.
            go("pretend to have put", &to(lease, Step::Stored(p)));
        }
        // Looked at outside of the transaction that commits the pack: the object may go
        // between the two.
        Step::Stored(p) => go("head pack", &to(lease, Step::Seen(p, w.bucket.packs & bit(p) != 0))),
        Step::Seen(p, seen) => {
            let row = w.catalogue.packs[usize::from(p)];
            match protocol.pack_commit(row.map(|row| row.state), seen) {
                PackCommit::Accept => go("commit pack", &|n| {
                    if protocol.takes_over(w.frame()) {
                        n.catalogue.frame = Some(p);
                    }
                    n.catalogue.packs[usize::from(p)] = Some(Row { state: PackState::Live, suspect: false });
                    n.steps[lease] = Step::Ready;
                }),
                PackCommit::Repeat => go("commit pack again", &to(lease, Step::Ready)),
                PackCommit::NotStored => go("commit pack: not stored", &to(lease, Step::Put(p))),
                PackCommit::Lost => go("commit pack: lost", &to(lease, Step::Upload)),
            }
        }
        Step::Ready => commit(w, scope, i, &mut go),
        Step::Committing { head, put } => match protocol.commit_step(head, put) {
            CommitStep::PutObject => go("put snapshot", &|n| {
                n.bucket.snapshots |= bit(i + 1);
                n.steps[lease] = Step::Committing { head, put: true };
            }),
            CommitStep::RaiseHead => go("raise head", &|n| {
                n.raise_head();
                n.steps[lease] = Step::Committing { head: true, put };
            }),
            CommitStep::SetCommitted => go("transaction 2", &|n| {
                n.catalogue.snapshots[lease + 1] = Some(SnapshotState::Committed);
                n.acknowledged |= bit(i + 1);
                n.steps[lease] = Step::Over;
            }),
        },
        Step::Over => {}
    }
    if w.steps[lease] != Step::Over {
        go("agent dies", &to(lease, Step::Over));
    }
}

/// A commit of the upload's snapshot. Asked for again after a crash as well: the row says
/// how far the first one came.
fn commit(w: &World, scope: Scope, i: u8, go: &mut Go<'_>) {
    let protocol = scope.protocol;
    let lease = usize::from(i);
    match w.catalogue.snapshots[lease + 1] {
        Some(SnapshotState::Committing) => {
            go("commit: take up", &to(lease, Step::Committing { head: false, put: false }));
        }
        Some(SnapshotState::Committed) => go("commit: done before", &|n| {
            n.acknowledged |= bit(i + 1);
            n.steps[lease] = Step::Over;
        }),
        Some(_) => go("commit: forgotten meanwhile", &to(lease, Step::Over)),
        None if w.catalogue.numbered & bit(i + 1) != 0 => go("commit: purged", &to(lease, Step::Over)),
        None => match protocol.reference(w.frame()) {
            Reference::Missing => go("commit: missing", &to(lease, Step::Upload)),
            found @ (Reference::Usable | Reference::Revive) => go("transaction 1", &|n| {
                if let (Reference::Revive, Some(p)) = (found, n.catalogue.frame)
                    && let Some(row) = &mut n.catalogue.packs[usize::from(p)]
                {
                    row.state = PackState::Live;
                }
                n.raise_number(scope);
                n.catalogue.numbered |= bit(i + 1);
                n.catalogue.snapshots[lease + 1] = Some(SnapshotState::Committing);
                n.steps[lease] = Step::Committing { head: false, put: false };
            }),
        },
    }
}

/// The pack that an upload may announce; `None`: the worlds explored have no more.
fn free_slot(w: &World, protocol: Protocol) -> Option<u8> {
    // Without the guard the same bytes get the same name again, also while an object
    // of that name is being deleted.
    let same = (1..PACKS as u8).find(|&p| {
        w.allocated & bit(p) != 0
            && w.catalogue.packs[usize::from(p)].is_none_or(|row| row.state == PackState::Deleting)
    });
    let new = (0..PACKS as u8).find(|&p| w.allocated & bit(p) == 0);
    if protocol.has(Guard::AllocationsUnique) { new } else { same.or(new) }
}

fn to(lease: usize, step: Step) -> impl Fn(&mut World) {
    move |n: &mut World| n.steps[lease] = step
}

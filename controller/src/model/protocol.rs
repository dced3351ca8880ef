//! Commit and deletion: every decision that safety depends on, as pure
//! functions of a few facts.
//!
//! The SQL in `catalog` loads facts, asks here, and applies the answer inside
//! one `begin immediate` transaction; the store is only touched between
//! transactions. `exploration` drives these same functions through every
//! interleaving of two uploads, collection, forgetting, undeleting and
//! purging with a crash at every step, and shows for each [`Guard`] that
//! without it data is lost.
//!
//! What keeps a frame: a snapshot's row, whatever its state, until the object
//! in the bucket is gone. Leases only save work: a lease that is cut off may
//! still commit, because transaction 1 of a commit checks every reference.
//!
//! A pack is intended (row before object), live, condemned (no longer
//! offered, still there), deleting, gone. Between `live` and `deleting` lie
//! two marks. The first reads without a lock and may be wrong by the time it
//! is applied. The second is surveyed without a lock as well, but decided in
//! one transaction, and only over packs that are still condemned then: a
//! commit after the survey has made what it uses live again, and one after
//! the decision finds its frames missing.
//!
//! The catalogue may be an old copy of itself. Each change that an old copy
//! must not be ignorant of (a commit, a batch of deletes) raises the commit
//! number in `state/head` before it takes effect, so an old copy sees a
//! higher number than its own, stops collecting, and treats every pack it
//! knew as suspect until `reconcile` has compared it with the bucket.

/// A rule whose absence loses data. Only tests take one away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// What was condemned is marked again before it is deleted.
    SecondMark,
    /// A commit makes the condemned packs it uses live again.
    CommitRevives,
    /// A snapshot whose object may be on its way keeps its frames.
    CommittingKeeps,
    /// A forgotten snapshot keeps its frames until it is purged.
    ForgottenKeeps,
    /// Purging removes the object first and the row after it.
    ObjectBeforeRow,
    /// Only a forgotten snapshot is undeleted, not one being purged.
    UndeleteForgottenOnly,
    /// A commit checks that each frame's pack is still there.
    ReferencesChecked,
    /// Only an intended pack becomes live.
    IntendedBecomesLive,
    /// A pack becomes live only after its object was seen.
    ObjectSeen,
    /// A snapshot is committed only after its object was put.
    PutBeforeCommitted,
    /// The head is raised before a commit is acknowledged or a batch deleted.
    HeadFirst,
    /// A head above the catalogue's own number stops collection.
    BehindNoticed,
    /// Packs that an old catalogue knew are not built upon.
    SuspectNotUsed,
    /// An allocation id is never given twice.
    AllocationsUnique,
}

#[cfg(test)]
impl Guard {
    pub(crate) const ALL: [Self; 14] = [
        Self::SecondMark,
        Self::CommitRevives,
        Self::CommittingKeeps,
        Self::ForgottenKeeps,
        Self::ObjectBeforeRow,
        Self::UndeleteForgottenOnly,
        Self::ReferencesChecked,
        Self::IntendedBecomesLive,
        Self::ObjectSeen,
        Self::PutBeforeCommitted,
        Self::HeadFirst,
        Self::BehindNoticed,
        Self::SuspectNotUsed,
        Self::AllocationsUnique,
    ];
}

/// State of a pack that has a row; one without is not there or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackState {
    Intended,
    Live,
    Condemned,
    Deleting,
}

impl PackState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Live => "live",
            Self::Condemned => "condemned",
            Self::Deleting => "deleting",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Intended, Self::Live, Self::Condemned, Self::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// State of a snapshot that has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotState {
    /// Checked and numbered; its object may or may not be in the bucket yet.
    Committing,
    Committed,
    /// Can be undeleted until it is purged.
    Forgotten,
    /// Its object is being removed; there is no way back.
    Purging,
}

impl SnapshotState {
    pub const ALL: [Self; 4] = [Self::Committing, Self::Committed, Self::Forgotten, Self::Purging];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Forgotten => "forgotten",
            Self::Purging => "purging",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Where the catalogue says a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFact {
    pub pack: PackState,
    /// The pack's row is older than a gap in the catalogue's memory.
    pub suspect: bool,
    /// The frame was found unreadable.
    pub damaged: bool,
}

/// What a commit makes of one reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    Usable,
    /// Usable once its pack is live again.
    Revive,
    Missing,
}

/// What `CommitPack` may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackCommit {
    Accept,
    /// It was committed before: the answer is the same.
    Repeat,
    /// Its object is absent or has another length.
    NotStored,
    /// The row is gone or going: a new allocation is needed.
    Lost,
}

/// What the second mark makes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Revive,
    Delete,
    Leave,
}

/// Facts about a pack that is to be deleted or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    pub state: PackState,
    /// Reached by a snapshot, when the mark was made.
    pub used: bool,
    /// Uploaded under a lease that still holds.
    pub held: bool,
}

/// The next thing to do for a snapshot that is being committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommitStep {
    RaiseHead,
    PutObject,
    SetCommitted,
}

/// The next thing to do for a snapshot that is being purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeStep {
    DeleteObject,
    DeleteRow,
}

/// Facts about a forgotten snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeFacts {
    pub state: SnapshotState,
    pub held: bool,
    /// An open lease builds on it or restores it.
    pub leased: bool,
    /// By the wall clock, milliseconds since the epoch.
    pub purge_after_ms: i64,
    pub now_ms: i64,
    /// By the time a controller was running.
    pub forgotten_tick: u64,
    pub now_tick: u64,
    pub grace_ticks: u64,
}

/// Age and end of a lease, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFacts {
    pub opened_tick: u64,
    pub renewed_tick: u64,
    /// When it was closed or superseded.
    pub ended_tick: Option<u64>,
    /// It ended with a snapshot.
    pub committed: bool,
}

/// Limits of leases, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Silent for longer: it stops holding collection back.
    pub silent: u64,
    /// Open for longer, active or not.
    pub open: u64,
    /// Packs of a run that came to nothing are kept this long for the next.
    pub resume: u64,
}

/// How far the catalogue may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    Whole,
    /// The bucket has seen changes this catalogue has not.
    Behind,
    /// The bucket has lost changes this catalogue has seen there.
    BucketBehind,
    /// The bucket is another repository, or another controller's.
    Foreign,
}

/// The decisions. [`Protocol::WHOLE`] is the only one outside tests.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    without: Option<Guard>,
}

impl Protocol {
    pub const WHOLE: Self = Self { without: None };

    #[cfg(test)]
    pub(crate) fn without(guard: Guard) -> Self {
        Self { without: Some(guard) }
    }

    pub(crate) fn has(self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    /// `Have`: the frame need not be sent.
    pub fn offers(self, frame: FrameFact) -> bool {
        frame.pack == PackState::Live && !frame.damaged && self.believes(frame)
    }

    fn believes(self, frame: FrameFact) -> bool {
        !(frame.suspect && self.has(Guard::SuspectNotUsed))
    }

    /// `CommitPack`, given the row as it is inside the transaction and what
    /// was seen of the object before it.
    pub fn pack_commit(self, state: Option<PackState>, object_seen: bool) -> PackCommit {
        match state {
            Some(PackState::Intended) if object_seen || !self.has(Guard::ObjectSeen) => PackCommit::Accept,
            Some(PackState::Intended) => PackCommit::NotStored,
            // The first answer was lost.
            Some(PackState::Live | PackState::Condemned) => PackCommit::Repeat,
            Some(PackState::Deleting) if !self.has(Guard::IntendedBecomesLive) => PackCommit::Accept,
            Some(PackState::Deleting) | None => PackCommit::Lost,
        }
    }

    /// Whether a newly committed pack becomes the place of a frame it holds.
    pub fn takes_over(self, current: Option<FrameFact>) -> bool {
        current.is_none_or(|frame| !self.offers(frame))
    }

    /// Transaction 1 of `CommitSnapshot`, for each frame it reaches.
    pub fn reference(self, frame: Option<FrameFact>) -> Reference {
        match frame {
            Some(_) if !self.has(Guard::ReferencesChecked) => Reference::Usable,
            Some(frame) if frame.damaged || !self.believes(frame) => Reference::Missing,
            Some(FrameFact { pack: PackState::Live, .. }) => Reference::Usable,
            Some(FrameFact { pack: PackState::Condemned, .. }) if self.has(Guard::CommitRevives) => {
                Reference::Revive
            }
            Some(FrameFact { pack: PackState::Condemned, .. }) => Reference::Usable,
            Some(FrameFact { pack: PackState::Intended | PackState::Deleting, .. }) | None => {
                Reference::Missing
            }
        }
    }

    /// The next step of a commit, by what has been done in this attempt.
    /// After a crash both count as not done: repeating them changes nothing.
    /// The head comes first: an old catalogue must not overlook an object
    /// that it would rob of its frames.
    pub fn commit_step(self, head_raised: bool, object_put: bool) -> CommitStep {
        if !head_raised && self.has(Guard::HeadFirst) {
            CommitStep::RaiseHead
        } else if !object_put && self.has(Guard::PutBeforeCommitted) {
            CommitStep::PutObject
        } else {
            CommitStep::SetCommitted
        }
    }

    /// Whether a snapshot's frames must stay.
    pub fn keeps(self, state: SnapshotState) -> bool {
        match state {
            SnapshotState::Committing => self.has(Guard::CommittingKeeps),
            SnapshotState::Committed => true,
            SnapshotState::Forgotten => self.has(Guard::ForgottenKeeps),
            SnapshotState::Purging => self.has(Guard::ObjectBeforeRow),
        }
    }

    /// Whether a lease keeps its packs and makes collection wait.
    pub fn lease_holds(self, lease: LeaseFacts, now_tick: u64, limits: LeaseLimits) -> bool {
        let since = |tick: u64| now_tick.saturating_sub(tick);
        match lease.ended_tick {
            // The snapshot keeps what it needs by itself.
            Some(_) if lease.committed => false,
            Some(ended) => since(ended) < limits.resume,
            None => since(lease.renewed_tick) < limits.silent && since(lease.opened_tick) < limits.open,
        }
    }

    /// First mark: whether to condemn.
    pub fn first_mark(self, pack: PackFacts) -> bool {
        pack.state == PackState::Live && !pack.used && !pack.held
    }

    /// Second mark, inside the deciding transaction.
    pub fn second_mark(self, pack: PackFacts) -> Verdict {
        match pack.state {
            // A snapshot that was committed since the first mark may use it, or the next
            // attempt of an upload may.
            PackState::Condemned if pack.held || (pack.used && self.has(Guard::SecondMark)) => {
                Verdict::Revive
            }
            PackState::Condemned => Verdict::Delete,
            // Its lease is over: nobody will send the rest, or commit it.
            PackState::Intended if !pack.held => Verdict::Delete,
            PackState::Intended | PackState::Live | PackState::Deleting => Verdict::Leave,
        }
    }

    /// Whether `forget` applies.
    pub fn may_forget(self, state: SnapshotState, held: bool) -> bool {
        state == SnapshotState::Committed && !held
    }

    /// Whether `undelete` applies.
    pub fn may_undelete(self, state: SnapshotState) -> bool {
        match state {
            SnapshotState::Forgotten => true,
            SnapshotState::Purging => !self.has(Guard::UndeleteForgottenOnly),
            SnapshotState::Committing | SnapshotState::Committed => false,
        }
    }

    /// Whether a forgotten snapshot goes for good. Both clocks must agree: a
    /// wall clock that jumps ahead purges nothing.
    pub fn may_purge(self, facts: PurgeFacts) -> bool {
        facts.state == SnapshotState::Forgotten
            && !facts.held
            && !facts.leased
            && facts.now_ms >= facts.purge_after_ms
            && facts.now_tick.saturating_sub(facts.forgotten_tick) >= facts.grace_ticks
    }

    /// What a snapshot being purged needs next.
    pub fn purge_step(self, object_gone: bool) -> PurgeStep {
        if object_gone || !self.has(Guard::ObjectBeforeRow) {
            PurgeStep::DeleteRow
        } else {
            PurgeStep::DeleteObject
        }
    }

    /// At start and before each batch of deletes.
    pub fn trust(self, same_repository: bool, head: u64, own: u64) -> Trust {
        if !same_repository {
            Trust::Foreign
        } else if head > own && self.has(Guard::BehindNoticed) {
            Trust::Behind
        } else {
            Trust::Whole
        }
    }

    /// Whether the bucket is an older copy of itself: the head is raised before
    /// a commit is acknowledged, so it is never below one that was.
    pub fn is_old_copy(self, head: u64, committed: u64) -> bool {
        head < committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LeaseLimits = LeaseLimits { silent: 10, open: 100, resume: 20 };

    #[test]
    fn p19_a_lease_holds_while_it_is_used_and_not_for_ever() {
        let lease = LeaseFacts { opened_tick: 0, renewed_tick: 50, ended_tick: None, committed: false };
        let holds = |lease, now| Protocol::WHOLE.lease_holds(lease, now, LIMITS);
        assert!(holds(lease, 59));
        assert!(!holds(lease, 60), "silent for too long");
        assert!(!holds(LeaseFacts { renewed_tick: 100, ..lease }, 100), "open for too long");
        let ended = LeaseFacts { ended_tick: Some(55), ..lease };
        assert!(holds(ended, 74), "kept for the next attempt");
        assert!(!holds(ended, 75));
        assert!(!holds(LeaseFacts { committed: true, ..ended }, 56));
    }

    #[test]
    fn a_clock_that_jumps_ahead_purges_nothing() {
        let facts = PurgeFacts {
            state: SnapshotState::Forgotten,
            held: false,
            leased: false,
            purge_after_ms: 1_000,
            now_ms: i64::MAX,
            forgotten_tick: 5,
            now_tick: 6,
            grace_ticks: 10,
        };
        assert!(!Protocol::WHOLE.may_purge(facts));
        let later = PurgeFacts { now_tick: 15, ..facts };
        assert!(Protocol::WHOLE.may_purge(later));
        assert!(!Protocol::WHOLE.may_purge(PurgeFacts { now_ms: 999, ..later }));
        assert!(!Protocol::WHOLE.may_purge(PurgeFacts { leased: true, ..later }));
        assert!(!Protocol::WHOLE.may_purge(PurgeFacts { held: true, ..later }));
    }
}

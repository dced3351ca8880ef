//! Which snapshots of one source a policy forgets. Pure.
//!
//! Made to err on the side of keeping:
//! - Only what the policy itself made is ever forgotten. Snapshots made by
//!   hand or by another policy stay, and so do those whose maker is not known
//!   (a rebuilt catalogue).
//! - What is counted is complete snapshots, not days: after a gap nothing is
//!   thrown away because time has passed.
//! - A partial snapshot never counts as one of the last, so a row of bad
//!   nights cannot push the good ones out. Partial ones newer than the newest
//!   complete are the only record of that time: of these the last few stay.
//! - Held ones stay, and so does the newest complete one whoever made it.
//! - A snapshot with less than a tenth of what an older one has counts as a
//!   partial one does, until somebody accepts it: a source that lost its
//!   content, and is backed up night after night, pushes nothing out. What it
//!   is measured against stays as well, and so does the newest of those that
//!   shrank: without it nothing would show that the source had.
//!
//! Order is by number, which the controller gives and which only grows; the
//! wall clock has no say.

use std::collections::BTreeSet;

use holdfast_archive::ids::SnapshotId;
use holdfast_archive::snapshot::Extent;

/// A committed snapshot of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub id: SnapshotId,
    pub partial: bool,
    pub held: bool,
    /// Name of the policy that made it; empty: by hand, or not known.
    pub policy: String,
    /// How large the source was; not known of a snapshot from before it was noted.
    pub extent: Option<Extent>,
    /// Somebody said that what is left is all there is to be.
    pub shrink_accepted: bool,
}

/// What is to become of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub id: SnapshotId,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    KeepHeld,
    KeepOfAnother,
    KeepLastGood,
    KeepAmongLast,
    /// The source has shrunk below a tenth since, and nobody has accepted that.
    KeepBeforeShrinking,
    /// Shows that the source has shrunk: the newest complete one.
    KeepShrunk,
    /// Says that the source was meant to shrink, and an older one stays.
    KeepAcceptance,
    /// Partial or shrunk, and no complete one is newer.
    KeepOnlyRecord,
    ForgetBeyondLast,
    ForgetPartial,
    ForgetShrunk,
}

impl Verdict {
    pub(crate) fn forgets(self) -> bool {
        match self {
            Self::ForgetBeyondLast | Self::ForgetPartial | Self::ForgetShrunk => true,
            Self::KeepHeld
            | Self::KeepOfAnother
            | Self::KeepLastGood
            | Self::KeepAmongLast
            | Self::KeepBeforeShrinking
            | Self::KeepShrunk
            | Self::KeepAcceptance
            | Self::KeepOnlyRecord => false,
        }
    }

    /// The reason, in words.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::KeepHeld => "held",
            Self::KeepOfAnother => "not made by this policy",
            Self::KeepLastGood => "the newest complete one",
            Self::KeepAmongLast => "among the last complete ones",
            Self::KeepBeforeShrinking => {
                "the source has shrunk below a tenth since, which nobody has accepted"
            }
            Self::KeepShrunk => "shows that the source has shrunk below a tenth, which nobody has accepted",
            Self::KeepAcceptance => "says that the source was meant to shrink, and an older one stays",
            Self::KeepOnlyRecord => "partial or shrunk, but no complete one is newer",
            Self::ForgetBeyondLast => "older than the last complete ones to keep",
            Self::ForgetPartial => "partial, and newer ones are kept",
            Self::ForgetShrunk => "less than a tenth of an older one, and newer ones are kept",
        }
    }
}

/// Decides over all committed snapshots of one source, newest first.
pub(crate) fn plan(policy: &str, keep_last: u32, snapshots: &[Candidate]) -> Vec<Decision> {
    let mut snapshots: Vec<&Candidate> = snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id.number));
    let shrinkage = Shrinkage::of(&snapshots);
    let good = |snapshot: &&&Candidate| !snapshot.partial && !shrinkage.shrunk.contains(&snapshot.id.number);
    let last_good = snapshots.iter().find(good).map(|snapshot| snapshot.id.number);
    let (mut complete, mut poor) = (0, 0);
    let mut decide = |snapshot: &Candidate| {
        // Snapshots without a policy have no maker in common.
        let own = snapshot.policy == policy && !policy.is_empty();
        let is_good = good(&&snapshot);
        let among_last = {
            let count = if is_good { &mut complete } else { &mut poor };
            // Counted before the verdict: a held one takes one of the places to keep, too.
            *count += u32::from(own);
            *count <= keep_last.max(1)
        };
        // Reasons to keep come first, and the first that holds is the one that is shown.
        if snapshot.held {
            Verdict::KeepHeld
        } else if !own {
            Verdict::KeepOfAnother
        } else if last_good == Some(snapshot.id.number) {
            Verdict::KeepLastGood
        } else if shrinkage.measures.contains(&snapshot.id.number) {
            Verdict::KeepBeforeShrinking
        } else if shrinkage.newest == Some(snapshot.id.number) {
            Verdict::KeepShrunk
        } else if is_good {
            if among_last { Verdict::KeepAmongLast } else { Verdict::ForgetBeyondLast }
        } else if among_last && last_good.is_none_or(|good| snapshot.id.number > good) {
            Verdict::KeepOnlyRecord
        } else if snapshot.partial {
            Verdict::ForgetPartial
        } else {
            Verdict::ForgetShrunk
        }
    };
    let mut decisions: Vec<Decision> =
        snapshots.iter().map(|snapshot| Decision { id: snapshot.id, verdict: decide(snapshot) }).collect();
    // Without it, what came after would be measured against the older one again.
    let mut older_stays = false;
    // From the oldest on: an acceptance counts only while something older than it stays.
    for (snapshot, decision) in snapshots.iter().zip(&mut decisions).rev() {
        if older_stays && snapshot.shrink_accepted && decision.verdict.forgets() {
            decision.verdict = Verdict::KeepAcceptance;
        }
        older_stays |= !decision.verdict.forgets();
    }
    decisions
}

/// Which snapshots, by number, show a source that has lost most of its content.
#[derive(Default)]
struct Shrinkage {
    /// Complete ones with less than a tenth of an older one since the last that
    /// was accepted.
    shrunk: BTreeSet<u64>,
    /// While the newest complete one is such: those with the most entries and
    /// the most bytes. They stay, so that what is measured against them is
    /// judged the same once others are forgotten.
    measures: Vec<u64>,
    /// The newest complete one, where it is such.
    newest: Option<u64>,
}

impl Shrinkage {
    /// Of all snapshots of a source, newest first. Partial ones are left aside.
    fn of(snapshots: &[&Candidate]) -> Self {
        let mut found = Self::default();
        let mut most_entries: Option<(u64, Extent)> = None;
        let mut most_bytes: Option<(u64, Extent)> = None;
        // From the oldest on: each is measured against the largest before it.
        for snapshot in snapshots.iter().rev().filter(|snapshot| !snapshot.partial) {
            let Some(now) = snapshot.extent else { continue };
            let number = snapshot.id.number;
            if snapshot.shrink_accepted {
                (most_entries, most_bytes) = (None, None);
            }
            let measures = [most_entries, most_bytes];
            if measures.into_iter().flatten().any(|(_, then)| now.shrank_from(then)) {
                found.shrunk.insert(number);
                found.newest = Some(number);
                // It is no measure: compared with what is left, the next would count as whole.
                continue;
            }
            // The content is there again: nothing has to show that it was away.
            found.newest = None;
            // Of equal ones the newest is the measure, so that the older ones can go.
            if most_entries.is_none_or(|(_, then)| now.entries >= then.entries) {
                most_entries = Some((number, now));
            }
            if most_bytes.is_none_or(|(_, then)| now.size_bytes >= then.size_bytes) {
                most_bytes = Some((number, now));
            }
        }
        if found.newest.is_some() {
            found.measures =
                [most_entries, most_bytes].into_iter().flatten().map(|(number, _)| number).collect();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::{HostId, SourceId};
    use proptest::prelude::*;

    use super::*;

    /// One letter a snapshot, oldest first: `c` complete, `p` partial, `h`
    /// complete and held, `o` complete of another policy, `s` complete with a
    /// hundredth of the content, `m` with a sixth, `a` as `s` and accepted.
    fn snapshots(letters: &str) -> Vec<Candidate> {
        let (host, source) = (HostId::generate(), SourceId::generate());
        (1..)
            .zip(letters.chars())
            .map(|(number, letter)| Candidate {
                id: SnapshotId { host, source, number },
                partial: letter == 'p',
                held: letter == 'h',
                policy: if letter == 'o' { String::new() } else { "nightly".to_owned() },
                extent: Some(match letter {
                    's' | 'a' => Extent { entries: 10, size_bytes: 40_000 },
                    'm' => Extent { entries: 160, size_bytes: 640_000 },
                    _ => Extent { entries: 1000, size_bytes: 4_000_000 },
                }),
                shrink_accepted: letter == 'a',
            })
            .collect()
    }

    /// The letters of what is kept, oldest first, forgotten ones as `-`.
    fn kept(letters: &str, keep_last: u32) -> String {
        let mut decisions = plan("nightly", keep_last, &snapshots(letters));
        decisions.reverse();
        letters
            .chars()
            .zip(decisions)
            .map(|(letter, decision)| if decision.verdict.forgets() { '-' } else { letter })
            .collect()
    }

    #[test]
    fn the_last_complete_ones_stay() {
        assert_eq!(kept("ccccc", 3), "--ccc");
        assert_eq!(kept("cc", 3), "cc");
        assert_eq!(kept("", 3), "");
    }

    #[test]
    fn partial_ones_never_push_good_ones_out() {
        assert_eq!(kept("cccpppp", 2), "-cc--pp");
        assert_eq!(kept("cpcpc", 2), "--c-c");
        // Nothing complete at all: the last few of what there is.
        assert_eq!(kept("pppp", 2), "--pp");
    }

    #[test]
    fn a_source_that_shrank_pushes_nothing_out_until_that_is_accepted() {
        assert_eq!(kept("cssssss", 2), "c----ss");
        assert_eq!(kept("cccss", 2), "-ccss");
        // Also where it shrank in two steps, and the first was no alarm.
        assert_eq!(kept("cmmmss", 2), "c-mmss");
        assert_eq!(kept("cssa", 2), "c--a");
        assert_eq!(kept("cssass", 2), "----ss");
        // What was accepted stays accepted while an older one is held.
        assert_eq!(kept("hass", 1), "ha-s");
        // It is back.
        assert_eq!(kept("csscc", 2), "---cc");
        // A partial one says nothing of the size, so it does not replace the
        // newest that shrank. Without that one, `c` would go the next night.
        assert_eq!(kept("cmsp", 1), "cmsp");
        assert_eq!(kept("cspsp", 1), "c--sp");
        // Of snapshots from before it was noted nothing is known.
        let mut unknown = snapshots("css");
        unknown.iter_mut().for_each(|snapshot| snapshot.extent = None);
        let forgotten =
            plan("nightly", 1, &unknown).into_iter().filter(|decision| decision.verdict.forgets());
        assert_eq!(forgotten.count(), 2);
    }

    #[test]
    fn held_ones_and_those_of_others_stay_and_do_not_count() {
        assert_eq!(kept("hcccc", 2), "h--cc");
        assert_eq!(kept("occcc", 2), "o--cc");
        assert_eq!(kept("ccco", 1), "--co");
        let decisions = plan("", 1, &snapshots("ooo"));
        assert!(decisions.iter().all(|decision| !decision.verdict.forgets()));
    }

    proptest! {
        #[test]
        fn the_newest_good_one_and_held_ones_always_stay(
            letters in "[cphosma]{0,24}",
            keep_last in 0_u32..6,
        ) {
            let all = snapshots(&letters);
            let decisions = plan("nightly", keep_last, &all);
            prop_assert_eq!(decisions.len(), all.len());
            let forgotten = |snapshot: &Candidate| {
                decisions.iter().any(|d| d.id == snapshot.id && d.verdict.forgets())
            };
            let newest_first: Vec<&Candidate> = all.iter().rev().collect();
            let shrunk = Shrinkage::of(&newest_first).shrunk;
            let good = |s: &&Candidate| !s.partial && !shrunk.contains(&s.id.number);
            if let Some(newest) = all.iter().rev().find(good) {
                prop_assert!(!forgotten(newest));
            }
            prop_assert!(all.iter().all(|s| !(forgotten(s) && (s.held || s.policy.is_empty()))));
            let complete = |s: &&Candidate| good(s) && !s.policy.is_empty();
            let stays = all.iter().filter(complete).filter(|s| !forgotten(s)).count();
            let had = all.iter().filter(complete).count();
            prop_assert!(stays >= had.min(keep_last.max(1) as usize));
            // Planning again after forgetting changes nothing.
            let left: Vec<Candidate> = all.iter().filter(|s| !forgotten(s)).cloned().collect();
            prop_assert!(plan("nightly", keep_last, &left).iter().all(|d| !d.verdict.forgets()));
        }
    }
}

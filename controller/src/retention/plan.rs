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
//!
//! Order is by number, which the controller gives and which only grows; the
//! wall clock has no say.

use holdfast_archive::ids::SnapshotId;

/// A committed snapshot of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: SnapshotId,
    pub partial: bool,
    pub held: bool,
    /// Name of the policy that made it; empty: by hand, or not known.
    pub policy: String,
}

/// What is to become of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub id: SnapshotId,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    KeepHeld,
    KeepOfAnother,
    KeepLastGood,
    KeepAmongLast,
    /// Partial, and no complete one is newer.
    KeepOnlyRecord,
    ForgetBeyondLast,
    ForgetPartial,
}

impl Verdict {
    pub fn forgets(self) -> bool {
        match self {
            Self::ForgetBeyondLast | Self::ForgetPartial => true,
            Self::KeepHeld
            | Self::KeepOfAnother
            | Self::KeepLastGood
            | Self::KeepAmongLast
            | Self::KeepOnlyRecord => false,
        }
    }

    /// The reason, in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::KeepHeld => "held",
            Self::KeepOfAnother => "not made by this policy",
            Self::KeepLastGood => "the newest complete one",
            Self::KeepAmongLast => "among the last complete ones",
            Self::KeepOnlyRecord => "partial, but no complete one is newer",
            Self::ForgetBeyondLast => "older than the last complete ones to keep",
            Self::ForgetPartial => "partial, and newer ones are kept",
        }
    }
}

/// Decides over all committed snapshots of one source, newest first.
pub fn plan(policy: &str, keep_last: u32, snapshots: &[Candidate]) -> Vec<Decision> {
    let mut snapshots: Vec<&Candidate> = snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id.number));
    let last_good = snapshots.iter().find(|snapshot| !snapshot.partial).map(|snapshot| snapshot.id.number);
    let (mut complete, mut partial) = (0, 0);
    let mut decide = |snapshot: &Candidate| {
        let own = snapshot.policy == policy && !policy.is_empty();
        let among_last = {
            let count = if snapshot.partial { &mut partial } else { &mut complete };
            *count += u32::from(own);
            *count <= keep_last.max(1)
        };
        if snapshot.held {
            Verdict::KeepHeld
        } else if !own {
            Verdict::KeepOfAnother
        } else if last_good == Some(snapshot.id.number) {
            Verdict::KeepLastGood
        } else if snapshot.partial {
            let newest = last_good.is_none_or(|good| snapshot.id.number > good);
            if newest && among_last { Verdict::KeepOnlyRecord } else { Verdict::ForgetPartial }
        } else if among_last {
            Verdict::KeepAmongLast
        } else {
            Verdict::ForgetBeyondLast
        }
    };
    snapshots.into_iter().map(|snapshot| Decision { id: snapshot.id, verdict: decide(snapshot) }).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::{HostId, SourceId};
    use proptest::prelude::*;

    use super::*;

    /// One letter a snapshot, oldest first: `c` complete, `p` partial, `h`
    /// complete and held, `o` complete of another policy.
    fn snapshots(letters: &str) -> Vec<Candidate> {
        let (host, source) = (HostId::generate(), SourceId::generate());
        (1..)
            .zip(letters.chars())
            .map(|(number, letter)| Candidate {
                id: SnapshotId { host, source, number },
                partial: letter == 'p',
                held: letter == 'h',
                policy: if letter == 'o' { String::new() } else { "nightly".to_owned() },
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
            letters in "[cpho]{0,24}",
            keep_last in 0_u32..6,
        ) {
            let all = snapshots(&letters);
            let decisions = plan("nightly", keep_last, &all);
            prop_assert_eq!(decisions.len(), all.len());
            let forgotten = |snapshot: &Candidate| {
                decisions.iter().any(|d| d.id == snapshot.id && d.verdict.forgets())
            };
            if let Some(newest) = all.iter().rev().find(|snapshot| !snapshot.partial) {
                prop_assert!(!forgotten(newest));
            }
            prop_assert!(all.iter().all(|s| !(forgotten(s) && (s.held || s.policy.is_empty()))));
            let complete = |s: &&Candidate| !s.partial && !s.policy.is_empty();
            let stays = all.iter().filter(complete).filter(|s| !forgotten(s)).count();
            let had = all.iter().filter(complete).count();
            prop_assert!(stays >= had.min(keep_last.max(1) as usize));
            // Planning again after forgetting changes nothing.
            let left: Vec<Candidate> = all.iter().filter(|s| !forgotten(s)).cloned().collect();
            prop_assert!(plan("nightly", keep_last, &left).iter().all(|d| !d.verdict.forgets()));
        }
    }
}

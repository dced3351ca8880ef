//! The snapshots of a fleet, as its jobs, its catalogue and its bucket know
//! them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Fleet, Said};
use crate::invariant;

/// How a command ends that found damage.
const DAMAGED: i32 = 4;

/// Ids of snapshots, as three know them.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// That jobs said they stored.
    told: BTreeSet<String>,
    /// In the catalogue.
    listed: BTreeSet<String>,
    /// In the bucket.
    stored: BTreeSet<String>,
    /// Whether a job may have removed some for good.
    pruned: bool,
}

impl Snapshots {
    /// Of those that were told of none counts as missing where they may be gone
    /// on purpose.
    pub(super) fn but_for_pruned(mut self) -> Self {
        if self.pruned {
            self.told.clear();
        }
        self
    }

    pub(super) fn agree(&self) -> bool {
        self.told.is_subset(&self.listed) && self.listed == self.stored
    }

    #[track_caller]
    pub(super) fn assert_agreement(&self, after: &str) {
        let Self { told, listed, stored, pruned: _ } = self;
        let missing: Vec<_> = told.difference(listed).collect();
        invariant!("I2", missing.is_empty(), "after {after}: {missing:?} were stored and are not listed");
        invariant!("I3", listed == stored, "after {after}: listed {listed:?}, in the bucket {stored:?}");
    }
}

impl Fleet {
    /// Panics unless every snapshot of the repository is whole (I1).
    #[track_caller]
    pub fn assert_whole(&self) {
        let said = self.repo("verify", &[]);
        invariant!("I1", said.code != DAMAGED, "{}{}", said.stdout, said.stderr);
        said.ends_with(0);
    }

    /// Panics unless everything jobs said they stored is in the catalogue (I2),
    /// and the catalogue and the bucket have the same snapshots (I3, I10).
    /// Nothing may run meanwhile.
    #[track_caller]
    pub fn assert_acknowledged(&self, after: &str) {
        let found = self.snapshots_told_listed_and_stored().unwrap_or_else(|said| panic!("{said:?}"));
        found.assert_agreement(after);
    }

    /// What jobs, the catalogue and the bucket know of snapshots, one after the
    /// other.
    ///
    /// # Errors
    /// What the command said that failed.
    pub(super) fn snapshots_told_listed_and_stored(&self) -> Result<Snapshots, Said> {
        let listed = ids(&self.try_json(&["snapshot", "ls", "--forgotten"])?);
        let jobs = self.try_json(&["job", "ls", "--limit", "500"])?;
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        let pruned = jobs.iter().any(|job| job["kind"] == "prune");
        let sources = jobs.iter().flat_map(|job| job["sources"].as_array()).flatten();
        let told = sources.filter_map(|source| source["snapshot"].as_str()).filter(|told| !told.is_empty());
        let told = told.map(str::to_owned).collect();
        let stored = ids(&self.repo("ls", &["-o", "json"]).json()?);
        Ok(Snapshots { told, listed, stored, pruned })
    }
}

/// Of a list of snapshots.
fn ids(snapshots: &Value) -> BTreeSet<String> {
    let each = snapshots.as_array().expect("a list").iter();
    each.map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned()).collect()
}

//! What a backup should find on its host and does not. Pure.
//!
//! A run that takes all that is there is green only if what is there is all
//! there should be.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::source::SourceKind;
use holdfast_archive::ids::SourceId;

use super::kept::Kept;
use super::words::{counted, moment};
use crate::catalog::sources::SourceRecord;
use crate::coverage::matching::facts;
use crate::policy::VolumeSelector;

/// What is known when a backup chooses its sources.
#[derive(Debug)]
pub(crate) struct Expectation<'f> {
    pub selector: &'f VolumeSelector,
    /// Of the host, gone ones included.
    pub sources: &'f [SourceRecord],
    pub kept: &'f Kept<'f>,
    /// Sources of the last run of the same policy with the same selection.
    pub last: &'f BTreeSet<SourceId>,
}

/// A source that is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub name: String,
    /// The rest of a sentence that begins with the source.
    pub why: String,
    /// There is a source to be retired.
    pub known: bool,
}

impl Expectation<'_> {
    /// Volumes that are missed, by name: named ones that are not there, gone
    /// ones that have snapshots or were in the last run, and those of the last
    /// run that are there and not selected any more. Retired ones are not.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let mut missing = BTreeMap::new();
        let volumes = || self.sources.iter().filter(|source| source.kind == SourceKind::Volume);
        for name in self.selector.promised() {
            if !volumes().any(|source| source.name == name) {
                let why = "is named and was never on this host".to_owned();
                missing.insert(name, Missing { name: name.to_owned(), why, known: false });
            }
        }
        for source in volumes().filter(|source| source.retired_ms.is_none()) {
            if let Some(why) = self.missed(source) {
                missing.insert(&source.name, Missing { name: source.name.clone(), why, known: true });
            }
        }
        missing.into_values().collect()
    }

    fn missed(&self, source: &SourceRecord) -> Option<String> {
        if !source.own.is_empty() {
            let promised = self.selector.promised().any(|name| name == source.name);
            return promised.then(|| {
                format!("is Holdfast's own ({}) and never backed up: take its name out", source.own)
            });
        }
        let selected = self.selector.matches(facts(source));
        let in_last = self.last.contains(&source.id);
        let count = self.kept.count(source.id);
        match source.gone_ms {
            None if in_last && !selected => Some(
                "is there and was in the last run, but is not selected any more: its labels or its use changed"
                    .to_owned(),
            ),
            None => None,
            Some(_) if !selected && !in_last => None,
            Some(gone) => {
                let promised = self.selector.promised().any(|name| name == source.name);
                let since = format!("is gone from the host since {}", moment(gone));
                match (count, promised || in_last) {
                    (0, false) => None,
                    (0, true) => Some(format!("{since}, and has no snapshot")),
                    (count, _) => Some(format!("{since}; {} of it", counted(count, "snapshot"))),
                }
            }
        }
    }
}

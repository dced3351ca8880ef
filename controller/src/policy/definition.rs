//! What a policy says, and what it matches.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::capture::{Consistency, NestedMounts, TornPolicy};
use crate::schedule::Schedule;
use globset::{Glob, GlobBuilder, GlobMatcher};

/// A policy as applied. `toml` is the text it was read from.
#[derive(Debug, Clone)]
pub struct Policy {
    pub name: String,
    pub enabled: bool,
    /// `None`: runs only when asked to.
    pub timing: Option<Timing>,
    pub hosts: HostSelector,
    pub volumes: VolumeSelector,
    /// Absolute paths on each matching host.
    pub directories: Vec<String>,
    pub consistency: Consistency,
    pub torn: TornPolicy,
    pub nested_mounts: NestedMounts,
    /// Zero: the agent's default.
    pub max_downtime: Duration,
    pub overlap: Overlap,
    /// `None` keeps everything.
    pub keep_last: Option<u32>,
    pub toml: String,
}

/// When a policy fires.
#[derive(Debug, Clone)]
pub struct Timing {
    pub schedule: Schedule,
    /// Each host starts up to this much later, always by the same amount.
    pub jitter: Duration,
    /// A fire missed while the controller was down is run later.
    pub catch_up: bool,
}

/// What a fire does on a host where the policy's previous job still goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// Records that it was skipped.
    #[default]
    Skip,
    /// Waits for it; at most one waits.
    Queue,
}

/// Shell globs over names, kept with their text.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<GlobMatcher>);

impl Patterns {
    /// The error is globset's sentence about the first bad pattern.
    ///
    /// # Errors
    /// A pattern is no glob.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, globset::Error> {
        patterns.iter().map(|text| pattern(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.is_match(name))
    }

    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|glob| glob.glob().glob().to_owned()).collect()
    }

    /// Those of the patterns that are plain names.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|glob| glob.glob().glob()).filter(|text| !text.contains(['*', '?', '[', '{', '\\']))
    }
}

/// One glob; `*` also matches `/`, names are not paths here.
///
/// # Errors
/// It is no glob.
pub fn pattern(text: &str) -> Result<GlobMatcher, globset::Error> {
    GlobBuilder::new(text).build().map(|glob: Glob| glob.compile_matcher())
}

/// `key` or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatch {
    pub key: String,
    pub value: Option<String>,
}

impl LabelMatch {
    /// `None` when there is no key.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        (!key.is_empty()).then(|| Self { key: key.to_owned(), value })
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

impl fmt::Display for LabelMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// Hosts by name, by label, or both; empty means every host.
#[derive(Debug, Clone, Default)]
pub struct HostSelector {
    pub names: Patterns,
    pub labels: Vec<LabelMatch>,
}

impl HostSelector {
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.names.is_empty() || self.names.matches(name)) && self.labels.iter().all(|l| l.matches(labels))
    }
}

/// What a volume selector looks at.
#[derive(Debug, Clone, Copy)]
pub struct VolumeFacts<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// Named by the Engine.
    pub anonymous: bool,
    /// Some container, running or not, refers to it.
    pub used: bool,
    /// It is Holdfast's own: nothing matches it, not even its name.
    pub own: bool,
}

/// Volumes by name and label. With neither given it matches none: a policy
/// may be about directories only.
#[derive(Debug, Clone, Default)]
pub struct VolumeSelector {
    pub include: Patterns,
    pub exclude: Patterns,
    pub labels: Vec<LabelMatch>,
}

impl VolumeSelector {
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.labels.is_empty()
    }

    /// Names of volumes that are to be on every host selected: those given
    /// plainly. A glob promises nothing.
    pub fn promised(&self) -> impl Iterator<Item = &str> {
        self.include.plain_names().filter(|name| !self.exclude.matches(name))
    }

    /// An anonymous volume that no container refers to is what was left
    /// behind; it is matched by its full name only.
    pub fn matches(&self, volume: VolumeFacts<'_>) -> bool {
        if volume.own || self.is_empty() || self.exclude.matches(volume.name) {
            return false;
        }
        if volume.anonymous && !volume.used {
            return self.include.plain_names().any(|name| name == volume.name);
        }
        (self.include.is_empty() || self.include.matches(volume.name))
            && self.labels.iter().all(|label| label.matches(volume.labels))
    }
}

impl Policy {
    /// What retention keeps, in words.
    pub fn keeps(&self) -> String {
        match self.keep_last {
            None => "every snapshot (no keep_last)".to_owned(),
            Some(1) => "the last complete snapshot of each source, and held ones".to_owned(),
            Some(n) => format!("the last {n} complete snapshots of each source, and held ones"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn hosts_match_by_name_and_by_every_label() {
        let selector = HostSelector {
            names: Patterns::parse(&["db-*"]).expect("globs"),
            labels: vec![
                LabelMatch::parse("role=db").expect("label"),
                LabelMatch::parse("eu").expect("label"),
            ],
        };
        assert!(selector.matches("db-1", &labels(&[("role", "db"), ("eu", "")])));
        assert!(!selector.matches("db-1", &labels(&[("role", "db")])));
        assert!(!selector.matches("web-1", &labels(&[("role", "db"), ("eu", "")])));
        assert!(HostSelector::default().matches("anything", &BTreeMap::new()));
    }

    #[test]
    fn volumes_match_by_glob_label_and_exclusion_and_leftovers_by_name_only() {
        let selector = VolumeSelector {
            include: Patterns::parse(&["*"]).expect("globs"),
            exclude: Patterns::parse(&["cache_*"]).expect("globs"),
            labels: Vec::new(),
        };
        let none = BTreeMap::new();
        let volume = |name, anonymous, used| VolumeFacts { name, labels: &none, anonymous, used, own: false };
        assert!(selector.matches(volume("db_data", false, false)));
        assert!(!selector.matches(volume("cache_web", false, true)));
        assert!(selector.matches(volume("0a1b", true, true)));
        assert!(!selector.matches(volume("0a1b", true, false)));
        let named = VolumeSelector { include: Patterns::parse(&["0a1b"]).expect("globs"), ..selector };
        assert!(named.matches(volume("0a1b", true, false)));
        assert!(!VolumeSelector::default().matches(volume("db_data", false, true)));
    }
}

//! Which entries of a manifest are restored.

use crate::entry::{Entry, EntryKind, path_order};
use crate::fs::text::escape_path;
use crate::manifest::{Entries, ManifestError, ManifestReader, is_within, parent};

use super::request::RestoreError;

/// What comes next in a selection.
pub(in crate::fs) enum Found {
    Entry(Entry),
    /// The manifest has lost what belongs here: the path, escaped, or the
    /// place, where no path is known.
    Lost(String),
}

/// The entries asked for and the directories above them, in order.
pub(in crate::fs) struct Selection<'a> {
    reader: ManifestReader<'a>,
    /// Sorted, none within another; empty for everything.
    paths: Vec<Vec<u8>>,
    next: usize,
    current: Option<Entries<'a>>,
    /// How much of `last` are the directories above it that are still to be
    /// given, nearest first: a path may have more than a hundred thousand.
    above: Vec<usize>,
    /// The path whose subtree is given.
    last: Option<Vec<u8>>,
    /// Pass over what the manifest has lost.
    salvage: bool,
    /// Path of the entry given last; none before the first.
    given: Option<Vec<u8>>,
    /// When salvaging: the directory given last, and how much of its path are
    /// those above it and itself, from the root down.
    dir: Vec<u8>,
    dirs: Vec<usize>,
    /// What was looked up when it failed.
    asked: Option<Vec<u8>>,
    first_loss: Option<RestoreError>,
}

impl<'a> Selection<'a> {
    pub(in crate::fs) fn new(reader: ManifestReader<'a>, paths: &[Vec<u8>], salvage: bool) -> Self {
        let mut sorted: Vec<Vec<u8>> = paths.to_vec();
        sorted.sort_by(|a, b| path_order(a, b));
        // Sorted as manifests are, what lies within a path follows it at once.
        sorted.dedup_by(|path, before| is_within(path, before));
        let current = sorted.is_empty().then(|| reader.entries());
        Self {
            reader,
            paths: sorted,
            next: 0,
            current,
            above: Vec::new(),
            last: None,
            salvage,
            given: None,
            dir: Vec::new(),
            dirs: Vec::new(),
            asked: None,
            first_loss: None,
        }
    }

    /// Whether an entry of this path is restored.
    pub(in crate::fs) fn holds(&self, path: &[u8]) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| is_within(path, wanted))
    }

    /// The entry of a path, selected or not.
    pub(in crate::fs) fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, RestoreError> {
        self.reader.lookup(path).map_err(unreadable)
    }

    /// The next entry. When salvaging, what the manifest has lost is told in its
    /// place and passed over; it is an error once nothing else was found.
    pub(in crate::fs) fn next(&mut self) -> Result<Option<Found>, RestoreError> {
        self.asked = None;
        match self.next_entry() {
            Ok(Some(entry)) if self.salvage && !self.has_parent(&entry) => {
                Ok(Some(Found::Lost(escape_path(&entry.path))))
            }
            Ok(Some(entry)) => {
                if self.salvage {
                    self.given = Some(entry.path.clone());
                }
                Ok(Some(Found::Entry(entry)))
            }
            // A salvage of a manifest whose root page is gone would otherwise end well, with
            // nothing.
            Ok(None) if self.given.is_none() => self.first_loss.take().map_or(Ok(None), Err),
            Ok(None) => Ok(None),
            Err(error) if self.salvage && error.is_manifest_loss() => {
                let place = self.place_of_loss();
                self.first_loss.get_or_insert(error);
                Ok(Some(Found::Lost(place)))
            }
            Err(error) => Err(error),
        }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, RestoreError> {
        loop {
            if let Some(len) = self.above.pop() {
                let path = self.last.as_ref().map(|last| last[..len].to_vec()).unwrap_or_default();
                let found = self.look_up(&path);
                if found.is_err() {
                    // What lies below it has no place without it.
                    (self.above, self.current) = (Vec::new(), None);
                }
                return found.map(Some);
            }
            if let Some(current) = &mut self.current {
                match current.next() {
                    Some(entry) => return entry.map(Some).map_err(unreadable),
                    None => self.current = None,
                }
            }
            let Some(path) = self.paths.get(self.next).cloned() else { return Ok(None) };
            self.next += 1;
            // Looked up before its directories are given: a path that is not there is refused
            // before anything is made for it.
            self.look_up(&path)?;
            self.current = Some(self.reader.subtree(&path));
            self.above = self.new_above(&path);
            self.last = Some(path);
        }
    }

    fn look_up(&mut self, path: &[u8]) -> Result<Entry, RestoreError> {
        let found = self.lookup(path).and_then(|entry| entry.ok_or_else(|| not_found(path)));
        self.asked = found.is_err().then(|| path.to_vec());
        found
    }

    /// Whether the directory an entry lies in was given. The manifest may have
    /// lost it and still have what is below.
    fn has_parent(&mut self, entry: &Entry) -> bool {
        let Some(above) = parent(&entry.path) else {
            // The root.
            (self.dir, self.dirs) = (Vec::new(), vec![0]);
            return true;
        };
        let Ok(depth) = self.dirs.binary_search(&above.len()) else { return false };
        // Lengths alone do not tell: a directory of the same length may be another.
        if &self.dir[..above.len()] != above {
            return false;
        }
        self.dirs.truncate(depth + 1);
        self.dir.truncate(above.len());
        if entry.kind == EntryKind::Directory {
            self.dir.extend_from_slice(&entry.path[self.dir.len()..]);
            self.dirs.push(entry.path.len());
        }
        true
    }

    /// What is lost, as far as that is known.
    fn place_of_loss(&self) -> String {
        let named = self.asked.as_deref().or_else(|| self.current.as_ref()?.reading());
        match (named, &self.given) {
            (Some(path), _) => escape_path(path),
            (None, Some(before)) => {
                format!("names that came behind {} on a page of the manifest", escape_path(before))
            }
            (None, None) => "names on the first page of the manifest".to_owned(),
        }
    }

    /// How much of `path` are the directories above it that were not above or
    /// within the path before.
    fn new_above(&self, path: &[u8]) -> Vec<usize> {
        let mut above = Vec::new();
        let mut at = path;
        while let Some(dir) = parent(at) {
            if self.last.as_ref().is_some_and(|last| is_within(last, dir)) {
                break;
            }
            above.push(dir.len());
            at = dir;
        }
        above
    }
}

fn not_found(path: &[u8]) -> RestoreError {
    RestoreError::NotFound { path: escape_path(path) }
}

fn unreadable(source: ManifestError) -> RestoreError {
    RestoreError::Manifest { source }
}

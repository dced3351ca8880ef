//! Which entries of a manifest are restored.

use crate::entry::{Entry, path_order};
use crate::fs::text::escape_path;
use crate::manifest::{Entries, ManifestError, ManifestReader, is_within, parent};

use super::request::RestoreError;

/// The entries asked for and the directories above them, in order.
pub(in crate::fs) struct Selection<'a> {
    reader: ManifestReader<'a>,
    /// Sorted, none within another; empty for everything.
    paths: Vec<Vec<u8>>,
    next: usize,
    current: Option<Entries<'a>>,
    /// Directories above the next path, nearest first.
    above: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl<'a> Selection<'a> {
    pub(in crate::fs) fn new(reader: ManifestReader<'a>, paths: &[Vec<u8>]) -> Self {
        let mut sorted: Vec<Vec<u8>> = paths.to_vec();
        sorted.sort_by(|a, b| path_order(a, b));
        sorted.dedup_by(|path, before| is_within(path, before));
        let current = sorted.is_empty().then(|| reader.entries());
        Self { reader, paths: sorted, next: 0, current, above: Vec::new(), last: None }
    }

    /// Whether an entry of this path is restored.
    pub(in crate::fs) fn holds(&self, path: &[u8]) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| is_within(path, wanted))
    }

    /// The entry of a path, selected or not.
    pub(in crate::fs) fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, RestoreError> {
        self.reader.lookup(path).map_err(unreadable)
    }

    pub(in crate::fs) fn next(&mut self) -> Result<Option<Entry>, RestoreError> {
        loop {
            if let Some(path) = self.above.pop() {
                let entry = self.lookup(&path)?;
                return entry.map(Some).ok_or_else(|| not_found(&path));
            }
            if let Some(current) = &mut self.current {
                match current.next() {
                    Some(entry) => return entry.map(Some).map_err(unreadable),
                    None => self.current = None,
                }
            }
            let Some(path) = self.paths.get(self.next).cloned() else { return Ok(None) };
            self.next += 1;
            self.lookup(&path)?.ok_or_else(|| not_found(&path))?;
            self.current = Some(self.reader.subtree(&path));
            self.above = self.new_above(&path);
            self.last = Some(path);
        }
    }

    /// The directories above `path` that were not above or within the path before.
    fn new_above(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut above = Vec::new();
        let mut at = path;
        while let Some(dir) = parent(at) {
            if self.last.as_ref().is_some_and(|last| is_within(last, dir)) {
                break;
            }
            above.push(dir.to_vec());
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

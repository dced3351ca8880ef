//! One pass over a tree: its clone is made, or brought up to date.
//!
//! Both passes walk the source in the same order. The first copies what it
//! can get hold of and notes what each entry looked like; whatever changes or
//! vanishes under it is left to the second. The second, with the data quiesced,
//! copies anew every file that does not look exactly as noted, or that looked
//! too young then to tell. Directories get what they are to look like only in
//! the second pass, each when everything in it is there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use holdfast_archive::fs::parts::xattrs_of_file;
use rustix::fs::{Mode, Stat, fstat, mkdirat, syncfs};
use rustix::io::Errno;

use super::error::{CloneError, shown};
use super::make::{Source, now_ns};
use super::notes::{Noted, Notes};
use super::place::Place;
use super::remove;
use super::run::Run;

/// What timestamps and the clock that bounds them may be apart.
const GRACE_NS: i128 = 2_000_000_000;

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Everything below the root.
    pub entries: u64,
    /// Made, without their content being read.
    pub shared_files: u64,
    /// Made by copying, and the bytes of that, holes left out.
    pub copied_files: u64,
    pub copied_bytes: u64,
    /// As the first pass left them.
    pub unchanged: u64,
    /// Of the clone, gone or another thing in the source.
    pub removed: u64,
    /// Changed or gone while the first pass looked at them.
    pub missed: u64,
}

/// A finished first pass, with what it saw. Worth something to the process
/// that made it only.
#[derive(Debug)]
pub(crate) struct FirstPass {
    pub stats: Stats,
    noted: Noted,
}

/// Copies a tree while its data may change. Blocks; `cancel` ends it early.
/// The clone is not complete after it, whatever was copied.
///
/// # Errors
/// If there is something at `clone` already, or anything of the tree can
/// never be copied. What was made until then is to be given to
/// [`remove`](super::remove()).
pub(crate) fn first_pass(root: &Path, clone: &Path, cancel: &AtomicBool) -> Result<FirstPass, CloneError> {
    first_pass_with(root, clone, GRACE_NS, cancel)
}

pub(super) fn first_pass_with(
    root: &Path,
    clone: &Path,
    grace_ns: i128,
    cancel: &AtomicBool,
) -> Result<FirstPass, CloneError> {
    let trees = Trees::open(root, clone, false)?;
    let failed = |source| CloneError::Io { path: shown(clone), action: "noted about", source };
    let synced_ns = now_ns();
    syncfs(&trees.source).map_err(|error| CloneError::of(shown(root), "written back", error))?;
    let notes = Notes::begin(clone.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let mut run = Run::new(&trees, Source::Live { synced_ns, grace_ns }, cancel)?;
    run.notes = Some(notes);
    let (stats, notes) = run.run()?;
    let notes = notes.expect("given above and taken by nobody");
    Ok(FirstPass { stats, noted: notes.finish().map_err(failed)? })
}

/// Makes the clone equal to the tree, whose data must be quiesced, and returns
/// when it is on disk. Blocks. Without a first pass of this process whatever is
/// at `clone` is removed, and everything is copied.
///
/// # Errors
/// If the clone is not exactly the tree: something is still written, there is
/// no space left, the filesystem refuses something, or `cancel` is set. Such a
/// clone is to be given to [`remove`](super::remove()).
pub(crate) fn second_pass(
    root: &Path,
    clone: &Path,
    first: Option<FirstPass>,
    cancel: &AtomicBool,
) -> Result<Stats, CloneError> {
    if first.is_none() {
        remove::remove(clone)?;
    }
    let trees = Trees::open(root, clone, first.is_some())?;
    let mut run = Run::new(&trees, Source::Quiesced, cancel)?;
    run.noted = first.map(|first| first.noted);
    let (stats, _) = run.run()?;
    // Before anything relies on it. This covers the name of the clone too: it is on the same filesystem.
    syncfs(&trees.clone).map_err(|error| CloneError::of(shown(clone), "written to disk", error))?;
    Ok(stats)
}

/// Both roots, open.
pub(super) struct Trees<'a> {
    pub(super) root_path: &'a Path,
    pub(super) clone_path: &'a Path,
    pub(super) source: OwnedFd,
    pub(super) stat: Stat,
    pub(super) clone: OwnedFd,
}

impl<'a> Trees<'a> {
    fn open(root_path: &'a Path, clone_path: &'a Path, there: bool) -> Result<Self, CloneError> {
        let source = Place::of(root_path)?.open(root_path)?;
        let stat = fstat(&source).map_err(|error| CloneError::of(shown(root_path), "read", error))?;
        let failed = |action| move |error| CloneError::of(shown(clone_path), action, error);
        let place = Place::of(clone_path)?;
        if !there {
            mkdirat(&place.parent, &place.name, Mode::RWXU).map_err(|error| match error {
                Errno::EXIST => CloneError::Exists { path: shown(clone_path) },
                error => failed("created")(error),
            })?;
        }
        let clone = place.open(clone_path)?;
        if fstat(&clone).map_err(failed("read"))?.st_dev != stat.st_dev {
            return Err(CloneError::MountPoint { path: shown(root_path) });
        }
        if !there {
            strip(&clone).map_err(failed("created"))?;
        }
        Ok(Self { root_path, clone_path, source, stat, clone })
    }
}

/// Takes off what the directory above hands on, which would be handed on further.
fn strip(dir: &OwnedFd) -> Result<(), Errno> {
    for (name, _) in xattrs_of_file(dir.as_fd())? {
        // Labels are the system's: each entry gets its own all the same.
        if !name.starts_with(b"security.") {
            rustix::fs::fremovexattr(dir, name.as_slice())?;
        }
    }
    Ok(())
}

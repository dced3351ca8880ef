//! One capture from start to end.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::fstat;
use rustix::io::Errno;

use super::base::{BaseEntries, Remembering};
use super::file::Cutter;
use super::output::Output;
use super::request::{
    CaptureError, CaptureOptions, CaptureRequest, Captured, MIN_MEMORY_BYTES, NestedMounts, TornPolicy,
};
use super::unchanged::{UNSYNCED_NS, bound_ns, holds};
use crate::entry::{Entry, EntryKind};
use crate::fetch::FrameFetcher;
use crate::fs::links::Links;
use crate::fs::metadata;
use crate::fs::open::{self, Mounts};
use crate::fs::pipeline::{Known, Limits, Pipeline, StopOnPanic, Stopped};
use crate::fs::progress::CaptureProgress;
use crate::fs::text::{Findings, escape_path};
use crate::fs::walk::{Step, Walk};
use crate::ids::FrameId;
use crate::manifest::{ManifestReader, ManifestWriter, PageError, WriteError};
use crate::pack_io::FrameKind;

/// Raw pages of the base kept in memory, bytes.
const PAGE_CACHE: usize = 4 << 20;
/// What the reader itself holds: the window of large files, the open group
/// and what waits for it, the memory of small files, pages, and the state of
/// compressors.
const READER_BYTES: usize = 28 << 20;

/// Captures a tree. Blocks until everything the manifest refers to is stored.
///
/// # Errors
/// If the root cannot be read, the repository fails, the policy forbids torn
/// files and there is one, or the cancel flag is set. What was stored until
/// then may stay and makes the next attempt shorter.
pub fn capture(request: CaptureRequest<'_>) -> Result<Captured, CaptureError> {
    let CaptureRequest { root, base, damaged, options, sink, source, progress, cancel } = request;
    progress.reset();
    rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXISTS)
        .map_err(|error| CaptureError::NoProc { source: error.into() })?;
    let root = open::reopen_directory(root.as_fd()).map_err(unreadable_root)?;
    // Before the first look at the tree: what is written from now on has a later time, and the next
    // capture reads it.
    let mut started_unix_ns = now_unix_ns();
    // Pages that were written through a mapping get their times when they are written back. Where
    // that cannot be forced, the run counts as begun so much earlier.
    if rustix::fs::syncfs(&root).is_err() {
        started_unix_ns -= UNSYNCED_NS;
    }
    let pipeline = Pipeline::new(sink, limits(&options), Arc::clone(&cancel), Arc::clone(&progress));
    let source = Arc::new(Remembering::new(source));
    let fetcher = FrameFetcher::new(Arc::clone(&source) as _, PAGE_CACHE);
    std::thread::scope(|scope| {
        let threads = pipeline.start(scope);
        // From here on threads wait for this one: whatever ends it has to end them.
        let guard = StopOnPanic(&pipeline);
        let mut emit = |page: Vec<u8>| emit_page(&pipeline, &source, damaged, page);
        let entries = base.map(|base| ManifestReader::open(&fetcher, base.root).entries());
        let run = Run {
            root: &root,
            root_dev: 0,
            mounts: match options.nested_mounts {
                NestedMounts::Include => Mounts::Cross,
                NestedMounts::Partial | NestedMounts::LeaveOut => Mounts::Stay,
            },
            nested_mounts: options.nested_mounts,
            policy: options.torn,
            bound_ns: base.map_or(i128::MIN, |base| bound_ns(base.started_unix_ns)),
            base: BaseEntries::new(entries),
            damaged,
            cutter: Cutter::new(&pipeline, damaged),
            output: Output::new(&pipeline, damaged, ManifestWriter::new(&mut emit)),
            links: Links::default(),
            progress: &progress,
            cancel: &cancel,
            findings: Findings::default(),
            warnings: Findings::default(),
            mounts_left_out: 0,
            unsynced: false,
        };
        let outcome = run.run(started_unix_ns).and_then(|captured| {
            // The root page was pushed last. Nobody is told of it before all that it refers to is
            // stored.
            pipeline.finish(threads).map_err(Halt::from)?;
            Ok(captured)
        });
        drop(guard);
        outcome.map(|captured| Captured { stats: progress.stats(), ..captured }).map_err(|halt| {
            pipeline.stop();
            match halt {
                Halt::Error(error) => *error,
                Halt::Stopped => match pipeline.take_failure() {
                    Some(source) => CaptureError::Sink { source },
                    // Nobody stops the pipeline but a failure, which it keeps, and the flag.
                    None => CaptureError::Cancelled,
                },
            }
        })
    })
}

fn emit_page(
    pipeline: &Pipeline,
    source: &Remembering,
    damaged: &HashSet<FrameId>,
    page: Vec<u8>,
) -> Result<FrameId, Stopped> {
    let id = crate::frame::frame_id(&page);
    // A page that came from the base is stored and need not be sent; one that was found damaged is
    // sent whatever the sink says it has.
    if damaged.contains(&id) {
        pipeline.push_as(id, FrameKind::Page, page, Known::SendAgain)?;
    } else if !source.knows(&id) {
        pipeline.push_as(id, FrameKind::Page, page, Known::Ask)?;
    }
    Ok(id)
}

fn limits(options: &CaptureOptions) -> Limits {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if options.workers == 0 { processors / 2 } else { options.workers };
    Limits {
        level: options.level,
        pack_bytes: options.pack_bytes,
        // One worker and one upload at least, whatever was asked: with none the queues never empty.
        workers: workers.max(1),
        uploads: options.upload_concurrency.max(1),
        memory_bytes: options.memory_bytes.max(MIN_MEMORY_BYTES) - READER_BYTES,
    }
}

fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn unreadable_root(error: Errno) -> CaptureError {
    CaptureError::Root { source: error.into() }
}

/// Why a run ends early.
pub(super) enum Halt {
    Error(Box<CaptureError>),
    /// The pipeline knows why.
    Stopped,
}

impl From<Stopped> for Halt {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<CaptureError> for Halt {
    fn from(error: CaptureError) -> Self {
        Self::Error(Box::new(error))
    }
}

pub(super) struct Run<'a> {
    root: &'a OwnedFd,
    pub(super) root_dev: u64,
    pub(super) mounts: Mounts,
    pub(super) nested_mounts: NestedMounts,
    pub(super) policy: TornPolicy,
    pub(super) bound_ns: i128,
    pub(super) base: BaseEntries<'a>,
    pub(super) damaged: &'a HashSet<FrameId>,
    pub(super) cutter: Cutter<'a>,
    pub(super) output: Output<'a>,
    pub(super) links: Links,
    pub(super) progress: &'a CaptureProgress,
    pub(super) cancel: &'a AtomicBool,
    pub(super) findings: Findings,
    pub(super) warnings: Findings,
    pub(super) mounts_left_out: u64,
    pub(super) unsynced: bool,
}

impl Run<'_> {
    fn run(mut self, mut started_unix_ns: i64) -> Result<Captured, Halt> {
        let mut walk = Walk::new(self.root.try_clone().map_err(|source| CaptureError::Root { source })?);
        self.visit_root(&mut walk)?;
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CaptureError::Cancelled.into());
            }
            match walk.advance() {
                Step::Name => self.visit(&mut walk)?,
                Step::Lost(path) => {
                    self.progress.unreadable_entries.add(1);
                    self.findings.push(|| {
                        format!("{} was moved while it was read; not all of it is in", escape_path(&path))
                    });
                }
                Step::End => break,
            }
        }
        // A filesystem mounted inside could not be written back: the whole run is judged by the
        // weakest of them.
        if self.unsynced {
            started_unix_ns -= UNSYNCED_NS;
        }
        self.finish(started_unix_ns)
    }

    fn visit_root(&mut self, walk: &mut Walk) -> Result<(), Halt> {
        let stat = fstat(self.root).map_err(unreadable_root)?;
        self.root_dev = stat.st_dev;
        let base = self.seek(b"")?;
        // The root has no name to be looked at by: it is read through its handle.
        let known = base.filter(|entry| holds(entry, &stat, self.bound_ns, self.damaged));
        let entry = match known {
            Some(entry) => entry,
            None => {
                let xattrs = metadata::xattrs_of_file(self.root.as_fd()).map_err(unreadable_root)?;
                metadata::entry(b"", EntryKind::Directory, &stat, xattrs)
            }
        };
        walk.enter_root().map_err(unreadable_root)?;
        self.push(entry, false)
    }

    /// The base's entry of this path.
    pub(super) fn seek(&mut self, path: &[u8]) -> Result<Option<Entry>, Halt> {
        Ok(self.base.seek(path).map_err(|source| CaptureError::Source { source })?)
    }

    /// Hands an entry on and counts it.
    pub(super) fn push(&mut self, entry: Entry, grouped: bool) -> Result<(), Halt> {
        self.progress.entries.add(1);
        if let EntryKind::File(file) = &entry.kind {
            self.progress.files.add(1);
            self.progress.size_bytes.add(file.size);
        }
        let (findings, progress) = (&mut self.findings, self.progress);
        self.output.push(entry, grouped, &mut |error| refuse(findings, progress, &error))?;
        Ok(())
    }

    fn finish(mut self, started_unix_ns: i64) -> Result<Captured, Halt> {
        let (findings, progress) = (&mut self.findings, self.progress);
        let root = match self.output.finish(&mut |error| refuse(findings, progress, &error)) {
            Ok(root) => root,
            // The pipeline was stopped, and has the reason.
            Err(WriteError::Emit(stopped)) => return Err(stopped.into()),
            Err(error @ WriteError::Entry(_)) => {
                return Err(CaptureError::Manifest { source: Box::new(error) }.into());
            }
        };
        let outside_links = self.links.unfinished() as u64;
        if outside_links > 0 {
            self.warnings
                .push(|| format!("{outside_links} files have further names outside of what is backed up"));
        }
        if let Some(lost) = self.base.lost() {
            self.warnings
                .push(|| format!("the base snapshot is damaged ({lost}); what it described was read again"));
        }
        Ok(Captured {
            root,
            started_unix_ns,
            stats: self.progress.stats(),
            partial: self.findings.total > 0,
            problems: self.findings.listed,
            warnings: self.warnings.listed,
            mounts_left_out: self.mounts_left_out,
            outside_links,
        })
    }
}

pub(super) fn refuse(findings: &mut Findings, progress: &CaptureProgress, error: &PageError) {
    progress.unreadable_entries.add(1);
    findings.push(|| format!("left out: {error}"));
}

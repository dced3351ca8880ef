//! From raw frames to stored packs: ask what is there already, compress the
//! rest, collect packs, upload them.
//!
//! One thread asks, some compress, some upload. Every frame carries its
//! permit of the byte budget from the moment it is cut until its pack is
//! stored, so the reader is slowed to the pace of the slowest of them. Pages
//! are kept back and laid side by side, so that browsing a snapshot reads a
//! few ranges. What is remembered of earlier frames only saves work: a frame
//! sent twice is stored twice and found once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use bytes::Bytes;

use super::budget::{Budget, Permit};
use super::progress::CaptureProgress;
use super::queue::Queue;
use super::recent::RecentIds;
use crate::frame::{self, EncodedFrame};
use crate::ids::FrameId;
use crate::pack::PackBuilder;
use crate::pack_io::{FrameKind, PackIoError, PackSink, SealedPack};

/// Frames asked about in one call.
const ASK_FRAMES: usize = 1024;
/// A batch of questions is not kept back for more raw bytes than this.
const ASK_BYTES: usize = 8 << 20;
/// Nor for longer than this when nothing follows.
const ASK_LINGER: Duration = Duration::from_millis(30);
/// Frames waiting before each stage; bytes are bounded by the budget.
const WAITING: usize = 4096;
/// Ids of frames of this run that are remembered.
const RECENT: usize = 32 << 10;
/// The first pack of a run, so that uploading begins early.
const FIRST_PACK: usize = 8 << 20;
/// What a pack is at least meant to be, however little memory there is.
const MIN_PACK: usize = 2 << 20;
/// The largest frame, and some.
const FRAME_ROOM: usize = 5 << 20;
/// How much less than others a worker insists on running.
const NICE: i32 = 10;

/// What the pipeline may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) level: i32,
    pub(crate) pack_bytes: usize,
    pub(crate) workers: usize,
    pub(crate) uploads: usize,
    /// For all frames between reader and store.
    pub(crate) memory_bytes: usize,
}

pub(crate) struct Pipeline {
    sink: Arc<dyn PackSink>,
    limits: Limits,
    pack_bytes: usize,
    page_bytes: usize,
    budget: Arc<Budget>,
    cancel: Arc<AtomicBool>,
    progress: Arc<CaptureProgress>,
    to_ask: Queue<Raw>,
    to_encode: Queue<Raw>,
    to_upload: Queue<(SealedPack, Option<Permit>)>,
    open: Mutex<Open>,
    failure: Mutex<Option<PackIoError>>,
    stopped: AtomicBool,
    recent: Mutex<RecentIds>,
}

#[derive(Debug)]
struct Raw {
    id: FrameId,
    kind: FrameKind,
    bytes: Vec<u8>,
    permit: Permit,
    /// Whether the sink may have it; a damaged frame is sent again.
    ask: bool,
}

/// The pack being filled, and the pages kept back for its end.
#[derive(Default)]
struct Open {
    pack: PackBuilder,
    ids: HashSet<FrameId>,
    permit: Option<Permit>,
    pages: Vec<(EncodedFrame, Permit)>,
    page_bytes: usize,
    sealed: usize,
}

/// The pipeline was stopped: by a failure it keeps, or by the cancel flag.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(crate) struct Stopped;

impl Pipeline {
    pub(crate) fn new(
        sink: Arc<dyn PackSink>,
        limits: Limits,
        cancel: Arc<AtomicBool>,
        progress: Arc<CaptureProgress>,
    ) -> Self {
        // The reader may wait while the open pack, the pages kept back and a batch of questions
        // hold their permits: together they must leave room for one frame more.
        let room = limits.memory_bytes.max(4 * MIN_PACK + FRAME_ROOM) - FRAME_ROOM;
        let pack_bytes = (room / (limits.uploads + 2)).min(limits.pack_bytes).max(MIN_PACK);
        Self {
            sink,
            pack_bytes,
            page_bytes: pack_bytes / 4,
            budget: Budget::new(room + FRAME_ROOM),
            limits,
            cancel,
            progress,
            to_ask: Queue::new(WAITING),
            to_encode: Queue::new(WAITING),
            to_upload: Queue::new(1),
            open: Mutex::default(),
            failure: Mutex::default(),
            stopped: AtomicBool::new(false),
            recent: Mutex::new(RecentIds::new(RECENT)),
        }
    }

    /// Starts the threads; they end after [`Self::finish`] or [`Self::stop`].
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Threads<'scope> {
        let spawn = |work: fn(&Self)| {
            scope.spawn(move || {
                let guard = StopOnPanic(self);
                work(self);
                drop(guard);
            })
        };
        Threads {
            asker: spawn(Self::ask),
            encoders: (0..self.limits.workers).map(|_| spawn(Self::encode)).collect(),
            uploaders: (0..self.limits.uploads).map(|_| spawn(Self::upload)).collect(),
        }
    }

    /// Sends a frame on its way. It is stored once [`Self::finish`] has returned.
    ///
    /// # Errors
    /// The pipeline was stopped: the frame will not be stored.
    pub(crate) fn push_as(
        &self,
        id: FrameId,
        kind: FrameKind,
        bytes: Vec<u8>,
        how: Known,
    ) -> Result<(), Stopped> {
        if self.halted() {
            return Err(Stopped);
        }
        let mut recent = lock(&self.recent);
        // Remembered before it is stored: a frame that is refused stops the whole run, so none
        // counts as there that is not.
        if recent.contains(&id) {
            return Ok(());
        }
        recent.insert(&id);
        drop(recent);
        let permit = self.budget.take(bytes.len(), &|| self.halted()).ok_or(Stopped)?;
        let raw = Raw { id, kind, bytes, permit, ask: how == Known::Ask };
        if self.to_ask.put(raw) { Ok(()) } else { Err(Stopped) }
    }

    /// Waits until everything pushed is stored.
    ///
    /// # Errors
    /// The pipeline was stopped, [`Self::take_failure`] says by what: some of what was
    /// pushed is not stored.
    pub(crate) fn finish(&self, threads: Threads<'_>) -> Result<(), Stopped> {
        // Stage by stage, each closed when all before it have ended: nothing is put into a queue
        // that is closed.
        self.to_ask.close();
        join(threads.asker);
        self.to_encode.close();
        threads.encoders.into_iter().for_each(join);
        // No encoder is left that could add to it.
        let last = lock(&self.open).seal_all();
        if let Some((pack, permit)) = last.filter(|_| !self.halted()) {
            self.to_upload.put((pack.finish(), permit));
        }
        self.to_upload.close();
        threads.uploaders.into_iter().for_each(join);
        if self.halted() { Err(Stopped) } else { Ok(()) }
    }

    /// Makes every thread end soon; what is on its way is thrown away.
    pub(crate) fn stop(&self) {
        // The flag first: a thread that is notified of an emptied queue looks at it.
        self.stopped.store(true, Ordering::Relaxed);
        self.to_ask.abandon();
        self.to_encode.abandon();
        self.to_upload.abandon();
    }

    /// What stopped the pipeline, unless it was the cancel flag.
    pub(crate) fn take_failure(&self) -> Option<PackIoError> {
        lock(&self.failure).take()
    }

    fn halted(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    fn fail(&self, error: PackIoError) {
        lock(&self.failure).get_or_insert(error);
        self.stop();
    }

    fn ask(&self) {
        loop {
            let (mut frames, mut bytes) = (0, 0);
            let batch = self.to_ask.take_batch(ASK_LINGER, |raw| {
                frames += 1;
                bytes += raw.bytes.len();
                frames >= ASK_FRAMES || bytes >= ASK_BYTES
            });
            // Empty only when the queue is closed and nothing is left.
            if batch.is_empty() || self.halted() {
                return;
            }
            let ids: Vec<FrameId> = batch.iter().filter(|raw| raw.ask).map(|raw| raw.id).collect();
            let had = if ids.is_empty() { Ok(Vec::new()) } else { self.sink.have(&ids) };
            match had {
                // The answer is matched by place. One of another length would call frames stored
                // that are not.
                Ok(had) if had.len() == ids.len() => self.pass_on(batch, &had),
                Ok(_) => {
                    self.fail(PackIoError::new("internal", "the store answered for other frames than asked"))
                }
                Err(error) => self.fail(error),
            }
        }
    }

    fn pass_on(&self, batch: Vec<Raw>, had: &[bool]) {
        let mut had = had.iter();
        for raw in batch {
            let there = raw.ask && had.next().copied().unwrap_or(false);
            if !there {
                self.to_encode.put(raw);
            }
        }
    }

    fn encode(&self) {
        // Backups give way to what the host is there for; where that is not allowed they do not.
        let _ = rustix::process::setpriority_process(None, NICE);
        while let Some(raw) = self.to_encode.take() {
            if self.halted() {
                return;
            }
            let Raw { id, kind, bytes, mut permit, .. } = raw;
            let mut encoded = frame::encode_as(id, kind, &bytes, self.limits.level);
            self.progress.new_bytes.add(bytes.len() as u64);
            drop(bytes);
            if kind == FrameKind::Page {
                // Kept back for a while: without the room its encoder left at the end.
                encoded.bytes = Bytes::copy_from_slice(&encoded.bytes);
            }
            // Before it waits in a pack: from here on it takes its compressed length.
            permit.shrink(encoded.bytes.len());
            self.progress.stored_bytes.add(encoded.bytes.len() as u64);
            // Sealed under the lock, sent without it: uploads are slow, and other encoders go on
            // filling the next pack.
            let full = lock(&self.open).add(encoded, permit, self);
            if let Some((pack, permit)) = full {
                self.to_upload.put((pack.finish(), permit));
            }
        }
    }

    fn upload(&self) {
        while let Some((pack, permit)) = self.to_upload.take() {
            if self.halted() {
                return;
            }
            // A sink repeats what can be repeated; what comes here ends the capture.
            if let Err(error) = self.sink.put_pack(pack) {
                self.fail(error);
            }
            drop(permit);
        }
    }
}

/// Whether the sink is to be asked for a frame before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Ask,
    /// It was reported damaged: send it whatever the sink has.
    SendAgain,
}

impl Open {
    /// Adds a frame; the pack that is full by it.
    fn add(
        &mut self,
        frame: EncodedFrame,
        permit: Permit,
        pipeline: &Pipeline,
    ) -> Option<(PackBuilder, Option<Permit>)> {
        if frame.kind == FrameKind::Page {
            self.page_bytes += frame.bytes.len();
            self.pages.push((frame, permit));
            if self.page_bytes >= pipeline.page_bytes {
                self.lay_pages();
            }
        } else {
            self.lay(frame, permit);
        }
        // A small first pack: the upload begins while the walk has barely begun.
        let limit = if self.sealed == 0 { pipeline.pack_bytes.min(FIRST_PACK) } else { pipeline.pack_bytes };
        (self.pack.len_bytes() >= limit).then(|| self.seal())
    }

    fn lay(&mut self, frame: EncodedFrame, permit: Permit) {
        // Two encoders may have had the same frame. The second one is dropped with its permit.
        if self.ids.insert(frame.id) {
            self.pack.push(frame);
            match &mut self.permit {
                Some(all) => all.join(permit),
                none => *none = Some(permit),
            }
        }
    }

    fn lay_pages(&mut self) {
        self.page_bytes = 0;
        for (frame, permit) in std::mem::take(&mut self.pages) {
            self.lay(frame, permit);
        }
    }

    fn seal(&mut self) -> (PackBuilder, Option<Permit>) {
        self.sealed += 1;
        self.ids.clear();
        (std::mem::take(&mut self.pack), self.permit.take())
    }

    /// What is left at the end of a run.
    fn seal_all(&mut self) -> Option<(PackBuilder, Option<Permit>)> {
        self.lay_pages();
        (!self.pack.is_empty()).then(|| self.seal())
    }
}

type Thread<'scope> = std::thread::ScopedJoinHandle<'scope, ()>;

pub(crate) struct Threads<'scope> {
    asker: Thread<'scope>,
    encoders: Vec<Thread<'scope>>,
    uploaders: Vec<Thread<'scope>>,
}

/// A thread that dies must not leave the others waiting for it.
pub(crate) struct StopOnPanic<'a>(pub(crate) &'a Pipeline);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

fn join(thread: Thread<'_>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

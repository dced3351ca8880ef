//! Live progress on standard error: bars where it is a terminal, a line per
//! event where it is not.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_archive::text::printable;
use holdfast_proto::v1::{Job, JobKind, JobSource, RestoreProgress, SourcePhase};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Bytes, note};

/// Shows jobs while they run.
pub struct Watcher {
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: HashMap<String, ProgressBar>,
    /// One a job: what it is at.
    steps: HashMap<String, ProgressBar>,
    /// Steps that are over. Kept: a line whose handle is gone cannot be taken
    /// away again.
    past: Vec<ProgressBar>,
    said: HashSet<String>,
}

// === impl Watcher ===

impl Watcher {
    pub fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, state: Mutex::default() }
    }

    /// What an event says. `top`: of a job that was asked for, not of one that
    /// another started.
    pub fn show(&self, job: &Job, restore: Option<&RestoreProgress>, message: &str, top: bool) {
        // A panic elsewhere: what is shown is not worth a second one.
        let Ok(mut state) = self.state.lock() else { return };
        // A watch that was taken up again may be told a message once more.
        let new = !message.is_empty() && state.said.insert(format!("{} {message}", job.id));
        match &self.bars {
            Some(bars) => {
                for source in &job.sources {
                    let key = format!("{}/{}", job.id, source.source_id);
                    let bar = state.sources.entry(key).or_insert_with(|| bars.add(new_bar(&source.name)));
                    update(bar, source);
                }
                if let Some(progress) = restore {
                    let bar =
                        state.sources.entry(job.id.clone()).or_insert_with(|| bars.add(new_bar("restore")));
                    // The total may be announced too low, and a bar past its end stands still.
                    bar.set_length(progress.total_bytes.max(progress.bytes));
                    bar.set_position(progress.bytes);
                    bar.set_message(format!("{} of {} entries", progress.entries, progress.total_entries));
                }
                // Backups and restores show their bars; these are told in steps.
                let told = matches!(job.kind(), JobKind::Upgrade | JobKind::Rollback | JobKind::Rollout);
                if told && new {
                    let line = format!("{}: {message}", subject(job));
                    // The steps of what was asked for stay in sight; of each
                    // child only the latest does, there may be many.
                    if top && let Some(before) = state.steps.remove(&job.id) {
                        before.finish();
                        state.past.push(before);
                    }
                    let step = state.steps.entry(job.id.clone()).or_insert_with(|| bars.add(new_step()));
                    step.set_message(printable(&line).into_owned());
                }
            }
            None if new => note(format!("{}: {message}", subject(job))),
            None => {}
        }
    }

    /// Takes the bars away; what they showed is printed with the result.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }
}

/// A line that is kept current while something runs, on a terminal only.
pub struct Counter {
    spinner: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
}

impl Counter {
    pub fn start(text: impl Fn() -> String + Send + 'static) -> Self {
        // A log has no line that could be kept current: there it says nothing.
        let spinner = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(spinner) = spinner.clone() {
            let stop = Arc::clone(&stop);
            // A thread of its own: the work that is watched blocks the one that began it.
            std::thread::spawn(move || {
                // Relaxed: nothing else is handed over with it.
                while !stop.load(Ordering::Relaxed) {
                    spinner.set_message(printable(&text()).into_owned());
                    spinner.tick();
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
        }
        Self { spinner, stop }
    }

    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Who a line is about.
fn subject(job: &Job) -> String {
    match &job.upgrade {
        Some(upgrade) if !upgrade.container.is_empty() => format!("{}/{}", job.host, upgrade.container),
        _ if job.kind() == JobKind::Rollout => "rollout".to_owned(),
        _ if job.kind() == JobKind::Prune => "prune".to_owned(),
        _ => job.host.clone(),
    }
}

fn new_step() -> ProgressBar {
    let style = ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

fn new_bar(name: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("  {prefix:16!} {bar:20} {bytes:>10} {binary_bytes_per_sec:>12} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("██░");
    let bar = ProgressBar::new(0).with_style(style).with_prefix(printable(name).into_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn update(bar: &ProgressBar, source: &JobSource) {
    let stats = source.stats.unwrap_or_default();
    // What is expected is the size of the last snapshot; a source may have grown since.
    bar.set_length(source.expected_bytes.max(stats.size_bytes));
    bar.set_position(stats.size_bytes);
    // Only as long as the expectation holds: past it there is nothing to go by.
    let eta = match bar.eta().as_secs() {
        seconds if seconds > 0 && source.expected_bytes > stats.size_bytes => {
            format!("  ETA {}", super::duration(seconds * 1000))
        }
        _ => String::new(),
    };
    let torn = if stats.torn_files > 0 {
        format!("  {} files changed while read", stats.torn_files)
    } else {
        String::new()
    };
    bar.set_message(format!(
        "{} files  read {}  new {}  stored {}  {}{eta}{torn}",
        stats.files,
        Bytes(stats.read_bytes),
        Bytes(stats.new_bytes),
        Bytes(stats.stored_bytes),
        if source.finished.is_some() { "done" } else { phase_word(source.phase()) },
    ));
    if source.finished.is_some() {
        bar.finish();
    }
}

/// What a source is at, in a word or two.
pub fn phase_word(phase: SourcePhase) -> &'static str {
    match phase {
        SourcePhase::Unspecified | SourcePhase::Queued => "queued",
        SourcePhase::FirstPass => "reading",
        SourcePhase::Quiescing => "quiescing",
        SourcePhase::SecondPass => "second pass",
        SourcePhase::Committing => "committing",
    }
}

//! `holdfast repo restore`: into a directory of this machine, verified.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_archive::fs::{RestoreError, RestoreOptions, RestoreProgress, RestoreRequest, compare, restore};
use holdfast_archive::ids::FrameId;
use holdfast_archive::pack_io::PackSource;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::open::{open, resolve};
use crate::args::RepoRestoreArgs;
use crate::commands::Env;
use crate::commands::job::lost_lines;
use crate::error::{CliError, ErrorCode, Exit, Result, sentence};
use crate::output::progress::Counter;
use crate::output::{self, Bytes, Lines, Render};

#[derive(Serialize)]
struct RestoredView {
    snapshot: String,
    target: String,
    entries: u64,
    files: u64,
    bytes: Bytes,
    differences: u64,
    difference_list: Vec<String>,
    left_out: u64,
    left_out_list: Vec<String>,
    /// What the repository has lost, and the target therefore has not.
    lost: u64,
    lost_list: Vec<String>,
    warnings: Vec<String>,
}

impl Render for RestoredView {
    fn lines(&self) -> Lines {
        let whole = match self.lost {
            0 => String::new(),
            lost => format!("; NOT WHOLE, {lost} LOST"),
        };
        let mut lines = Lines::from(format!(
            "{} restored into {} and verified: {} files, {}, {} differences{whole}",
            self.snapshot, self.target, self.files, self.bytes, self.differences
        ));
        lines.extend(lost_lines(self.lost, &self.lost_list, "  "));
        lines.extend(self.difference_list.iter().map(|line| format!("  differs: {line}")));
        lines.extend(self.left_out_list.iter().map(|line| format!("  left out: {line}")));
        lines.extend(self.warnings.iter().map(|line| format!("  warning: {line}")));
        lines
    }
}

pub(super) async fn run(env: &Env, args: RepoRestoreArgs) -> Result<Exit> {
    let repository = open(&args.repository).await?;
    let snapshot = resolve(&repository, &args.snapshot).await?;
    let source = repository.source().await?;
    let options = RestoreOptions {
        devices: args.devices,
        setuid: args.setuid,
        strict: args.strict,
        salvage: args.salvage,
        // Paths in a manifest have no slash at either end.
        paths: args.paths.iter().map(|path| path.trim_matches('/').as_bytes().to_vec()).collect(),
        ..RestoreOptions::default()
    };
    let name =
        format!("{}/{}@#{}", snapshot.names().host, snapshot.names().source, snapshot.header.id.number);
    let root = snapshot.body.root;
    let to = args.to.clone();
    let view = tokio::task::spawn_blocking(move || restore_verified(name, root, &to, &options, &source))
        .await
        .map_err(|error| CliError::failed(error.to_string()))??;
    output::emit(env.format, &view);
    // A difference outranks a loss: then not even what could be read is right.
    Ok(match (view.differences, view.lost, view.left_out) {
        (0, 0, 0) => Exit::Done,
        (0, 0, _) => Exit::Attention,
        (0, _, _) => Exit::Salvaged,
        _ => Exit::Failed,
    })
}

/// Writes the tree, then walks it again and holds it against the manifest.
fn restore_verified(
    snapshot: String,
    root: FrameId,
    to: &Path,
    options: &RestoreOptions,
    source: &Arc<dyn PackSource>,
) -> Result<RestoredView> {
    std::fs::create_dir_all(to).map_err(|error| CliError::io(&to.display().to_string(), &error))?;
    let progress = Arc::new(RestoreProgress::default());
    let request = |target: OwnedFd| RestoreRequest {
        root,
        target,
        options: options.clone(),
        source: Arc::clone(source),
        progress: Arc::clone(&progress),
        cancel: Arc::new(AtomicBool::new(false)),
    };
    let shown = Arc::clone(&progress);
    let counter = Counter::start(move || format!("{} files, {}", shown.files(), Bytes(shown.bytes())));
    let blame = |error: RestoreError| failed(&snapshot, &error, options);
    // Two handles of the target, opened by name: what is compared is what lies there when the
    // restore is over.
    let restored = restore(request(handle(to)?)).map_err(blame)?;
    let compared = compare(request(handle(to)?)).map_err(blame)?.after(&restored);
    counter.finish();
    Ok(RestoredView {
        snapshot,
        target: to.display().to_string(),
        entries: restored.entries,
        files: restored.files,
        bytes: Bytes(restored.bytes),
        differences: compared.differences_total,
        difference_list: compared.differences,
        left_out: restored.left_out_total,
        left_out_list: restored.left_out,
        lost: restored.lost_total,
        lost_list: restored.lost,
        warnings: restored.warnings,
    })
}

fn handle(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|error| CliError::io(&dir.display().to_string(), &error.into()))
}

fn failed(snapshot: &str, error: &RestoreError, options: &RestoreOptions) -> CliError {
    let message = format!("{snapshot}: {}", sentence(error));
    match error {
        lost if lost.is_loss() => {
            let damaged = CliError::new(ErrorCode::Damaged, message);
            match options.salvage {
                true => damaged.hint(
                    "its list of files is lost, so nothing of it can be salvaged: restore another snapshot; holdfast repo \
                     ls shows them, and holdfast repo verify names those that are damaged",
                ),
                false => damaged.hint(
                    "everything else comes back into another, empty directory: the same command with --salvage",
                ),
            }
        }
        RestoreError::NotEmpty => CliError::usage(message),
        RestoreError::NotFound { .. } => CliError::new(ErrorCode::NotFound, message),
        _ => CliError::failed(message),
    }
}

//! `holdfast apply`

use std::path::{Path, PathBuf};

use holdfast_proto::v1::{ApplyPoliciesRequest, PolicyChange, PolicyFile, PolicyProblem};
use serde::Serialize;

use super::{Env, within};
use crate::args::ApplyArgs;
use crate::error::{CliError, ErrorCode, Exit, Result};
use crate::output::{self, Lines, Render};

#[derive(Serialize)]
struct ChangeView {
    policy: String,
    change: String,
    details: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ApplyView {
    planned: bool,
    changes: Vec<ChangeView>,
}

impl From<PolicyChange> for ChangeView {
    fn from(change: PolicyChange) -> Self {
        let PolicyChange { name, change, details, warnings, .. } = change;
        Self { policy: name, change, details, warnings }
    }
}

impl Render for ApplyView {
    fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        for change in &self.changes {
            lines.push(format!("{} {}", change.policy, change.change));
            lines.extend(change.details.iter().map(|detail| format!("  {detail}")));
            lines.extend(change.warnings.iter().map(|warning| format!("  warning: {warning}")));
        }
        if self.planned {
            lines.push("nothing was changed: this was only the plan");
        }
        lines
    }
}

pub(super) async fn run(env: &Env, args: ApplyArgs) -> Result<Exit> {
    let files = read(&args.files)?;
    // All files in one call: the controller takes all of them or none.
    let request = ApplyPoliciesRequest { files, dry_run: args.plan, allow_forgetting: args.allow_forgetting };
    let answer = env.client().await?.policies()?.apply_policies(within(request)).await?.into_inner();
    if !answer.problems.is_empty() {
        return Err(refused(&answer.problems));
    }
    let warned = answer.changes.iter().any(|change| !change.warnings.is_empty());
    let changes = answer.changes.into_iter().map(ChangeView::from).collect();
    output::emit(env.format, &ApplyView { planned: args.plan, changes });
    Ok(if warned { Exit::Attention } else { Exit::Done })
}

fn read(paths: &[PathBuf]) -> Result<Vec<PolicyFile>> {
    let mut files = Vec::new();
    for path in paths {
        for file in policy_files(path)? {
            let toml = std::fs::read_to_string(&file)
                .map_err(|error| CliError::io(&file.display().to_string(), &error))?;
            files.push(PolicyFile { path: file.display().to_string(), toml });
        }
    }
    Ok(files)
}

/// Every problem with its place, as compilers print them.
fn refused(problems: &[PolicyProblem]) -> CliError {
    let line = |problem: &PolicyProblem| match problem.line {
        0 => format!("{}: {}", problem.path, problem.message),
        line => format!("{}:{line}:{}: {}", problem.path, problem.column, problem.message),
    };
    let mut lines = problems.iter().map(line).chain(std::iter::once("nothing was changed".to_owned()));
    let first = lines.next().unwrap_or_default();
    CliError::new(ErrorCode::BadPolicy, first).more(lines)
}

/// A file as named; of a directory its `.toml` files by name.
fn policy_files(path: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| CliError::io(&path.display().to_string(), &error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        // Editors leave other files beside them.
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    // All policies of no file would be nothing to apply, and look like success.
    if files.is_empty() {
        return Err(CliError::usage(format!("{} holds no .toml files", path.display())));
    }
    // A directory has no order of its own; what is reported of the files should not change from run
    // to run.
    files.sort();
    Ok(files)
}

//! `holdfast apply`

use std::path::{Path, PathBuf};

use holdfast_proto::v1::{ApplyPoliciesRequest, PolicyFile};
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
    let mut files = Vec::new();
    for path in &args.files {
        for file in policy_files(path)? {
            let toml = std::fs::read_to_string(&file)
                .map_err(|error| CliError::io(&file.display().to_string(), &error))?;
            files.push(PolicyFile { path: file.display().to_string(), toml });
        }
    }
    let request = ApplyPoliciesRequest { files, dry_run: args.plan, allow_forgetting: args.allow_forgetting };
    let answer = env.client().await?.policies()?.apply_policies(within(request)).await?.into_inner();
    if !answer.problems.is_empty() {
        let mut lines = answer
            .problems
            .iter()
            .map(|problem| match problem.line {
                0 => format!("{}: {}", problem.path, problem.message),
                line => format!("{}:{line}:{}: {}", problem.path, problem.column, problem.message),
            })
            .chain(std::iter::once("nothing was changed".to_owned()));
        let first = lines.next().unwrap_or_default();
        return Err(CliError::new(ErrorCode::BadPolicy, first).more(lines));
    }
    let warned = answer.changes.iter().any(|change| !change.warnings.is_empty());
    let changes = answer
        .changes
        .into_iter()
        .map(|change| ChangeView {
            policy: change.name,
            change: change.change,
            details: change.details,
            warnings: change.warnings,
        })
        .collect();
    output::emit(env.format, &ApplyView { planned: args.plan, changes });
    Ok(if warned { Exit::Attention } else { Exit::Done })
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
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(CliError::usage(format!("{} holds no .toml files", path.display())));
    }
    files.sort();
    Ok(files)
}

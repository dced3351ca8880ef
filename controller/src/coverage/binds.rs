//! Directories of a host that its containers mount and no policy covers.

use std::path::Path;

use super::sources::firing;
use super::{Facts, Problem, ProblemKind};
use crate::catalog::binds::BindRecord;
use crate::catalog::hosts::HostRecord;

/// Recreated whenever the machine starts: there is nothing to bring back.
const VOLATILE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/var/run"];

/// Of the machine, not of a container that only reads it.
const OF_THE_MACHINE: [&str; 9] =
    ["/etc", "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/boot", "/var/log"];

/// Where the Engine keeps its own, unless it says otherwise.
const DATA_ROOT: &str = "/var/lib/docker";

/// Binds of running containers that no policy covers. One whose directory was
/// backed up once is a source, and is named as that.
pub(super) fn unprotected(facts: &Facts, host: &HostRecord) -> Vec<Problem> {
    let data_root = data_root(host);
    facts
        .binds
        .iter()
        .filter(|bind| bind.host == host.id && bind.gone_ms.is_none() && bind.retired_ms.is_none())
        .filter(|bind| holds_data(bind, data_root) && !is_source(facts, bind))
        .filter(|bind| !firing(facts, host).any(|record| covers(&record.policy.directories, &bind.path)))
        .map(|bind| problem(host, bind))
        .collect()
}

fn data_root(host: &HostRecord) -> &str {
    let engine = host.agent.as_ref().and_then(|agent| agent.engine.as_ref());
    engine.map(|engine| engine.data_root.as_str()).filter(|root| !root.is_empty()).unwrap_or(DATA_ROOT)
}

/// Whether a directory of the list is the path or above it.
fn covers(directories: &[String], path: &str) -> bool {
    directories.iter().any(|directory| Path::new(path).starts_with(directory))
}

fn holds_data(bind: &BindRecord, data_root: &str) -> bool {
    let path = Path::new(&bind.path);
    let below = |roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
    // Sockets, volumes and the Engine's own are none; and who only looks at
    // the machine from outside, as monitoring does, keeps nothing there.
    let none = below(&VOLATILE)
        || path.starts_with(data_root)
        || bind.path.ends_with(".sock")
        || (bind.read_only && (below(&OF_THE_MACHINE) || Path::new(data_root).starts_with(path)));
    !none
}

fn is_source(facts: &Facts, bind: &BindRecord) -> bool {
    facts.sources.iter().any(|source| source.host == bind.host && source.name == bind.path)
}

fn problem(host: &HostRecord, bind: &BindRecord) -> Problem {
    let noun = if bind.containers.len() == 1 { "container" } else { "containers" };
    Problem {
        kind: ProblemKind::UnprotectedBind,
        host: host.name.clone(),
        source: bind.path.clone(),
        message: format!(
            "no policy covers this directory, which {noun} {} mounts",
            bind.containers.join(", ")
        ),
        hint: format!(
            "holdfast backup run --host {0} --directory {1}, or `directories` of a policy; \
             if it is not to be protected: holdfast source retire {0}/{1}",
            host.name, bind.path
        ),
    }
}

//! Files that are only in memory. They end with the old container's processes,
//! upgraded or not; the plan says so where there are any.

use std::path::Path;

use holdfast_archive::text::{self, counted};
use rustix::fs::FileType;
use serde_json::Value;

use crate::engine::{Container, MountKind};

use super::view::{ContainerRoot, Next, walk};
use super::{Loss, runtime};

/// Entries looked at in one tmpfs, so that a full one does not hold the plan up.
const MAX_ENTRIES: u64 = 100_000;

/// Looks through a container's tmpfs mounts. One that does not run has none.
/// Blocks while it reads.
pub(crate) fn find(container: &Container, inspected: &Value) -> Vec<Loss> {
    // The tmpfs of a container that has ended is gone already.
    if !container.state.is_live() {
        return Vec::new();
    }
    let mounts = container.mounts.iter().filter(|mount| mount.kind == MountKind::Tmpfs && !mount.read_only);
    let targets: Vec<&str> = mounts.map(|mount| mount.target.as_str()).collect();
    if targets.is_empty() {
        return Vec::new();
    }
    let root = ContainerRoot::open(container, inspected);
    targets.into_iter().filter_map(|target| look(root.as_ref(), target)).collect()
}

fn look(root: Option<&ContainerRoot>, target: &str) -> Option<Loss> {
    let name = format!("tmpfs:{target}");
    let Some(root) = root else {
        let text = format!(
            "what is in the tmpfs {target} ends with the old container, and whether there is anything cannot be seen from here"
        );
        return Some(Loss::new(name, text));
    };
    let mut held = Held::default();
    let walked = root.directory(Path::new(target)).and_then(|directory| {
        walk(&directory, &mut |entry| {
            held.entries += 1;
            let bytes = u64::try_from(entry.stat.st_size).unwrap_or(0);
            let is_runtime = runtime::names_a_process(&entry.path)
                || runtime::is_runtime(&Path::new(target).join(&entry.path), bytes);
            if entry.kind == FileType::RegularFile && !is_runtime {
                held.files += 1;
                held.bytes += bytes;
                held.first.get_or_insert_with(|| Path::new(target).join(&entry.path).display().to_string());
            }
            if held.entries < MAX_ENTRIES { Next::Into } else { Next::End }
        })
    });
    if let Err(error) = walked {
        let text = format!(
            "what is in the tmpfs {target} ends with the old container, and it cannot be looked through: {error}"
        );
        return Some(Loss::new(name, text));
    }
    // Without a first file there are only directories, sockets and files of the runtime.
    let first = held.first?;
    let files = match held.entries < MAX_ENTRIES {
        true => counted(held.files, "file"),
        false => format!("more than {}", counted(held.files, "file")),
    };
    let text = format!(
        "{files} ({}) in the tmpfs {target}, such as {}",
        text::bytes(held.bytes),
        first.escape_debug()
    );
    Some(Loss::new(name, text))
}

#[derive(Default)]
struct Held {
    entries: u64,
    files: usize,
    bytes: u64,
    first: Option<String>,
}

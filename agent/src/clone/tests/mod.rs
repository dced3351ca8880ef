mod crash;
mod filesystems;
mod passes;
mod property;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use holdfast_proto::ids::JobId;

use super::clone_path;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// A directory as the Engine keeps a volume in, and the place for its clone.
struct Volume {
    root: PathBuf,
    clone: PathBuf,
    job: JobId,
}

impl Volume {
    fn in_dir(dir: &Path) -> Self {
        let root = dir.join("volumes/data/_data");
        fs::create_dir_all(&root).unwrap();
        let job = JobId::generate();
        Self { clone: clone_path(&root, job), root, job }
    }
}

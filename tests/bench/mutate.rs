//! Changes between two backups, the same for every tool.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::data::PAGE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mutator {
    None,
    /// A new time on every file, contents as they were.
    Touch,
    /// A line more at the end of 100 files, small ones where there are some.
    Files100,
    /// 40 bytes in 1 % of the pages of database files.
    Pages1,
}

impl Mutator {
    pub(crate) fn apply(self, root: &Path, seed: u64) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(seed);
        match self {
            Self::None => Ok(()),
            Self::Touch => {
                let now = SystemTime::now();
                files(root)?
                    .iter()
                    .try_for_each(|path| Ok(File::options().append(true).open(path)?.set_modified(now)?))
            }
            Self::Files100 => {
                let mut small: Vec<PathBuf> = files(root)?;
                if small.iter().any(|path| path.extension().is_some_and(|end| end == "js")) {
                    small.retain(|path| path.extension().is_some_and(|end| end == "js"));
                }
                for _ in 0..100 {
                    let path = &small[rng.random_range(0..small.len())];
                    let mut file = File::options().append(true).open(path)?;
                    writeln!(file, "// changed {}", rng.random::<u64>())?;
                }
                Ok(())
            }
            Self::Pages1 => {
                for path in files(root)?.iter().filter(|path| path.to_string_lossy().contains("/pg/base/")) {
                    let file = File::options().write(true).open(path)?;
                    let pages = file.metadata()?.len() / PAGE as u64;
                    for _ in 0..pages / 100 {
                        let at = rng.random_range(0..pages) * PAGE as u64;
                        file.write_all_at(&rng.random::<[u8; 8]>(), at)?;
                        file.write_all_at(&rng.random::<[u8; 32]>(), at + 4096)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// All regular files, in order of paths.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

//! Data sets made from a seed: the same arguments give the same bytes.
//!
//! `node` is a folder of small text files, a fifth of them duplicates; `pg`
//! is relation files of 8 KiB pages that compress about three to one; `media`
//! does not compress. `mix` is 27 % node, 45 % pg, 28 % media.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const PAGE: usize = 8192;
/// Mean of the small files, bytes.
const SMALL_FILE: u64 = 7500;
const RELATION: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DataSet {
    Node,
    Pg,
    Media,
    Mix,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Made {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Makes about `bytes` below `root`, which must be empty or missing.
pub(crate) fn make(set: DataSet, bytes: u64, seed: u64, root: &Path) -> Result<Made> {
    fs::create_dir_all(root)?;
    let mut maker = Maker { rng: StdRng::seed_from_u64(seed), made: Made::default(), words: Vec::new() };
    maker.words = (0..2500).map(|_| maker.word()).collect();
    let share = |percent: u64| bytes * percent / 100;
    match set {
        DataSet::Node => maker.node(&root.join("node_modules"), bytes)?,
        DataSet::Pg => maker.pg(&root.join("pg"), bytes)?,
        DataSet::Media => maker.media(&root.join("media"), bytes)?,
        DataSet::Mix => {
            maker.node(&root.join("node_modules"), share(27))?;
            maker.pg(&root.join("pg"), share(45))?;
            maker.media(&root.join("media"), share(28))?;
        }
    }
    Ok(maker.made)
}

struct Maker {
    rng: StdRng,
    made: Made,
    words: Vec<String>,
}

impl Maker {
    fn word(&mut self) -> String {
        let len = self.rng.random_range(2..=11);
        (0..len).map(|_| char::from(self.rng.random_range(b'a'..=b'z'))).collect()
    }

    fn file(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        fs::write(path, bytes)?;
        self.made.files += 1;
        self.made.bytes += bytes.len() as u64;
        Ok(())
    }

    fn node(&mut self, root: &Path, bytes: u64) -> Result<()> {
        let end = self.made.bytes + bytes;
        let mut recent: Vec<Vec<u8>> = Vec::new();
        for package in 0u32.. {
            let dir = root.join(format!("{}-{package}", self.pick()));
            let folders: Vec<PathBuf> = ["", "lib", "lib/internal", "dist"].map(|part| dir.join(part)).into();
            for folder in &folders {
                fs::create_dir_all(folder)?;
            }
            for at in 0..self.rng.random_range(8..40) {
                if self.made.bytes >= end {
                    return Ok(());
                }
                let path =
                    folders[self.rng.random_range(0..folders.len())].join(format!("{}{at}.js", self.pick()));
                let text = if self.rng.random_bool(0.2) && !recent.is_empty() {
                    recent[self.rng.random_range(0..recent.len())].clone()
                } else {
                    let len = self.log_normal(SMALL_FILE);
                    self.text(len)
                };
                self.file(&path, &text)?;
                if recent.len() < 400 {
                    recent.push(text);
                } else {
                    let slot = self.rng.random_range(0..recent.len());
                    recent[slot] = text;
                }
            }
        }
        Ok(())
    }

    fn pick(&mut self) -> String {
        // Few words make most of a text.
        let at = self.rng.random::<f64>().powi(3) * self.words.len() as f64;
        self.words[at as usize % self.words.len()].clone()
    }

    /// Sizes as source files have them: sigma 1.2 around a mean.
    fn log_normal(&mut self, mean: u64) -> usize {
        const SIGMA: f64 = 1.2;
        let gauss: f64 = (0..12).map(|_| self.rng.random::<f64>()).sum::<f64>() - 6.0;
        let size = (mean as f64).ln() - SIGMA * SIGMA / 2.0 + SIGMA * gauss;
        (size.exp() as usize).clamp(1, 400_000)
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 80);
        while text.len() < len {
            let (a, b, c) = (self.pick(), self.pick(), self.pick());
            match self.rng.random_range(0..5u8) {
                0 => writeln!(text, "function {a}({b}, {c}) {{"),
                1 => writeln!(text, "  const {a} = {b}.{c}({});", self.rng.random_range(0..1000u16)),
                2 => writeln!(text, "  if ({a} === '{b}') return {c};"),
                3 => writeln!(text, "}}\nmodule.exports.{a} = {b};"),
                _ => writeln!(text, "  // {a} {b} {c}"),
            }
            .expect("a vector takes all");
        }
        text.truncate(len);
        text
    }

    fn pg(&mut self, root: &Path, bytes: u64) -> Result<()> {
        let base = root.join("base/16384");
        fs::create_dir_all(&base)?;
        self.file(&root.join("PG_VERSION"), b"15\n")?;
        self.file(&base.join("PG_VERSION"), b"15\n")?;
        let (mut left, mut relation) = (bytes, 16385u32);
        while left >= PAGE as u64 {
            let size = left.min(RELATION) / PAGE as u64 * PAGE as u64;
            let mut file = BufWriter::with_capacity(1 << 20, File::create(base.join(relation.to_string()))?);
            for number in 0..size / PAGE as u64 {
                file.write_all(&self.page(number))?;
            }
            file.flush()?;
            self.made.files += 1;
            self.made.bytes += size;
            left -= size;
            relation += 1;
        }
        Ok(())
    }

    /// A heap page: header, item pointers, free space, rows from the end.
    fn page(&mut self, number: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        page[..8].copy_from_slice(&self.rng.random_range(0..1u64 << 40).to_le_bytes());
        let mut end = PAGE;
        for row in 0..60u64 {
            let payload: [u8; 28] = self.rng.random();
            let text = format!("{:010}|{}|{}|", number * 60 + row, self.pick(), self.pick());
            let (id, text) = (payload, text.as_bytes());
            let len = (id.len() + text.len() + 24).next_multiple_of(8);
            if end < 1200 + len {
                break;
            }
            end -= len;
            page[end + 24..end + 24 + text.len()].copy_from_slice(text);
            page[end + 24 + text.len()..end + 24 + text.len() + id.len()].copy_from_slice(&id);
            let pointer = 24 + 4 * usize::try_from(row).unwrap_or_default();
            let item = u32::try_from(end | (len << 17)).unwrap_or_default();
            page[pointer..pointer + 4].copy_from_slice(&item.to_le_bytes());
        }
        page
    }

    fn media(&mut self, root: &Path, bytes: u64) -> Result<()> {
        fs::create_dir_all(root)?;
        let (mut left, mut number) = (bytes, 0u32);
        while left > 0 {
            let size = left.min(self.rng.random_range(2 << 20..24 << 20));
            let mut content = vec![0; usize::try_from(size)?];
            self.rng.fill(&mut content[..]);
            self.file(&root.join(format!("clip-{number:04}.bin")), &content)?;
            left -= size;
            number += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            let made = make(DataSet::Mix, 4 << 20, 7, dir.path()).unwrap();
            assert!(made.bytes > 3 << 20 && made.bytes < 5 << 20, "{made:?}");
        }
        let digest = |root: &Path| {
            let script = "find . -type f | sort | xargs -d '\\n' sha256sum";
            e2e::command::run(std::process::Command::new("sh").args(["-c", script]).current_dir(root))
        };
        assert_eq!(digest(a.path()), digest(b.path()));
    }
}

//! A volume of very many files: backed up, backed up again, verified, restored.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::fleet::Fleet;
use e2e::{invariant, tree};

use crate::book::{Book, What};

const HOST: &str = "host-a";
const VOLUME: &str = "many";
/// Files of a folder.
const FOLDER: u64 = 1000;

/// Once, and not again where an earlier run has done it.
///
/// # Errors
/// The files cannot be written, or the book not.
pub(crate) fn run(book: &mut Book, files: u64, end: Instant) -> Result<()> {
    let done = book.lines().any(|what| matches!(what, What::Files { files: done, .. } if *done >= files));
    if done || Instant::now() >= end {
        return Ok(());
    }
    let mut fleet = Fleet::start(&[HOST]);
    fleet.engine(HOST).docker(["volume", "create", VOLUME]);
    let original = fleet.engine(HOST).volume_path(VOLUME);
    let mut figures = Vec::new();
    let mut figure = |text: String| {
        println!("{text}");
        figures.push(text);
    };
    let begun = Instant::now();
    fill(&original, files)?;
    println!("{files} files made in {:.0} s", begun.elapsed().as_secs_f64());

    for name in ["first backup", "backup without a change"] {
        let begun = Instant::now();
        let job = fleet.backup(HOST, VOLUME, "none");
        ensure!(job["state"] == "succeeded", "{job}");
        figure(format!("{name}: {:.1} s; {}", begun.elapsed().as_secs_f64(), peaks(&mut fleet)?));
    }
    let begun = Instant::now();
    fleet.repo("verify", &[]).ends_with(0);
    figure(format!("`repo verify`: {:.1} s", begun.elapsed().as_secs_f64()));
    let begun = Instant::now();
    fleet.ok(&["restore", "volume", "many@latest", "--host", HOST, "--as", "copy"]);
    figure(format!("restore, verified: {:.1} s; {}", begun.elapsed().as_secs_f64(), peaks(&mut fleet)?));
    let restored = fleet.engine(HOST).volume_path("copy");
    let differences = tree::rsync_differences(&original, &restored);
    invariant!("I4", differences.is_empty(), "{} lines of differences", differences.lines().count());
    figure("rsync (checksums, nanoseconds, xattrs, ACLs): 0 differences".to_owned());
    book.add(What::Files { files, figures }, None)
}

/// Small files of different content in folders of [`FOLDER`].
fn fill(root: &Path, files: u64) -> Result<()> {
    for folder in 0..files.div_ceil(FOLDER) {
        let dir = root.join(format!("{:02}/{folder:05}", folder % 100));
        std::fs::create_dir_all(&dir)?;
        for file in (folder * FOLDER)..((folder + 1) * FOLDER).min(files) {
            // Some are equal, some are empty, as in folders of sources.
            let text = match file % 10 {
                0 => String::new(),
                1 => "the same text as in every tenth file\n".to_owned(),
                _ => format!("file {file}\n{}", "x".repeat((file % 200) as usize)),
            };
            std::fs::write(dir.join(format!("{file}.txt")), text)?;
        }
    }
    Ok(())
}

/// The most memory that agent and controller have had.
fn peaks(fleet: &mut Fleet) -> Result<String> {
    let agent = peak_mib(fleet.host(HOST).agent().pid().as_raw_nonzero().get())?;
    let controller = peak_mib(fleet.controller().pid().as_raw_nonzero().get())?;
    Ok(format!("peak agent {agent} MiB, controller {controller} MiB"))
}

fn peak_mib(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak
        .and_then(|text| text.trim().strip_suffix(" kB"))
        .and_then(|text| text.trim().parse::<u64>().ok());
    Ok(kib.unwrap_or_default() / 1024)
}

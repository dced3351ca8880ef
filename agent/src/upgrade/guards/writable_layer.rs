//! Files a container wrote into its own filesystem, where no mount is: the
//! writable layer, which the new container starts without.
//!
//! The Engine lists paths and says nothing of what they are. That is read from
//! the layer itself where the storage driver has it as a directory, else asked
//! path by path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_archive::text::{self, counted};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use serde_json::Value;

use crate::engine::{Container, Engine, EngineError, PathChange, PathChangeKind, PathKind};
use crate::spec::base;

use super::{Loss, runtime};

/// A larger layer is kept as an image only where that is allowed.
const MAX_KEPT_BYTES: u64 = 1 << 30;

/// What the plan names at most.
const NAMED: usize = 5;

/// Paths asked for one by one at most; further ones count as files.
const MAX_ASKED: usize = 64;

/// What the Engine puts into every container, and what it mounts over.
const ENGINES_OWN: [&str; 10] = [
    "/.dockerenv",
    "/.dockerinit",
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sbin/docker-init",
    "/sys",
];

/// What is in a writable layer and in no image or mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Files and links, with their size where it is known, by path.
    pub files: Vec<(PathBuf, Option<u64>)>,
    /// Of the same place, and no data: see [`runtime`].
    pub runtime: Vec<PathBuf>,
    /// Of the image, and gone from the container.
    pub deleted: Vec<PathBuf>,
    /// What is in the image it was made of, because an undone upgrade kept it
    /// there; in words.
    pub in_image: Option<String>,
}

impl Layer {
    /// Of the files whose size is known.
    fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|(_, bytes)| *bytes).sum()
    }

    fn set_runtime_aside(&mut self) {
        let of_run = |(path, bytes): &(PathBuf, Option<u64>)| {
            bytes.is_some_and(|bytes| runtime::is_runtime(path, bytes))
        };
        let (runtime, files): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.files).into_iter().partition(of_run);
        self.runtime = runtime.into_iter().map(|(path, _)| path).collect();
        self.files = files;
        self.runtime.sort();
        self.files.sort();
    }

    /// What is recreated and not kept, in words; none where there is nothing.
    pub(crate) fn runtime_words(&self) -> Option<String> {
        let first = self.runtime.first()?.display().to_string();
        let files = counted(self.runtime.len(), "file");
        Some(format!("{files} not kept, such as {}: {}", first.escape_debug(), runtime::RULE))
    }
}

/// Looks at what a container wrote.
///
/// # Errors
/// When the Engine cannot be asked.
pub(crate) async fn look(
    engine: &Engine,
    container: &Container,
    inspected: &Value,
) -> Result<Layer, EngineError> {
    let changes = engine.container_changes(&container.id).await?;
    let targets: Vec<&str> = container.mounts.iter().map(|mount| mount.target.as_str()).collect();
    let in_image = inspected["Config"]["Labels"][base::FILES].as_str().filter(|words| !words.is_empty());
    let mut layer = Layer { in_image: in_image.map(str::to_owned), ..Layer::default() };
    let mut left = Vec::new();
    for change in leaves(&changes, &targets) {
        match change.kind {
            PathChangeKind::Deleted => layer.deleted.push(change.path.into()),
            PathChangeKind::Added | PathChangeKind::Modified => left.push(change.path),
        }
    }
    if let Some(upper) = upper_directory(inspected) {
        let (files, unknown) = tokio::task::spawn_blocking(move || read_kinds(&upper, left))
            .await
            .expect("looking at files does not panic");
        layer.files = files;
        left = unknown;
    }
    let further = left.split_off(left.len().min(MAX_ASKED));
    for path in left {
        match engine.path_kind(&container.id, &path).await {
            Ok(PathKind::File { size_bytes }) => layer.files.push((path.into(), Some(size_bytes))),
            Ok(PathKind::Link) => layer.files.push((path.into(), None)),
            Ok(PathKind::Directory | PathKind::Special) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    layer.files.extend(further.into_iter().map(|path| (path.into(), None)));
    layer.set_runtime_aside();
    Ok(layer)
}

/// What is lost with the layer of the upgraded container, or of a dependent
/// that is recreated with it.
pub(crate) fn loss_of(layer: &Layer, dependent: Option<&str>) -> Option<Loss> {
    // A dependent is made of the same image again, with what is in there.
    let in_image = if dependent.is_some() { None } else { layer.in_image.clone() };
    let mut loss = loss(&Layer { in_image, ..layer.clone() })?;
    if let Some(name) = dependent {
        loss.name = format!("{}:{name}", loss.name);
        loss.text = format!("`{name}` is recreated with it: {}", loss.text);
    }
    Some(loss)
}

fn loss(layer: &Layer) -> Option<Loss> {
    let in_image = layer.in_image.as_ref().map(|words| {
        format!("what it wrote outside its mounts before an upgrade that was undone ({words}); copy out what is needed")
    });
    let text = match (of_layer(layer), in_image) {
        (Some(text), Some(in_image)) => format!("{text}; and {in_image}"),
        (text, in_image) => text.or(in_image)?,
    };
    Some(Loss::new("writable-layer", text))
}

fn of_layer(layer: &Layer) -> Option<String> {
    let (files, deleted) = (layer.files.len(), layer.deleted.len());
    if files + deleted == 0 {
        return None;
    }
    let mut named: Vec<String> = Vec::new();
    for (path, bytes) in layer.files.iter().take(NAMED) {
        let size = bytes.map(|bytes| format!(" ({})", text::bytes(bytes))).unwrap_or_default();
        named.push(format!("{}{size}", path.display().to_string().escape_debug()));
    }
    for path in layer.deleted.iter().take(NAMED.saturating_sub(named.len())) {
        named.push(format!("{} (deleted)", path.display().to_string().escape_debug()));
    }
    let more = files + deleted - named.len();
    let named = match more {
        0 => named.join(", "),
        _ => format!("{} and {more} more", named.join(", ")),
    };
    let total = summary(layer);
    Some(format!("{named} in the writable layer, where no volume is ({total}); copy out what is needed"))
}

/// How much is in a layer, in words.
pub(crate) fn summary(layer: &Layer) -> String {
    let (files, deleted) = (layer.files.len(), layer.deleted.len());
    match (files, deleted) {
        (0, _) => format!("{} of the image", counted(deleted, "deletion")),
        (_, 0) => format!("{}, {}", counted(files, "file"), text::bytes(layer.bytes())),
        _ => format!(
            "{}, {}, and {}",
            counted(files, "file"),
            text::bytes(layer.bytes()),
            counted(deleted, "deletion")
        ),
    }
}

/// A layer that is too large to be kept as an image, unless that is allowed.
pub(crate) fn too_large(layer: &Layer, name: &str) -> Option<Loss> {
    let bytes = layer.bytes();
    (bytes > MAX_KEPT_BYTES).then(|| {
        let text = format!(
            "`{name}` wrote {} outside its mounts, which would be kept for a rollback as an image of this host: more than {}; allowed, it is kept all the same",
            text::bytes(bytes),
            text::bytes(MAX_KEPT_BYTES)
        );
        Loss::new(format!("kept-layer:{name}"), text)
    })
}

/// What is kept of it for a rollback, in words; none where it is nothing.
pub(crate) fn kept_words(layer: &Layer, name: &str) -> Option<String> {
    (layer.files.len() + layer.deleted.len() > 0).then(|| {
        format!(
            "for a rollback, what `{name}` wrote outside its mounts: as an image of this host, {}",
            text::bytes(layer.bytes())
        )
    })
}

/// The changes that may be data: below no mount, not the Engine's own, no
/// directory that is listed only because of what changed in it.
fn leaves(changes: &[PathChange], targets: &[&str]) -> Vec<PathChange> {
    let parents: BTreeSet<&Path> =
        changes.iter().flat_map(|change| Path::new(&change.path).ancestors().skip(1)).collect();
    let below = |path: &Path, roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
    let is_data = |change: &&PathChange| {
        let path = Path::new(&change.path);
        !(below(path, targets)
            || below(path, &ENGINES_OWN)
            || (change.kind == PathChangeKind::Deleted && runtime::was_runtime(path))
            || (change.kind != PathChangeKind::Deleted && parents.contains(path)))
    };
    changes.iter().filter(is_data).cloned().collect()
}

/// Where the storage driver keeps what the container wrote, if as a directory.
fn upper_directory(inspected: &Value) -> Option<PathBuf> {
    let path = inspected.pointer("/GraphDriver/Data/UpperDir")?.as_str()?;
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

type Files = Vec<(PathBuf, Option<u64>)>;

/// The files and links among the paths, and the paths that are not there.
fn read_kinds(upper: &Path, paths: Vec<String>) -> (Files, Vec<String>) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(upper) = rustix::fs::open(upper, flags, Mode::empty()) else { return (Vec::new(), paths) };
    let (mut files, mut unknown) = (Vec::new(), Vec::new());
    for path in paths {
        let relative = path.trim_start_matches('/');
        // The path itself may be a link; one on the way leads nowhere.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = rustix::fs::openat2(&upper, relative, flags, Mode::empty(), inside)
            .and_then(|handle| rustix::fs::statat(handle, c"", AtFlags::EMPTY_PATH));
        match found.map(|found| (FileType::from_raw_mode(found.st_mode), found.st_size)) {
            Ok((FileType::RegularFile, size)) => {
                files.push((PathBuf::from(path), Some(u64::try_from(size).unwrap_or(0))));
            }
            Ok((FileType::Symlink, _)) => files.push((PathBuf::from(path), None)),
            Ok(_) => {}
            Err(_) => unknown.push(path),
        }
    }
    (files, unknown)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn change(path: &str, kind: PathChangeKind) -> PathChange {
        PathChange { path: path.to_owned(), kind }
    }

    #[test]
    fn what_the_engine_made_and_what_is_mounted_is_no_data() {
        use PathChangeKind::{Added, Deleted, Modified};
        let changes = [
            change("/tmp", Modified),
            change("/tmp/psql_history", Added),
            change("/data", Added),
            change("/data/file", Added),
            change("/database", Added),
            change("/etc", Modified),
            change("/etc/hosts", Modified),
            change("/etc/app.conf", Modified),
            change("/etc/motd", Deleted),
            change("/run", Modified),
            change("/run/app.pid", Deleted),
            change("/tmp/.s.PGSQL.5432.lock", Deleted),
            change("/run/state", Added),
            change("/sbin", Modified),
            change("/sbin/docker-init", Added),
            change("/srv/app.pid", Added),
            change("/.dockerenv", Added),
            change("/dev/console", Added),
        ];
        let found: Vec<String> = leaves(&changes, &["/data"]).into_iter().map(|change| change.path).collect();
        let expected =
            ["/tmp/psql_history", "/database", "/etc/app.conf", "/etc/motd", "/run/state", "/srv/app.pid"];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_only_the_old_processes_need_is_set_aside_and_said() {
        let file = |path: &str, bytes| (PathBuf::from(path), bytes);
        let mut layer = Layer {
            files: vec![
                file("/tmp/export.csv", Some(9)),
                file("/tmp/.s.PGSQL.5432.lock", Some(61)),
                file("/tmp/huge.lock", Some(1 << 20)),
                file("/run/app.pid", Some(2)),
                // A link, or a file of which too little was asked.
                file("/run/link.pid", None),
            ],
            ..Layer::default()
        };
        layer.set_runtime_aside();
        let left: Vec<_> = layer.files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(left, ["/run/link.pid", "/tmp/export.csv", "/tmp/huge.lock"]);
        let words = layer.runtime_words().unwrap();
        assert!(words.starts_with("2 files not kept, such as /run/app.pid: under /run, /var/run"), "{words}");
        assert_eq!(Layer::default().runtime_words(), None);
    }

    #[test]
    fn kinds_are_read_from_the_layer_and_no_link_leads_out_of_it() {
        let upper = tempfile::tempdir().unwrap();
        fs::create_dir_all(upper.path().join("a/empty")).unwrap();
        fs::write(upper.path().join("a/file"), "12345").unwrap();
        symlink("/etc", upper.path().join("etc")).unwrap();
        let paths = ["/a/empty", "/a/file", "/etc", "/etc/passwd", "/gone"];
        let (files, unknown) = read_kinds(upper.path(), paths.map(str::to_owned).to_vec());
        assert_eq!(files, [(PathBuf::from("/a/file"), Some(5)), (PathBuf::from("/etc"), None)]);
        assert_eq!(unknown, ["/etc/passwd", "/gone"]);
        let (files, unknown) = read_kinds(Path::new("/nonexistent"), vec!["/a".to_owned()]);
        assert!(files.is_empty() && unknown == ["/a"]);
    }

    #[test]
    fn the_first_files_are_named_and_all_are_counted() {
        assert_eq!(loss(&Layer::default()), None);
        let one = Layer { files: vec![("/tmp/psql_history".into(), Some(4096))], ..Layer::default() };
        let text = loss(&one).unwrap().text;
        assert!(text.starts_with("/tmp/psql_history (4.0 KiB) in the writable layer"), "{text}");
        let files = (0..7).map(|n| (PathBuf::from(format!("/f{n}")), Some(1024))).collect();
        let many = Layer { files, deleted: vec!["/etc/motd".into()], ..Layer::default() };
        let text = loss(&many).unwrap().text;
        assert!(text.contains("/f4 (1.0 KiB) and 3 more"), "{text}");
        assert!(text.contains("7 files, 7.0 KiB, and 1 deletion"), "{text}");
        let large =
            |bytes| too_large(&Layer { files: vec![("/a".into(), Some(bytes))], ..Layer::default() }, "db");
        assert_eq!(large(1 << 30), None);
        assert_eq!(large((1 << 30) + 1).unwrap().name, "kept-layer:db");
        let kept = Layer { in_image: Some("2 files, 3 KiB".into()), ..Layer::default() };
        assert!(loss(&kept).unwrap().text.contains("an upgrade that was undone (2 files, 3 KiB)"));
        let gone = Layer { deleted: vec!["/etc/motd".into()], ..Layer::default() };
        assert!(loss(&gone).unwrap().text.contains("/etc/motd (deleted)"));
    }
}

//! Databases whose files another major version cannot read, or reads and
//! rewrites for good. Found in the data itself, not guessed from names, and
//! compared with what the new image says of itself.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use serde_json::Value;

use super::Loss;
use super::view::{ContainerRoot, Next, head, open_directory, walk};
use crate::engine::{Container, Mount, MountKind};
use crate::upgrade::image::{ImageFacts, Reference};

/// How far below its root data is looked through.
const DEEPEST: usize = 4;

/// Entries looked at in one tree at most.
const MAX_ENTRIES: u64 = 20_000;

/// Bytes read of a file that holds a version.
const HEAD: usize = 64 << 10;

/// The tablespace of MySQL's data dictionary, since 8.0.
const DICTIONARY: &str = "mysql.ibd";

/// A database system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    PostgreSql,
    MariaDb,
    MySql,
}

/// The part of a version that decides whether data fits: "16", "9.6", "10.11".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub system: System,
    pub major: String,
}

/// What was found in one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    /// Of the source.
    pub source: String,
    pub version: Version,
}

/// What an upgrade of these data to this image means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub losses: Vec<Loss>,
    pub warnings: Vec<String>,
    /// "PostgreSQL 16, as the data", where they fit.
    pub fits: Option<String>,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::PostgreSql => "PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        }
    }

    /// How its data gets from one major version to another.
    fn way(self) -> &'static str {
        match self {
            Self::PostgreSql => "dump and restore it, or run pg_upgrade",
            Self::MariaDb | Self::MySql => {
                "dump it first: once the newer server has started, no older one reads it"
            }
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.system.name(), self.major)
    }
}

/// Compares the data with the image that is to use it.
pub(crate) fn judge(data: &[Data], reference: &str, image: &ImageFacts) -> Verdict {
    let mut verdict = Verdict::default();
    let offered = of_image(reference, image);
    let mut sources: Vec<&str> = data.iter().map(|data| data.source.as_str()).collect();
    sources.dedup();
    let mut texts = Vec::new();
    for source in sources {
        let held: Vec<&Version> =
            data.iter().filter(|data| data.source == source).map(|data| &data.version).collect();
        let words = held.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        match &offered {
            None => verdict.warnings.push(format!(
                "the data in `{source}` is of {words}, and which version the new image has is not known"
            )),
            // Data of a former version may lie beside that in use.
            Some(offered) if held.contains(&offered) => {
                verdict.fits = Some(format!("{offered}, as the data in `{source}`"));
            }
            Some(offered) => texts.push(format!(
                "the data in `{source}` is of {words} and the new image has {offered}; {}",
                offered.system.way()
            )),
        }
    }
    if !texts.is_empty() {
        verdict.losses.push(Loss::new("database-version", texts.join("; ")));
    }
    verdict
}

/// The system and version an image says it has.
fn of_image(reference: &str, image: &ImageFacts) -> Option<Version> {
    let env = |key: &str| image.env.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let version = |system, text: &str| major(system, text).map(|major| Version { system, major });
    let by_env = [
        (System::PostgreSql, "PG_MAJOR"),
        (System::PostgreSql, "PG_VERSION"),
        (System::MariaDb, "MARIADB_VERSION"),
        (System::MariaDb, "MARIADB_MAJOR"),
        (System::MySql, "MYSQL_VERSION"),
        (System::MySql, "MYSQL_MAJOR"),
    ];
    let found = by_env.into_iter().find_map(|(system, key)| version(system, env(key)?));
    if found.is_some() {
        return found;
    }
    let label = |key: &str| image.labels.get(&format!("org.opencontainers.image.{key}"));
    let titled = label("title").and_then(|title| system_named(title));
    if let (Some(system), Some(text)) = (titled, label("version"))
        && let Some(found) = version(system, text)
    {
        return Some(found);
    }
    // The name asked for first; an image asked for by its id has others.
    std::iter::once(reference).chain(image.tags.iter().map(String::as_str)).find_map(|name| {
        let name = Reference::of(name);
        version(system_named(name.last_part())?, name.tag.as_deref()?)
    })
}

fn system_named(name: &str) -> Option<System> {
    match name.to_ascii_lowercase().as_str() {
        "postgres" | "postgresql" | "postgis" => Some(System::PostgreSql),
        "mariadb" => Some(System::MariaDb),
        "mysql" => Some(System::MySql),
        _ => None,
    }
}

/// The deciding part of a version such as `16.4-1.pgdg120+1`, `1:10.11.6+maria`
/// or `8.0.36`.
fn major(system: System, text: &str) -> Option<String> {
    let text = text.trim();
    // Debian's epoch.
    let text = text.split_once(':').map_or(text, |(_, rest)| rest);
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?.split('.');
    let first: u32 = numbers.next()?.parse().ok()?;
    let second: Option<u32> = numbers.next().and_then(|number| number.parse().ok());
    match (system, second) {
        (System::PostgreSql, _) if first >= 10 => Some(first.to_string()),
        (_, Some(second)) => Some(format!("{first}.{second}")),
        // A tag such as `mysql:8` names no release series.
        (_, None) => None,
    }
}

/// Looks through a container's writable data: the sources at their paths, and
/// what is no source through the running container. Also tells, a sentence
/// each, what could not be looked through. Blocks while it reads.
pub(crate) fn find_all(
    container: &Container,
    inspected: &Value,
    sources: &[(String, &Path)],
) -> (Vec<Data>, Vec<String>) {
    let (mut data, mut failures) = (Vec::new(), Vec::new());
    for (name, path) in sources {
        match find(name, path) {
            Ok(found) => data.extend(found),
            Err(error) => failures.push(format!("`{name}` cannot be looked through for a database: {error}")),
        }
    }
    let known = |mount: &Mount| {
        sources
            .iter()
            .any(|(name, path)| *name == mount.source || Path::new(&mount.host_path).starts_with(path))
    };
    let further = container.mounts.iter().filter(|mount| {
        matches!(mount.kind, MountKind::Volume | MountKind::Bind) && !mount.read_only && !known(mount)
    });
    let further: Vec<&Mount> = further.collect();
    let root = if further.is_empty() { None } else { ContainerRoot::open(container, inspected) };
    for mount in further {
        // A single file or a socket is no database.
        let directory = root.as_ref().and_then(|root| root.directory(Path::new(&mount.target)).ok());
        if let Some(found) = directory.and_then(|directory| find_in(&mount.source, &directory).ok()) {
            data.extend(found);
        }
    }
    (data, failures)
}

fn find(source: &str, path: &Path) -> Result<Vec<Data>, Errno> {
    find_in(source, &open_directory(path)?)
}

fn find_in(source: &str, root: &OwnedFd) -> Result<Vec<Data>, Errno> {
    let mut found: Vec<(PathBuf, Version)> = Vec::new();
    let mut dictionaries: Vec<(PathBuf, Version)> = Vec::new();
    let mut entries = 0;
    walk(root, &mut |entry| {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Next::End;
        }
        if entry.kind == FileType::Directory {
            let within = found.iter().any(|(place, _)| entry.path.parent() == Some(place));
            return if entry.depth < DEEPEST && !within { Next::Into } else { Next::Beside };
        }
        let name = entry.name.to_string_lossy();
        if let Some(version) = of_file(&name, || head(entry.directory, entry.name, HEAD)) {
            let place = entry.path.parent().unwrap_or(Path::new("")).to_owned();
            let of = if name == DICTIONARY { &mut dictionaries } else { &mut found };
            of.push((place, version));
        }
        Next::Into
    })?;
    // The dictionary goes along with every upgrade; what else tells a version may
    // be from long before.
    found.retain(|(place, version)| {
        version.system != System::MySql || !dictionaries.iter().any(|(other, _)| other == place)
    });
    found.extend(dictionaries);
    // A database cluster has the file in its root and again in each database.
    let places: Vec<PathBuf> = found.iter().map(|(place, _)| place.clone()).collect();
    let inner = |place: &Path| places.iter().any(|other| other != place && place.starts_with(other));
    let mut data: Vec<Data> = Vec::new();
    for (_, version) in found.into_iter().filter(|(place, _)| !inner(place)) {
        if !data.iter().any(|data| data.version == version) {
            data.push(Data { source: source.to_owned(), version });
        }
    }
    Ok(data)
}

/// The version a file tells, if it is one that tells a version.
fn of_file(name: &str, read: impl FnOnce() -> Option<Vec<u8>>) -> Option<Version> {
    if !matches!(
        name,
        "PG_VERSION" | "mysql_upgrade_info" | "mariadb_upgrade_info" | "mysql_upgrade_history" | DICTIONARY
    ) {
        return None;
    }
    let bytes = read()?;
    if name == DICTIONARY {
        return of_dictionary(&bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let (system, text) = match name {
        "PG_VERSION" => (System::PostgreSql, text.into_owned()),
        // MySQL 8.4 and newer: every version that had the data, in JSON.
        "mysql_upgrade_history" => {
            let history: Value = serde_json::from_slice(&bytes).ok()?;
            let last = history["upgrade_history"].as_array()?.last()?["version"].as_str()?.to_owned();
            (System::MySql, last)
        }
        "mariadb_upgrade_info" => (System::MariaDb, text.into_owned()),
        _ if text.contains("MariaDB") => (System::MariaDb, text.into_owned()),
        _ => (System::MySql, text.into_owned()),
    };
    major(system, &text).map(|major| Version { system, major })
}

/// The version of the server that made a tablespace or upgraded it last, from
/// its first page: `FIL_PAGE_SRV_VERSION` in MySQL's `fil0types.h`, a number
/// such as 80036 for 8.0.36. The only file of a fresh 8.0 that tells it.
fn of_dictionary(page: &[u8]) -> Option<Version> {
    let number = u32::from_be_bytes(page.get(8..12)?.try_into().ok()?);
    let (first, second) = (number / 10_000, number / 100 % 100);
    // Anything else is not what is expected there.
    (8..100).contains(&first).then(|| Version { system: System::MySql, major: format!("{first}.{second}") })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn versions(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = find("v", directory.path()).unwrap();
        found.into_iter().map(|data| data.version.to_string()).collect()
    }

    #[test]
    fn versions_are_read_from_the_data() {
        assert_eq!(versions(&[("PG_VERSION", "16\n"), ("base/1/PG_VERSION", "16\n")]), ["PostgreSQL 16"]);
        assert_eq!(versions(&[("data/PG_VERSION", "9.6\n")]), ["PostgreSQL 9.6"]);
        assert_eq!(versions(&[("18/docker/PG_VERSION", "18\n")]), ["PostgreSQL 18"]);
        assert_eq!(versions(&[("a/b/c/PG_VERSION", "15\n")]), ["PostgreSQL 15"]);
        assert!(versions(&[("a/b/c/d/PG_VERSION", "15\n")]).is_empty());
        assert_eq!(versions(&[("mysql_upgrade_info", "8.0.36\n")]), ["MySQL 8.0"]);
        assert_eq!(versions(&[("mysql_upgrade_info", "10.5.9-MariaDB")]), ["MariaDB 10.5"]);
        assert_eq!(versions(&[("mariadb_upgrade_info", "11.4.2-MariaDB")]), ["MariaDB 11.4"]);
        let history = r#"{"file_format":"1","upgrade_history":[{"version":"8.0.36"},{"version":"8.4.1"}]}"#;
        assert_eq!(versions(&[("mysql_upgrade_history", history)]), ["MySQL 8.4"]);
        for nonsense in ["", "x", "\n"] {
            assert!(versions(&[("PG_VERSION", nonsense)]).is_empty());
        }
        let two = versions(&[("15/PG_VERSION", "15\n"), ("16/PG_VERSION", "16\n"), ("17/x", "")]);
        assert_eq!(two, ["PostgreSQL 15", "PostgreSQL 16"]);
    }

    #[test]
    fn a_fresh_mysql_is_known_by_its_dictionary_which_counts_before_older_words() {
        let directory = tempfile::tempdir().unwrap();
        let found = || {
            let found = find("v", directory.path()).unwrap();
            found.into_iter().map(|data| data.version.to_string()).collect::<Vec<_>>()
        };
        let page = |version: u32| {
            let mut page = vec![0_u8; 16 << 10];
            page[8..12].copy_from_slice(&version.to_be_bytes());
            fs::write(directory.path().join("mysql.ibd"), page).unwrap();
        };
        page(80_036);
        assert_eq!(found(), ["MySQL 8.0"]);
        fs::write(directory.path().join("mysql_upgrade_info"), "8.0.36\n").unwrap();
        page(80_403);
        assert_eq!(found(), ["MySQL 8.4"]);
        page(0);
        assert_eq!(found(), ["MySQL 8.0"]);
        fs::write(directory.path().join("mysql.ibd"), "short").unwrap();
        assert_eq!(found(), ["MySQL 8.0"]);
    }

    #[test]
    fn a_link_in_the_data_leads_nowhere() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("PG_VERSION"), "16\n").unwrap();
        std::os::unix::fs::symlink(other.path(), directory.path().join("data")).unwrap();
        std::os::unix::fs::symlink(other.path().join("PG_VERSION"), directory.path().join("PG_VERSION"))
            .unwrap();
        assert!(find("v", directory.path()).unwrap().is_empty());
        assert!(find("v", Path::new("/nonexistent")).is_err());
    }

    fn image(env: &[&str], labels: &[(&str, &str)]) -> ImageFacts {
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|&(key, value)| (format!("org.opencontainers.image.{key}"), json!(value)))
            .collect();
        ImageFacts::of(&json!({ "Config": { "Env": env, "Labels": labels } }))
    }

    #[test]
    fn versions_are_read_from_the_image() {
        let of = |reference: &str, env: &[&str], labels: &[(&str, &str)]| {
            of_image(reference, &image(env, labels)).map(|version| version.to_string()).unwrap_or_default()
        };
        assert_eq!(of("x", &["PG_MAJOR=16", "PG_VERSION=16.4-1.pgdg120+1"], &[]), "PostgreSQL 16");
        assert_eq!(of("x", &["PG_VERSION=9.6.24-1"], &[]), "PostgreSQL 9.6");
        assert_eq!(of("x", &["MARIADB_VERSION=1:10.11.6+maria~ubu2204"], &[]), "MariaDB 10.11");
        assert_eq!(of("x", &["MYSQL_MAJOR=8.0", "MYSQL_VERSION=8.0.36-1debian12"], &[]), "MySQL 8.0");
        assert_eq!(of("x", &["MYSQL_MAJOR=innovation", "MYSQL_VERSION=9.1.0-1.el9"], &[]), "MySQL 9.1");
        assert_eq!(of("x", &[], &[("title", "PostgreSQL"), ("version", "17.1")]), "PostgreSQL 17");
        assert_eq!(of("x", &[], &[("title", "shop"), ("version", "17.1")]), "");
        assert_eq!(of("registry:5000/team/postgres:15-alpine", &[], &[]), "PostgreSQL 15");
        assert_eq!(of("mysql:8.4", &[], &[]), "MySQL 8.4");
        for unknown in ["mysql:8", "mysql", "postgres:latest", "shop:16"] {
            assert_eq!(of(unknown, &[], &[]), "", "{unknown}");
        }
        let by_id = ImageFacts { tags: vec!["postgres:16.4".into()], ..ImageFacts::default() };
        assert_eq!(of_image("sha256:0a", &by_id).unwrap().to_string(), "PostgreSQL 16");
    }

    #[test]
    fn another_major_version_blocks_and_names_both() {
        let data = |system, major: &str| Data {
            source: "db_data".to_owned(),
            version: Version { system, major: major.to_owned() },
        };
        let held = [data(System::PostgreSql, "16")];
        let same = judge(&held, "postgres:16.4", &image(&["PG_MAJOR=16"], &[]));
        assert!(same.losses.is_empty() && same.warnings.is_empty());
        assert_eq!(same.fits.unwrap(), "PostgreSQL 16, as the data in `db_data`");
        let other = judge(&held, "x", &image(&["PG_MAJOR=17"], &[]));
        assert_eq!(other.losses[0].name, "database-version");
        let text = &other.losses[0].text;
        assert!(
            text.contains("PostgreSQL 16") && text.contains("PostgreSQL 17") && text.contains("pg_upgrade")
        );
        let unknown = judge(&held, "x", &image(&[], &[]));
        assert!(unknown.losses.is_empty() && unknown.warnings.len() == 1);
        let both = [data(System::PostgreSql, "16"), data(System::PostgreSql, "17")];
        assert!(judge(&both, "x", &image(&["PG_MAJOR=17"], &[])).losses.is_empty());
        let crossed = judge(&[data(System::MariaDb, "10.11")], "mysql:8.4", &image(&[], &[]));
        assert_eq!(crossed.losses.len(), 1);
        assert_eq!(judge(&[], "x", &image(&["PG_MAJOR=17"], &[])), Verdict::default());
    }
}

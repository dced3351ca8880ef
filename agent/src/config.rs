//! The agent's settings: one file, flags over it, read once and whole.
//!
//! A key that is not known is refused with its place, because a misspelt
//! `allow` or `max_downtime_seconds` that was silently ignored would do harm
//! much later. All that is wrong is listed at once.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::allow::Allow;
use crate::args::{RunArgs, StateArgs};
use crate::durable;

/// Socket of the agent where nothing else is said.
pub(crate) const DEFAULT_SOCKET: &str = "/run/holdfast/agent.sock";

const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";
const DEFAULT_MEMORY_MIB: u32 = 192;
const MIN_MEMORY_MIB: u32 = 48;
const DEFAULT_MAX_DOWNTIME_SECONDS: u32 = 300;

/// All settings of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub state_dir: PathBuf,
    /// The file the settings are read from, there or not.
    pub file: PathBuf,
    pub socket: PathBuf,
    /// The Engine's unix socket.
    pub docker_socket: PathBuf,
    pub allow: Allow,
    /// Budget for buffers of captures and restores, in bytes.
    pub memory_bytes: usize,
    /// Threads that read, compress and write; half the cores by default.
    pub workers: usize,
    /// The longest a container is kept paused or stopped for a backup.
    pub max_downtime: Duration,
}

/// Settings that cannot be used, with everything that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the settings in {} cannot be read", .file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    allow: Option<Vec<String>>,
    docker_host: Option<String>,
    socket: Option<PathBuf>,
    memory_mib: Option<u32>,
    workers: Option<usize>,
    max_downtime_seconds: Option<u32>,
}

impl Config {
    /// The settings of `run`.
    ///
    /// # Errors
    /// When the file cannot be read or anything in it is wrong.
    pub fn load(args: &RunArgs) -> Result<Self, ConfigError> {
        let mut config = Self::load_state(&args.state)?;
        if let Some(socket) = &args.socket {
            config.socket.clone_from(socket);
        }
        Ok(config)
    }

    /// The settings of a command that does not serve.
    ///
    /// # Errors
    /// When the file cannot be read or anything in it is wrong.
    pub fn load_state(args: &StateArgs) -> Result<Self, ConfigError> {
        let path = args.config.clone().unwrap_or_else(|| args.state_dir.join("config.toml"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A file that was asked for by name has to be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && args.config.is_none() => String::new(),
            Err(source) => return Err(ConfigError::Unreadable { file: path, source }),
        };
        Self::resolve(args, path, &text)
    }

    fn resolve(args: &StateArgs, path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let file: File =
            toml::from_str(text).map_err(|error| ConfigError::Wrong(vec![placed(&path, text, &error)]))?;
        // Problems are gathered, so that one start shows all of them.
        let mut wrong = Vec::new();
        let mut complain = |problem: String| wrong.push(format!("{}: {problem}", path.display()));
        let allow = match &file.allow {
            None => Allow::default(),
            Some(words) => Allow::parse(words.iter().map(String::as_str)).unwrap_or_else(|error| {
                complain(format!("allow: {error}"));
                Allow::default()
            }),
        };
        let memory_mib = file.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
        if memory_mib < MIN_MEMORY_MIB {
            complain(format!(
                "memory_mib: {memory_mib} is too little; {MIN_MEMORY_MIB} is the least that works"
            ));
        }
        let workers = file.workers.unwrap_or_else(half_the_cores);
        if workers == 0 || workers > 256 {
            complain(format!("workers: {workers} is not between 1 and 256"));
        }
        let downtime = file.max_downtime_seconds.unwrap_or(DEFAULT_MAX_DOWNTIME_SECONDS);
        if downtime == 0 {
            complain("max_downtime_seconds: 0 would not let any container be paused or stopped".to_owned());
        }
        let host = args.docker_host.as_deref().or(file.docker_host.as_deref()).unwrap_or(DEFAULT_DOCKER_HOST);
        let docker_socket = docker_socket(host).unwrap_or_else(|problem| {
            complain(format!("docker_host: {problem}"));
            PathBuf::new()
        });
        if !wrong.is_empty() {
            return Err(ConfigError::Wrong(wrong));
        }
        Ok(Self {
            state_dir: args.state_dir.clone(),
            file: path,
            socket: file.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            docker_socket,
            allow,
            memory_bytes: usize::try_from(memory_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20),
            workers,
            max_downtime: Duration::from_secs(downtime.into()),
        })
    }
}

/// Writes `allow` into a settings file and leaves the rest of it as it is, with
/// its mode, its owner and the links that lead to it.
/// Once this returns, a crash takes nothing of it back.
///
/// # Errors
/// When the file cannot be read or written, or is no TOML.
pub(crate) fn write_allow(path: &Path, allow: &Allow) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        io::Error::new(io::ErrorKind::InvalidData, placed(path, &text, &error))
    })?;
    let mut words = toml::Table::new();
    words.insert("allow".to_owned(), allow.words().into());
    let line = words.to_string();
    // Comments and order of the rest are somebody's work: where there is no
    // `allow` yet a line is put first, else the file is written anew.
    let text = if table.contains_key("allow") {
        let mut table = table;
        table.extend(words);
        table.to_string()
    } else {
        format!("{line}{text}")
    };
    durable::replace_content(path, durable::READABLE, text.as_bytes())
}

fn placed(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text[..start];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}: {}", path.display(), error.message())
}

fn docker_socket(host: &str) -> Result<PathBuf, String> {
    match host.strip_prefix("unix://") {
        Some(path) if Path::new(path).is_absolute() => Ok(path.into()),
        _ => Err(format!(
            "`{}` is not unix:// and an absolute path; the agent works beside the Engine's data and only through its socket",
            host.escape_debug()
        )),
    }
}

fn half_the_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn resolve(text: &str) -> Result<Config, String> {
        let args = StateArgs { state_dir: "/state".into(), config: None, docker_host: None };
        Config::resolve(&args, "/state/config.toml".into(), text).map_err(|error| error.to_string())
    }

    /// Key and default of the table in `deploy/OPERATIONS.md`, the default where
    /// it is given as TOML.
    fn documented() -> BTreeMap<String, Option<String>> {
        let document = include_str!("../../deploy/OPERATIONS.md");
        let (_, section) = document.split_once("\n### Agent\n").unwrap();
        let code =
            |cell: &str| cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).map(str::to_owned);
        let rows = section.split("\n#").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        let row = |line: &str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (code(cells[0]).unwrap(), code(cells[1]))
        };
        rows.map(row).collect()
    }

    #[test]
    fn every_key_is_documented_and_its_default_changes_nothing() {
        let error = toml::from_str::<File>("no_such_key = 1").unwrap_err();
        let (_, list) = error.message().split_once("expected one of ").unwrap();
        let known: BTreeSet<&str> = list.split('`').skip(1).step_by(2).collect();
        let documented = documented();
        assert_eq!(documented.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);

        let args = StateArgs { state_dir: "/var/lib/holdfast-agent".into(), config: None, docker_host: None };
        let read = |text: &str| Config::resolve(&args, "config.toml".into(), text).unwrap();
        let mut count = 0;
        for (key, default) in documented.iter().filter_map(|(key, default)| Some((key, default.as_ref()?))) {
            assert_eq!(read(&format!("{key} = {default}")), read(""), "the default of `{key}` is another");
            count += 1;
        }
        assert_eq!(count, known.len() - 1, "only that of `workers` depends on the machine");
        let example = include_str!("../../deploy/examples/agent.toml");
        assert_eq!(read(example), read(""), "the example shows other defaults");
        for key in known {
            assert!(example.contains(&format!("{key} = ")), "the example does not show `{key}`");
        }
    }

    #[test]
    fn an_absent_file_allows_backup_and_restore() {
        let config = resolve("").unwrap();
        assert_eq!(config.allow.words(), ["backup", "restore"]);
        assert_eq!(config.docker_socket, Path::new("/var/run/docker.sock"));
        assert_eq!(config.memory_bytes, 192 << 20);
        assert!(config.workers >= 1);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error = resolve("workers = 2\nalow = [\"backup\"]\n").unwrap_err();
        assert!(error.starts_with("/state/config.toml:2:1: unknown field `alow`"), "{error}");
    }

    #[test]
    fn everything_that_is_wrong_is_listed_at_once() {
        let error = resolve("allow = [\"root\"]\nmemory_mib = 1\ndocker_host = \"tcp://x:1\"\nworkers = 0")
            .unwrap_err();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 4, "{error}");
        assert!(lines[0].contains("`root`") && lines[3].contains("tcp://x:1"), "{error}");
    }

    #[test]
    fn allow_is_written_beside_what_a_file_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        write_allow(&path, &Allow::parse(["backup"]).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "allow = [\"backup\"]\n");
        fs::write(&path, "# ours\nworkers = 3\n").unwrap();
        write_allow(&path, &Allow::parse(["restore", "/srv"]).unwrap()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# ours") && text.contains("allow = [\"restore\", \"/srv\"]"), "{text}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        write_allow(&link, &Allow::default()).unwrap();
        assert!(link.is_symlink(), "it would be a file of its own, that nobody else knows of");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let config = resolve(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!((config.allow, config.workers), (Allow::default(), 3));
    }
}

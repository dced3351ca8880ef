//! `config.toml` of a state directory: everything the controller is told, read
//! once and whole.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_archive::store::StoreConfig;
use serde::{Deserialize, Serialize};

use crate::quota::Quotas;

pub const FILE: &str = "config.toml";

/// Names the address that is bound. One that is there says that a controller
/// has run in the directory.
pub const LISTEN_FILE: &str = "listen";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "there is no controller in {}: is --state-dir right? `holdfast-controller init` makes a new one, \
         `holdfast-controller rebuild` one for a repository that is there",
        .0.display()
    )]
    NoController(PathBuf),
    #[error(
        "{} is gone, and a controller has run there: put it back from a copy, or write it by hand (OPERATIONS.md has \
         every key)",
        .0.display()
    )]
    Gone(PathBuf),
    #[error("{} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a configuration", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

/// As written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// How hosts and operators reach this controller, `host` or `host:port`;
    /// empty means the address that is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// "none" until sealing exists; said, so that nobody assumes otherwise.
    pub crypto: Crypto,
    /// For how many seconds a forgotten snapshot can still be undeleted before
    /// it is removed for good. With 0 the next prune removes it.
    #[serde(default = "default_forget_grace_seconds")]
    pub forget_grace_seconds: u64,
    /// Where snapshots live and how to get there.
    pub repository: StoreConfig,
    /// What one host may add in a day.
    #[serde(default, skip_serializing_if = "Quotas::is_default")]
    pub quotas: Quotas,
}

/// How the repository's contents are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Crypto {
    /// Not at all: whoever reads the store reads the data.
    None,
}

impl Config {
    /// Reads and checks the file of a state directory.
    ///
    /// # Errors
    /// The file is not there, cannot be read, or is no configuration.
    pub fn read(state_dir: &Path) -> Result<Self, ConfigError> {
        let path = state_dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if state_dir.join(LISTEN_FILE).exists() => {
                ConfigError::Gone(path.clone())
            }
            io::ErrorKind::NotFound => ConfigError::NoController(state_dir.to_owned()),
            _ => ConfigError::Read { path: path.clone(), source },
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source: Box::new(source) })
    }

    /// Names and addresses for the controller's certificate.
    pub fn certificate_names(&self) -> Vec<String> {
        self.addresses.iter().map(|address| split_address(address).0.to_owned()).collect()
    }
}

/// Every address of this machine, port 7443.
pub fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7443))
}

/// A week.
pub const fn default_forget_grace_seconds() -> u64 {
    7 * 86_400
}

/// `host:port`, `[v6]:port`, `[v6]`, `host` or a bare IPv6 address, split. Of
/// anything else all is the host, which no certificate can name: it is refused
/// and not cut to what could be meant.
pub fn split_address(address: &str) -> (&str, Option<u16>) {
    let whole = (address, None);
    let (host, port) = match address.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, "")) => return (host, None),
            Some((host, after)) => match after.strip_prefix(':') {
                Some(port) => (host, port),
                None => return whole,
            },
            None => return whole,
        },
        None => match address.rsplit_once(':') {
            // More than one colon without brackets is an IPv6 address without a port.
            Some((host, port)) if !host.contains(':') => (host, port),
            _ => return whole,
        },
    };
    port.parse().map_or(whole, |port| (host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of the table at `path`, as the parser lists them when it meets
    /// another one.
    fn known(path: &str) -> Vec<String> {
        let table = if path.is_empty() { String::new() } else { format!("[{path}]\n") };
        let error = toml::from_str::<Config>(&format!("{table}no_such_key = 1\n")).expect_err("refused");
        let message = error.message().to_owned();
        let (_, list) = message.split_once("expected ").unwrap_or_else(|| panic!("{message}"));
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        list.split('`').skip(1).step_by(2).map(|key| format!("{prefix}{key}")).collect()
    }

    #[test]
    fn every_key_is_documented_and_its_default_changes_nothing() {
        let documented = crate::documented::keys("Controller");
        let tables = ["", "repository", "repository.s3", "quotas"];
        let known: std::collections::BTreeSet<String> = tables.into_iter().flat_map(known).collect();
        assert_eq!(documented.keys().cloned().collect::<std::collections::BTreeSet<_>>(), known);

        let file = "crypto = 'none'\n[repository]\nlocation = '/srv/r'\n";
        let parse =
            |text: &str| toml::from_str::<Config>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for (key, default) in documented.iter().filter_map(|(key, default)| Some((key, default.as_ref()?))) {
            let text = crate::documented::with_key(file, key, default);
            assert_eq!(parse(&text), parse(file), "`{default}` is not the default of `{key}`");
        }
        let example = include_str!("../../deploy/examples/controller.toml");
        let read = parse(example);
        assert_eq!((read.listen, read.quotas), (default_listen(), Quotas::default()));
        assert_eq!(read.forget_grace_seconds, default_forget_grace_seconds());
        for key in &known {
            let name = key.rsplit('.').next().expect("a name");
            assert!(example.contains(name), "the example does not show `{key}`");
        }
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(split_address("c.example:7443"), ("c.example", Some(7443)));
        assert_eq!(split_address("c.example"), ("c.example", None));
        assert_eq!(split_address("[::1]:7443"), ("::1", Some(7443)));
        assert_eq!(split_address("[::1]"), ("::1", None));
        assert_eq!(split_address("::1"), ("::1", None));
        for none in
            ["[::1]junk", "[::1]7443", "[::1]:", "[::1]:junk", "[::1]:99999", "[::1", "c.example:junk"]
        {
            assert_eq!(split_address(none), (none, None));
        }
    }

    #[test]
    fn a_configuration_survives_its_file_and_refuses_unknown_keys() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let config = Config {
            listen: default_listen(),
            addresses: vec!["c".to_owned()],
            crypto: Crypto::None,
            forget_grace_seconds: 60,
            repository: StoreConfig::new("/srv/repository".parse().expect("a place")),
            quotas: Quotas { packs_per_day: 7, ..Quotas::default() },
        };
        let text = toml::to_string(&config).expect("serialises");
        std::fs::write(dir.path().join(FILE), &text).expect("written");
        assert_eq!(Config::read(dir.path()).expect("read"), config);
        let without = text.replace("forget_grace_seconds = 60\n", "");
        std::fs::write(dir.path().join(FILE), without).expect("written");
        let grace = Config::read(dir.path()).expect("read").forget_grace_seconds;
        assert_eq!(grace, default_forget_grace_seconds(), "a file that does not say it means a week");
        std::fs::write(dir.path().join(FILE), format!("listen = 1\n{text}")).expect("written");
        assert!(matches!(Config::read(dir.path()), Err(ConfigError::Parse { .. })));
    }
}

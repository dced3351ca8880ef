//! Contexts: the controllers an operator talks to, in
//! `~/.config/holdfast/config.toml`. Secrets are not in it, only the names of
//! the files that hold them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::GlobalArgs;
use crate::error::{CliError, ErrorCode, Result};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// host:port
    pub address: String,
    pub ca_file: PathBuf,
    pub token_file: PathBuf,
}

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Controller(Context),
    Socket(PathBuf),
}

fn path() -> Result<PathBuf> {
    std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|dir| dir.join("holdfast/config.toml"))
        .ok_or_else(|| {
            CliError::usage("neither XDG_CONFIG_HOME nor HOME is set: there is no place for contexts")
        })
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // Of a link the file behind it: somebody keeps that elsewhere on purpose.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    // In the same folder, so that the rename stays on one filesystem; synced first, so that the
    // name never leads to an empty file.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    if let Ok(before) = std::fs::metadata(&path) {
        // A temporary file is its owner's alone; the one it replaces may be for a group.
        file.as_file().set_permissions(before.permissions())?;
    }
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(&path).map(drop).map_err(|error| error.error)
}

// === impl Config ===

impl Config {
    /// What the file holds; nothing when there is none.
    ///
    /// # Errors
    /// The file cannot be read or is none of ours; the error has the line.
    pub fn load() -> Result<Self> {
        let path = path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            // Options alone name a controller, too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(CliError::io(&path.display().to_string(), &error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            CliError::usage(format!("{}:{line}: {}", path.display(), error.message()))
        })
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new.
    /// It keeps its mode, and a link that leads to it.
    ///
    /// # Errors
    /// The file or its folder cannot be written. What was there is left.
    pub fn save(&self) -> Result<()> {
        let path = path()?;
        let text = toml::to_string(self).map_err(|error| CliError::failed(error.to_string()))?;
        replace(&path, &text).map_err(|error| CliError::io(&path.display().to_string(), &error))
    }

    /// Flags first, then the named context, then the current one.
    ///
    /// # Errors
    /// A context that is not known, or something that neither flags nor context give; the
    /// hint says which option it is.
    pub fn target(&self, flags: &GlobalArgs) -> Result<Target> {
        if let Some(socket) = &flags.socket {
            return Ok(Target::Socket(socket.clone()));
        }
        let named = flags.context.as_ref().or(self.current.as_ref());
        // A context that was asked for and is not there is an error, also where the options would
        // do without it: it was meant.
        let base = match named {
            Some(name) => Some(self.contexts.get(name).ok_or_else(|| self.unknown(name))?),
            None => None,
        };
        let pick = |flag: &Option<PathBuf>, of: fn(&Context) -> &PathBuf| {
            flag.clone().or_else(|| base.map(of).cloned())
        };
        let address = flags.controller.clone().or_else(|| base.map(|context| context.address.clone()));
        // Each of the three may come from an option or from the context; what is missing is named
        // by its option.
        match (address, pick(&flags.ca_file, |c| &c.ca_file), pick(&flags.token_file, |c| &c.token_file)) {
            (Some(address), Some(ca_file), Some(token_file)) => {
                Ok(Target::Controller(Context { address, ca_file, token_file }))
            }
            (None, _, _) => Err(CliError::usage("no controller is named").hint(
                "holdfast context add NAME --controller HOST:PORT --ca-file FILE --token-file FILE, \
                 or --socket PATH at a host's own agent",
            )),
            (_, None, _) => Err(CliError::usage("--ca-file is missing: the controller's CA certificate")
                .hint("it is ca.crt in the controller's state directory: copy it from there")),
            (_, _, None) => Err(CliError::usage("--token-file is missing: the file that holds your token")
                .hint("on the controller's machine: holdfast-controller token create YOU --role ROLE --file FILE")),
        }
    }

    pub fn unknown(&self, name: &str) -> CliError {
        let near = holdfast_archive::text::did_you_mean(name, self.contexts.keys().map(String::as_str));
        CliError::new(ErrorCode::ContextUnknown, format!("context `{name}` is not known{near}"))
            .hint("holdfast context ls")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn flags(args: &[&str]) -> GlobalArgs {
        Cli::parse_from(["holdfast", "host", "ls"].iter().chain(args)).global
    }

    fn config() -> Config {
        let text = "current = \"home\"\n[contexts.home]\naddress = \"c:1\"\nca_file = \"/ca\"\ntoken_file = \"/t\"\n";
        Config::parse(text, Path::new("config.toml")).expect("parses")
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode_and_the_link_to_it() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};

        let dir = tempfile::tempdir().expect("temporary folder");
        let (file, link) = (dir.path().join("file"), dir.path().join("config.toml"));
        std::fs::write(&file, "").expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("set");
        symlink("file", &link).expect("made");
        replace(&link, "new").expect("replaced");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "new");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
        let first = dir.path().join("holdfast/config.toml");
        replace(&first, "first").expect("made with its folder");
        assert_eq!(std::fs::read_to_string(&first).expect("read"), "first");
    }

    #[test]
    fn flags_go_before_the_context() {
        let Target::Controller(context) =
            config().target(&flags(&["--controller", "other:2"])).expect("target")
        else {
            panic!("a controller was expected")
        };
        assert_eq!((context.address.as_str(), context.ca_file.as_path()), ("other:2", Path::new("/ca")));
        let target = config().target(&flags(&["--socket", "/s"])).expect("target");
        assert_eq!(target, Target::Socket("/s".into()));
    }

    #[test]
    fn what_is_missing_or_misspelt_is_named() {
        let error = Config::default().target(&flags(&[])).expect_err("no controller");
        assert!(error.hint.expect("a hint").contains("context add"));
        let error = config().target(&flags(&["--context", "hom"])).expect_err("unknown");
        assert_eq!(error.message, "context `hom` is not known; did you mean `home`?");
        let error = Config::parse("current = 1\nfoo = 2\n", Path::new("c.toml")).expect_err("bad");
        assert!(error.message.starts_with("c.toml:1:"), "{}", error.message);
    }
}

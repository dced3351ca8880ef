//! What `init` and `rebuild` are told, as a configuration that means the same
//! wherever the controller is started from, and what else has to be done for a
//! service of its own.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_archive::store::{Location, S3Options, StoreConfig};

use crate::args::InitArgs;
use crate::config::{Config, default_forget_grace_seconds};
use crate::quota::Quotas;

/// Directories that the systemd unit hides from the controller.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// Where drop-ins of the controller's unit lie.
const DROP_INS: &str = "/etc/systemd/system/holdfast-controller.service.d";

/// Why the arguments are no configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(
        "no address is given, and tokens for hosts would name `{listen}`, where nobody can reach it: add --address NAME:{}, a name or IP address of this machine",
        .listen.port()
    )]
    NoAddress { listen: std::net::SocketAddr },
    #[error("the current directory, below which {} would be, is not known", .path.display())]
    Relative { path: PathBuf, source: io::Error },
}

/// The configuration that the arguments ask for. Paths are made absolute: a
/// service is started in `/`.
///
/// # Errors
/// When hosts could not reach the controller, or a relative path has no place.
pub fn config_of(args: InitArgs) -> Result<Config, SetupError> {
    if args.addresses.is_empty() && args.listen.ip().is_unspecified() {
        return Err(SetupError::NoAddress { listen: args.listen });
    }
    let s3 = S3Options {
        endpoint: args.s3_endpoint,
        region: args.s3_region,
        credentials_file: absolute(args.s3_credentials_file)?,
        profile: args.s3_profile,
        ca_file: absolute(args.s3_ca_file)?,
        allow_http: args.s3_allow_http,
    };
    Ok(Config {
        listen: args.listen,
        addresses: args.addresses,
        crypto: args.crypto,
        forget_grace_seconds: default_forget_grace_seconds(),
        repository: StoreConfig { location: args.repository, s3 },
        quotas: Quotas::default(),
    })
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, SetupError> {
    let made =
        path.map(|path| std::path::absolute(&path).map_err(|source| SetupError::Relative { path, source }));
    made.transpose()
}

/// What the systemd unit of `deploy/` still needs for this configuration, a
/// paragraph each.
pub fn unit_needs(state_dir: &Path, config: &Config) -> Vec<String> {
    let mut needs = Vec::new();
    // The unit lets the controller write to its state directory, and nowhere else.
    if let Location::Directory(path) = &config.repository.location
        && !path.starts_with(state_dir)
    {
        needs.push(format!(
            "under systemd the controller may write to its state directory only; for this repository, as root:\n  \
             mkdir -p {DROP_INS}\n  \
             printf '[Service]\\nReadWritePaths=%s\\n' '{}' > {DROP_INS}/repository.conf\n  \
             systemctl daemon-reload",
            path.display()
        ));
    }
    let s3 = &config.repository.s3;
    let files = [&s3.credentials_file, &s3.ca_file].into_iter().flatten();
    for file in files.filter(|file| HIDDEN.iter().any(|hidden| file.starts_with(hidden))) {
        needs.push(format!(
            "under systemd the controller sees nothing below {}: move {} into the state directory, and change its path in {}",
            HIDDEN.join(", "),
            file.display(),
            state_dir.join(crate::config::FILE).display()
        ));
    }
    needs
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(more: &[&str]) -> InitArgs {
        let line = ["holdfast-controller", "init", "--crypto", "none"];
        let cli = Cli::try_parse_from(line.iter().chain(more)).expect("arguments");
        let Command::Init(args) = cli.command else { panic!("init") };
        args
    }

    #[test]
    fn without_an_address_hosts_would_be_told_one_that_nobody_can_reach() {
        let error = config_of(args(&["--repository", "/srv/r"])).expect_err("refused").to_string();
        assert!(error.contains("--address NAME:7443"), "{error}");
        let listen = ["--repository", "/srv/r", "--listen", "10.0.0.1:7443"];
        assert!(config_of(args(&listen)).expect("an address of its own").addresses.is_empty());
        assert!(config_of(args(&["--repository", "/srv/r", "--address", "c.example"])).is_ok());
    }

    #[test]
    fn relative_paths_are_kept_absolute() {
        let more = [
            "--repository",
            "s3://b/p",
            "--address",
            "c",
            "--s3-credentials-file",
            "keys",
            "--s3-ca-file",
            "/ca.pem",
        ];
        let s3 = config_of(args(&more)).expect("a configuration").repository.s3;
        let here = std::env::current_dir().expect("a current directory");
        assert_eq!((s3.credentials_file, s3.ca_file), (Some(here.join("keys")), Some("/ca.pem".into())));
    }

    #[test]
    fn what_the_unit_would_refuse_or_hide_is_told() {
        let state = Path::new("/var/lib/holdfast-controller");
        let needs = |more: &[&str]| {
            let all: Vec<&str> = more.iter().copied().chain(["--address", "c"]).collect();
            unit_needs(state, &config_of(args(&all)).expect("a configuration"))
        };
        let outside = needs(&["--repository", "/srv/holdfast"]);
        assert!(
            outside.len() == 1
                && outside[0].contains("ReadWritePaths=%s\\n' '/srv/holdfast' > /etc/systemd/system/"),
            "{outside:?}"
        );
        assert!(needs(&["--repository", "/var/lib/holdfast-controller/repository"]).is_empty());
        let hidden = needs(&["--repository", "s3://b/p", "--s3-credentials-file", "/root/keys"]);
        assert!(hidden.len() == 1 && hidden[0].contains("move /root/keys"), "{hidden:?}");
        assert!(
            needs(&["--repository", "s3://b/p", "--s3-credentials-file", "/etc/holdfast/keys"]).is_empty()
        );
    }
}

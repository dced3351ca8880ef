//! `holdfast repo`, as types.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum RepoCommand {
    /// See whether a store can hold a repository: writes, reads, lists and removes small objects.
    Check {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List snapshots.
    Ls {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// List what is in a snapshot.
    Browse {
        #[command(flatten)]
        repository: RepositoryArgs,
        /// Snapshot: an id, or [host/]source[@latest|@#number].
        snapshot: String,
        path: Option<String>,
        #[arg(long, short = 'R')]
        recursive: bool,
    },
    /// Prove that everything stored is there and intact.
    Verify {
        #[command(flatten)]
        repository: RepositoryArgs,
        /// Only lengths, snapshots and references; read no data.
        #[arg(long)]
        quick: bool,
    },
    /// Restore a snapshot into a directory of this machine.
    Restore(RepoRestoreArgs),
    /// Have the controller delete what no snapshot needs; this is the one that needs the controller.
    Prune {
        /// Only say what would go.
        #[arg(long)]
        plan: bool,
        /// Start it and return.
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub struct RepoRestoreArgs {
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// Snapshot: an id, or [host/]source[@latest|@#number].
    pub snapshot: String,
    /// Only these paths inside the snapshot.
    pub paths: Vec<String>,
    /// Directory, absent or empty.
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
    /// Restore device nodes.
    #[arg(long)]
    pub devices: bool,
    /// Restore setuid and setgid bits.
    #[arg(long)]
    pub setuid: bool,
    /// Fail where the target cannot hold something, instead of listing it.
    #[arg(long)]
    pub strict: bool,
    /// Leave out files of which the repository has lost something, and list them, instead of failing.
    #[arg(long)]
    pub salvage: bool,
}

/// Where a repository is, for work without a controller.
#[derive(Debug, Clone, Args)]
pub struct RepositoryArgs {
    /// s3://bucket/prefix or an absolute path.
    #[arg(long, value_name = "LOCATION", env = "HOLDFAST_REPOSITORY")]
    pub repository: String,
    /// URL of the S3 service.
    #[arg(long, value_name = "URL", env = "HOLDFAST_S3_ENDPOINT")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket [default: us-east-1].
    #[arg(long, value_name = "NAME", env = "HOLDFAST_S3_REGION")]
    pub s3_region: Option<String>,
    /// File with the access key and the secret key.
    #[arg(long, value_name = "FILE", env = "HOLDFAST_S3_CREDENTIALS_FILE")]
    pub s3_credentials_file: Option<PathBuf>,
    /// Profile in that file [default: default].
    #[arg(long, value_name = "NAME", env = "HOLDFAST_S3_PROFILE")]
    pub s3_profile: Option<String>,
    /// CA certificate of the S3 service (PEM).
    #[arg(long, value_name = "FILE", env = "HOLDFAST_S3_CA_FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// Let the URL be http:// on another machine: nothing on the way is encrypted then.
    #[arg(long, env = "HOLDFAST_S3_ALLOW_HTTP")]
    pub s3_allow_http: bool,
}

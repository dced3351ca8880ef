//! Where a fleet's repository lies, and how a command is told.

use std::path::Path;
use std::process::Command;

/// Where the repository lies.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory of the fleet's own.
    Directory,
    S3 {
        endpoint: String,
        bucket: String,
        region: String,
        access_key: String,
        secret_key: String,
    },
}

impl Place {
    /// Names the repository to a command. A directory has to be given to it, and
    /// the file in which the keys of a bucket lie.
    pub(super) fn name_to(&self, command: &mut Command, directory: &Path, credentials: &Path) {
        match self {
            Self::Directory => command.arg("--repository").arg(directory),
            Self::S3 { endpoint, bucket, region, .. } => {
                command.args(["--repository", &format!("s3://{bucket}/fleet"), "--s3-endpoint", endpoint]);
                command.args(["--s3-region", region]).arg("--s3-credentials-file").arg(credentials)
            }
        };
    }
}

//! Where a repository lies and how it is reached: what settings files hold.
//!
//! Secrets are not among it: the settings name a file, and only opening the
//! store reads it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no place for a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no place for a repository: {cause}; give s3://bucket/prefix or an absolute path")]
pub struct InvalidLocation {
    text: String,
    cause: &'static str,
}

/// The place of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Location {
    Directory(PathBuf),
    /// The prefix is empty or ends in no slash.
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let invalid = |cause| InvalidLocation { text: text.to_owned(), cause };
        let Some(rest) = text.strip_prefix("s3://") else {
            if text.contains("://") {
                return Err(invalid("the scheme is not known"));
            }
            let path = PathBuf::from(text);
            let plain = path.components().all(|part| part != std::path::Component::ParentDir);
            return match (path.is_absolute(), plain) {
                (true, true) => Ok(Self::Directory(path)),
                (true, false) => Err(invalid("it contains `..`")),
                (false, _) => Err(invalid("the path is not absolute")),
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let in_bucket_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || !bucket.chars().all(in_bucket_name) {
            return Err(invalid("the bucket name is missing or has characters no bucket name has"));
        }
        if prefix.split('/').any(|part| part.is_empty() && !prefix.is_empty() || matches!(part, "." | "..")) {
            return Err(invalid("the prefix has an empty part, `.` or `..`"));
        }
        let in_prefix = |c: char| in_bucket_name(c) || c == '/';
        if !prefix.chars().all(in_prefix) {
            return Err(invalid("the prefix may have only letters, digits, `-`, `.`, `_` and `/`"));
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = InvalidLocation;

    fn try_from(text: String) -> Result<Self, InvalidLocation> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

/// How an S3 store is reached. All have to do with `s3://` places only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Options {
    /// `https://host[:port]`; without it AWS, in the region given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Without it `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A profile in the form of AWS, or two lines: access key and secret key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// Which profile of that file; without it `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// PEM certificates trusted instead of the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Lets `endpoint` be `http://` on another machine than this: whoever is on
    /// the way then reads and changes what is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,
}

/// A repository's place and the way to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    pub location: Location,
    #[serde(default)]
    pub s3: S3Options,
}

impl StoreConfig {
    pub fn new(location: Location) -> Self {
        Self { location, s3: S3Options::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_back() {
        for text in ["/srv/backup", "s3://bucket", "s3://bucket/a/b", "s3://my-bucket.example/pre_fix"] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        let with_slash: Location = "s3://bucket/a/".parse().unwrap();
        assert_eq!(with_slash, Location::S3 { bucket: "bucket".into(), prefix: "a".into() });
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_cause() {
        for text in [
            "",
            "backup",
            "./x",
            "/srv/../etc",
            "s3://",
            "s3:///x",
            "s3://b/a//b",
            "s3://b/../x",
            "s3://b c",
            "http://x/y",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert!(error.to_string().contains("give s3://bucket/prefix"), "{error}");
        }
    }

    #[test]
    fn settings_survive_a_file() {
        let config = StoreConfig {
            location: "s3://bucket/prefix".parse().unwrap(),
            s3: S3Options {
                endpoint: Some("http://127.0.0.1:3900".into()),
                credentials_file: Some("/etc/holdfast/s3".into()),
                ..S3Options::default()
            },
        };
        let text = serde_json::to_string(&config).unwrap();
        assert!(!text.contains("ca_file"), "{text}");
        assert_eq!(serde_json::from_str::<StoreConfig>(&text).unwrap(), config);
    }
}

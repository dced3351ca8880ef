//! The file an S3 access key is kept in.
//!
//! Two forms are read: the profile file of the AWS tools, and two bare lines.
//! Keys are never taken from arguments, and not from the environment either:
//! a program must not pick up whatever key happens to be exported.

use std::path::Path;

use aws_sdk_s3::config::Credentials;
use secrecy::{ExposeSecret, SecretString};

use crate::secret_file::{self, SecretFileError};
use crate::store::{StoreError, StoreErrorKind};

#[derive(Debug)]
pub(super) struct AccessKey {
    id: String,
    secret: SecretString,
    session_token: Option<SecretString>,
}

impl AccessKey {
    pub(super) fn read(path: &Path, profile: Option<&str>) -> Result<Self, StoreError> {
        let text = secret_file::read(path).map(SecretString::from).map_err(|error| {
            let text = match &error {
                SecretFileError::Read { source, .. } => format!("the S3 credentials file {error}: {source}"),
                SecretFileError::Open { .. } => format!("the S3 credentials file {error}"),
            };
            StoreError::new(StoreErrorKind::Auth, text).caused_by(error)
        })?;
        Self::parse(text.expose_secret(), profile).map_err(|cause| {
            StoreError::new(
                StoreErrorKind::Auth,
                format!(
                    "the S3 credentials file {} {cause}; write two lines, access key and secret key, or a profile with aws_access_key_id and aws_secret_access_key",
                    path.display()
                ),
            )
        })
    }

    fn parse(text: &str, profile: Option<&str>) -> Result<Self, String> {
        let lines =
            || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        if !lines().any(|line| line.starts_with('[') || line.contains(" = ") || line.starts_with("aws_")) {
            let bare: Vec<&str> = lines().collect();
            return match bare[..] {
                [id, secret] => Ok(Self::new(id, secret, None)),
                _ => Err(format!("has {} lines", bare.len())),
            };
        }
        let profile = profile.unwrap_or("default");
        let mut inside = !lines().any(|line| line.starts_with('['));
        let (mut id, mut secret, mut token) = (None, None, None);
        for line in lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                inside = name.trim().trim_start_matches("profile ") == profile;
            } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
                match name.trim() {
                    "aws_access_key_id" => id = Some(value.trim()),
                    "aws_secret_access_key" => secret = Some(value.trim()),
                    "aws_session_token" => token = Some(value.trim()),
                    _ => {}
                }
            }
        }
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(Self::new(id, secret, token)),
            _ => Err(format!("has no complete profile `{profile}`")),
        }
    }

    fn new(id: &str, secret: &str, session_token: Option<&str>) -> Self {
        Self { id: id.to_owned(), secret: secret.into(), session_token: session_token.map(Into::into) }
    }

    pub(super) fn for_client(&self) -> Credentials {
        let token = self.session_token.as_ref().map(|token| token.expose_secret().to_owned());
        Credentials::new(&self.id, self.secret.expose_secret(), token, None, "file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let bare = AccessKey::parse("# key of the backup user\nGKabc\ns3cr=t/\n", None).unwrap();
        assert_eq!((bare.id.as_str(), bare.secret.expose_secret()), ("GKabc", "s3cr=t/"));
        let text = "[other]\naws_access_key_id=X\n[default]\naws_access_key_id = A\naws_secret_access_key = B\n\
                    aws_session_token = T\n";
        let profile = AccessKey::parse(text, None).unwrap();
        assert_eq!((profile.id.as_str(), profile.secret.expose_secret()), ("A", "B"));
        assert_eq!(profile.session_token.unwrap().expose_secret(), "T");
        assert!(AccessKey::parse(text, Some("other")).unwrap_err().contains("`other`"));
        assert!(AccessKey::parse("one line", None).is_err());
    }

    #[test]
    fn the_secret_is_not_printed() {
        let key = AccessKey::parse("GKabc\nhush\n", None).unwrap();
        assert!(!format!("{key:?} {:?}", key.for_client()).contains("hush"));
    }
}

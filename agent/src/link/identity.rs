//! What a host got by joining: key, certificate, the controller's CA and where
//! it listens. One file, replaced as a whole: a renewal that is cut off leaves
//! the old pair or the new one, never a key without its certificate.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use holdfast_archive::secret_file::{self, SecretFileError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::durable;
use crate::store_pin::StorePin;

const FILE: &str = "identity.json";

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{} could not be {action}", path.display())]
    File { path: PathBuf, action: &'static str, source: io::Error },
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("{} is not what `holdfast-agent join` writes", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the {0} in this host's identity cannot be read")]
    Certificate(&'static str),
    #[error("this host's identity cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}

/// A host's identity to its controller. The key never shows in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub host_id: String,
    pub host_name: String,
    /// `host:port` of the controller, tried in order.
    pub addresses: Vec<String>,
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
    /// Where this host sends packs by itself; without it, all go through the
    /// controller. It stands here since the host joined, and nothing the
    /// controller says later changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StorePin>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without key and certificates: this form ends up in logs.
        f.debug_struct("Identity")
            .field("host_id", &self.host_id)
            .field("host_name", &self.host_name)
            .field("addresses", &self.addresses)
            .field("store", &self.store.as_ref().map(StorePin::url))
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity in `state_dir`; none, if the host has not joined.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = state_dir.join(FILE);
        let text = match secret_file::read(&path) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_str(&text).map(Some).map_err(|source| IdentityError::Parse { path, source })
    }

    /// What tells without reading it that the file is another one than before;
    /// none while there is no file.
    pub(super) fn stamp(state_dir: &Path) -> Option<Stamp> {
        let meta = fs::metadata(state_dir.join(FILE)).ok()?;
        Some(Stamp { inode: meta.ino(), length: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// Writes the identity so that a crash leaves the old one or this one.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let _lock = lock(state_dir)?;
        self.write(state_dir)
    }

    /// Like [`Identity::save`], if the identity there is still `old`: a host
    /// that joins anew while its old certificate is renewed must keep what it
    /// got by joining. False: it was another one, and nothing was written.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn replace(&self, old: &Self, state_dir: &Path) -> Result<bool, IdentityError> {
        // Held over look and write: a `join` in between would be overwritten.
        let _lock = lock(state_dir)?;
        if Self::load(state_dir)?.as_ref() != Some(old) {
            return Ok(false);
        }
        self.write(state_dir)?;
        Ok(true)
    }

    /// Forgets the identity. False: there was none.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(crate) fn remove(state_dir: &Path) -> Result<bool, IdentityError> {
        let path = state_dir.join(FILE);
        // Before the lock, which would make the directory of a host that never joined.
        if !path.exists() {
            return Ok(false);
        }
        let _lock = lock(state_dir)?;
        let remove = || {
            fs::remove_file(&path)?;
            durable::sync_directory(state_dir)
        };
        remove().map(|()| true).map_err(|source| IdentityError::File {
            path: path.clone(),
            action: "removed",
            source,
        })
    }

    fn write(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let path = state_dir.join(FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| IdentityError::Parse { path: path.clone(), source })?;
        durable::replace(&path, durable::OWNER_ONLY, text.as_bytes()).map_err(|source| IdentityError::File {
            path,
            action: "written",
            source,
        })
    }

    /// First and last second at which the certificate counts, since the Unix
    /// epoch.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub(crate) fn validity(&self) -> Result<(i64, i64), IdentityError> {
        let unreadable = || IdentityError::Certificate("certificate");
        let der =
            CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|_| unreadable())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
        let validity = parsed.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }
}

/// Of the identity's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

/// One writer at a time; makes the directory. The lock goes with the file.
fn lock(state_dir: &Path) -> Result<fs::File, IdentityError> {
    let path = state_dir.join("identity.lock");
    let lock = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        let file = durable::lock_file(&path)?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|source| IdentityError::File { path: path.clone(), action: "locked", source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn is_kept_to_its_owner_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(Identity::load(&state).unwrap().is_none());
        let mut identity = Identity {
            host_id: "h".to_owned(),
            host_name: "web-1".to_owned(),
            addresses: vec!["c:1".to_owned()],
            ca_pem: String::new(),
            certificate_pem: String::new(),
            key_pem: "secret".to_owned(),
            store: None,
        };
        identity.save(&state).unwrap();
        identity.certificate_pem = "new".to_owned();
        identity.save(&state).unwrap();
        assert_eq!(Identity::load(&state).unwrap(), Some(identity.clone()));
        let mode = fs::metadata(state.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{identity:?}").contains("secret"));
        let renewed = Identity { certificate_pem: "renewed".to_owned(), ..identity.clone() };
        let joined = Identity { host_id: "other".to_owned(), ..identity.clone() };
        assert!(renewed.replace(&identity, &state).unwrap());
        assert!(!joined.replace(&identity, &state).unwrap(), "somebody else was faster");
        assert_eq!(Identity::load(&state).unwrap(), Some(renewed));
        let pinned = StorePin::new("https://store.example/bucket", "").unwrap();
        let pinned = Identity { store: Some(pinned), ..joined.clone() };
        pinned.save(&state).unwrap();
        assert_eq!(Identity::load(&state).unwrap(), Some(pinned));
        let stamp = Identity::stamp(&state);
        joined.save(&state).unwrap();
        assert_ne!(Identity::stamp(&state), stamp);
        assert!(Identity::remove(&state).unwrap() && !Identity::remove(&state).unwrap());
        assert!(Identity::load(&state).unwrap().is_none() && Identity::stamp(&state).is_none());
        fs::write(state.join(FILE), "{").unwrap();
        fs::set_permissions(state.join(FILE), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Identity::load(&state), Err(IdentityError::Parse { .. })));
        fs::set_permissions(state.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load(&state), Err(IdentityError::Secret(_))));
    }

    #[test]
    fn v10_an_identity_of_before_has_no_place_for_packs() {
        let text = r#"{ "host_id": "h", "host_name": "n", "addresses": [], "ca_pem": "", "certificate_pem": "",
            "key_pem": "" }"#;
        assert_eq!(serde_json::from_str::<Identity>(text).unwrap().store, None);
    }
}

//! `holdfast-controller init`: a state directory from nothing.
//!
//! `config.toml` is written last: a directory without one was never finished,
//! and init may run there again; one with it is refused, because a second CA
//! would lock every host out.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_archive::keys::ObjectKey;
use holdfast_archive::repository::{self as archive, CryptoMode, InitOptions, Repository};
use holdfast_archive::secret_file;
use holdfast_archive::store::{RetryPolicy, Store, StoreError};
use secrecy::{ExposeSecret as _, SecretString};

use crate::catalog::audit::{AuditEntry, Outcome};
use crate::catalog::operators::NewOperator;
use crate::catalog::{Catalog, CatalogError, catalog_url};
use crate::clock::now_ms;
use crate::config::{Config, Crypto, FILE, LISTEN_FILE};
use crate::identity::ca::{Authority, AuthorityError};
use crate::identity::token;
use crate::model::caller::{HostScope, Role};
use crate::repository::{Rebuilt, RepositoryError, Settings};
use crate::succession::{self, TakenOver};

/// The operator that init makes.
pub const FIRST_OPERATOR: &str = "admin";

/// The file with the first token.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// The setting that holds this controller's id, which owns the repository.
pub const CONTROLLER_ID: &str = "controller_id";

/// Why nothing, or not everything, was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{} already holds a controller; nothing was changed", .0.display())]
    Exists(PathBuf),
    #[error(
        "a controller has run in {dir}, which has lost its {FILE}; nothing was changed: put that file back from a \
         copy, or write it by hand (OPERATIONS.md has every key); where all is lost, move {dir} away and run \
         `holdfast-controller rebuild`",
        dir = .0.display()
    )]
    HasRun(PathBuf),
    #[error("{} could not be {action}", path.display())]
    File { path: PathBuf, action: &'static str, source: io::Error },
    #[error("the certificate authority could not be made")]
    Authority(#[from] AuthorityError),
    #[error("the catalogue could not be made")]
    Catalog(#[from] CatalogError),
    #[error("the repository's place cannot be used")]
    Store(#[from] StoreError),
    #[error("the repository could not be made")]
    Repository(#[from] holdfast_archive::repository::InitError),
    #[error("the catalogue could not be made from the repository")]
    Rebuild(#[from] Box<RepositoryError>),
    #[error("the configuration could not be written as TOML")]
    Config(#[from] toml::ser::Error),
}

/// Makes the state directory and everything in it, and the repository.
///
/// # Errors
/// A controller is or was there, a file cannot be written, or the repository's
/// place is taken or out of reach.
pub async fn init(state_dir: &Path, config: &Config) -> Result<(), InitError> {
    let catalog = make_state(state_dir, config).await?;
    make_repository(&catalog, config, now_ms()).await?;
    // Last: a directory with a configuration is one that can be run.
    write_config(&state_dir.join(FILE), config)
}

/// Makes the state directory around a repository whose controller was lost:
/// the catalogue comes from the bucket, which is this controller's from now
/// on. Hosts join again under their old names; policies are applied again.
///
/// # Errors
/// A controller is or was there, a file cannot be written, or the bucket is out
/// of reach or no repository.
pub async fn rebuild(state_dir: &Path, config: &Config) -> Result<(Rebuilt, TakenOver), InitError> {
    let catalog = make_state(state_dir, config).await?;
    let owner = controller_id(&catalog).await?;
    let store = Store::open(&config.repository)?;
    // Somebody waits at a terminal: a place that is misspelt or down is told
    // within seconds. The reading of hours outlasts a bad minute.
    let first = store.clone().with_retry(RetryPolicy::interactive());
    match first.get(&ObjectKey::Repository).await {
        // What is missing there is told by whoever reads it.
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let repository = crate::repository::Repository::new(catalog.clone(), store, Settings::default());
    let rebuilt = repository.reconcile(Some(&owner), false).await.map_err(Box::new)?;
    // Before this controller runs: it would write its own, empty ones there.
    let taken_over = succession::take_over(&catalog, &repository).await.map_err(Box::new)?;
    write_config(&state_dir.join(FILE), config)?;
    Ok((rebuilt, taken_over))
}

async fn make_state(state_dir: &Path, config: &Config) -> Result<Catalog, InitError> {
    if state_dir.join(FILE).exists() {
        return Err(InitError::Exists(state_dir.to_owned()));
    }
    // What an earlier init left that was cut off never ran, and begins anew. Where
    // one has run, hosts know its CA: a new one would lock them all out.
    if state_dir.join(LISTEN_FILE).exists() {
        return Err(InitError::HasRun(state_dir.to_owned()));
    }
    let file = |action| move |source| InitError::File { path: state_dir.to_owned(), action, source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(file("made"))?;
    // The directory may have been there, and open.
    fs::set_permissions(state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(file("closed to others"))?;
    let now = now_ms();
    let authority = Authority::create(state_dir, now)?;
    // Tells about an address that no certificate can name while all is new.
    authority.issue_server(&config.certificate_names(), now)?;
    let catalog = Catalog::open(&catalog_url(state_dir)).await?;
    let first =
        Grant { name: FIRST_OPERATOR, role: Role::Admin, hosts: HostScope::default(), lifetime: None };
    let token = create_operator(&catalog, &first, "init").await?;
    write_secret(&state_dir.join(ADMIN_TOKEN_FILE), &token, true)?;
    Ok(catalog)
}

async fn controller_id(catalog: &Catalog) -> Result<String, CatalogError> {
    if let Some(owner) = catalog.setting(CONTROLLER_ID).await? {
        return Ok(owner);
    }
    let owner = ulid::Ulid::generate().to_string();
    catalog.set_setting(CONTROLLER_ID, &owner).await?;
    Ok(owner)
}

/// The owner is written into the repository before it is used, so that no
/// other controller deletes from it. One that is there and ours is what an
/// earlier init that was cut off has left.
async fn make_repository(catalog: &Catalog, config: &Config, now_ms: i64) -> Result<(), InitError> {
    let owner = controller_id(catalog).await?;
    let crypto = match config.crypto {
        Crypto::None => CryptoMode::None,
    };
    // Somebody waits at a terminal.
    let store = Store::create(&config.repository)?.with_retry(RetryPolicy::interactive());
    let options = InitOptions { owner: owner.clone(), created_unix_ms: now_ms, crypto };
    match Repository::init(store.clone(), options).await {
        Ok(_) => Ok(()),
        // Asked once more it would only take as long again.
        Err(error @ archive::InitError::Store(_)) => Err(error.into()),
        Err(error) => match Repository::open(store).await {
            Ok(repository) if repository.info().owner == owner => Ok(()),
            Ok(_) | Err(_) => Err(error.into()),
        },
    }
}

/// What a token is to be good for.
#[derive(Debug, Clone)]
pub struct Grant<'a> {
    pub name: &'a str,
    pub role: Role,
    /// The hosts it is limited to.
    pub hosts: HostScope,
    /// From now on; `None`: for ever.
    pub lifetime: Option<Duration>,
}

/// Makes, or replaces, an operator's token and returns the only copy.
///
/// # Errors
/// The catalogue fails.
pub async fn create_operator(
    catalog: &Catalog,
    grant: &Grant<'_>,
    actor: &str,
) -> Result<SecretString, CatalogError> {
    let Grant { name, role, hosts, lifetime } = grant;
    let token = token::generate_operator_token();
    let now = now_ms();
    let ms = |lifetime: &Duration| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
    let expires_ms = lifetime.as_ref().map(|lifetime| now.saturating_add(ms(lifetime)));
    let subject = format!("operator={name}");
    let mut detail = role.as_str().to_owned();
    if !hosts.is_everything() {
        detail.push_str(&format!(", hosts with {hosts}"));
    }
    if let Some(lifetime) = lifetime {
        detail.push_str(&format!(", for {} days", lifetime.as_secs() / 86_400));
    }
    let entry = AuditEntry {
        at_ms: now,
        actor,
        action: "token create",
        subject: &subject,
        outcome: Outcome::Allowed,
        detail: &detail,
    };
    // Recorded first: there is no token that the record does not know of.
    catalog.audit(&entry).await?;
    let token_hash = token::hash(token.expose_secret().as_bytes());
    let new = NewOperator { name, token_hash: &token_hash, role: *role, hosts, expires_ms };
    catalog.put_operator(&new, now).await?;
    Ok(token)
}

/// Writes a secret to a file only its owner can read.
///
/// # Errors
/// The file cannot be written, or is there and `replace` is not set.
pub fn write_secret(path: &Path, secret: &SecretString, replace: bool) -> Result<(), InitError> {
    let write = || {
        if !replace {
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        }
        secret_file::write(path, secret.expose_secret())
    };
    write().map_err(|source| InitError::File { path: path.to_owned(), action: "written", source })
}

fn write_config(path: &Path, config: &Config) -> Result<(), InitError> {
    let text = toml::to_string(config)?;
    write_atomically(path, &text).map_err(|source| InitError::File {
        path: path.to_owned(),
        action: "written",
        source,
    })
}

/// The file is there whole or not at all.
///
/// # Errors
/// The directory cannot be written, or is on a disk that is full.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // In the same directory, or the rename would be a copy; the directory is synced
    // last, for the name is an entry of it.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use crate::quota::Quotas;
    use std::os::unix::fs::PermissionsExt as _;

    use holdfast_archive::store::StoreConfig;

    use super::*;
    use crate::config::{default_forget_grace_seconds, default_listen};

    #[tokio::test]
    async fn makes_a_closed_directory_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (state, repository) = (dir.path().join("state"), dir.path().join("repository"));
        let config = Config {
            listen: default_listen(),
            addresses: vec!["controller.example:7443".to_owned()],
            crypto: Crypto::None,
            forget_grace_seconds: default_forget_grace_seconds(),
            repository: StoreConfig::new(repository.to_str().expect("plain").parse().expect("a place")),
            quotas: Quotas::default(),
        };
        init(&state, &config).await.expect("made");
        let mode = |name: &str| fs::metadata(state.join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("ca.key"), mode(ADMIN_TOKEN_FILE)), (0o700, 0o600, 0o600));
        assert_eq!(Config::read(&state).expect("read"), config);
        let token = fs::read_to_string(state.join(ADMIN_TOKEN_FILE)).expect("token");
        let catalog = Catalog::open(&catalog_url(&state)).await.expect("opens");
        let admin = catalog.operator_by_token(&token::hash(token.trim().as_bytes())).await;
        assert_eq!(admin.expect("query").expect("known").role, Role::Admin);

        let store = Store::open(&config.repository).expect("a store");
        let owner = Repository::open(store).await.expect("a repository").info().owner.clone();
        assert_eq!(catalog.setting(CONTROLLER_ID).await.expect("query"), Some(owner));

        let key = fs::read(state.join("ca.key")).expect("key");
        assert!(matches!(init(&state, &config).await, Err(InitError::Exists(_))));
        assert_eq!(fs::read(state.join("ca.key")).expect("key"), key);
    }

    #[tokio::test]
    async fn an_init_that_was_cut_off_is_finished_and_a_foreign_repository_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let repository = dir.path().join("repository");
        let config = Config {
            listen: default_listen(),
            addresses: Vec::new(),
            crypto: Crypto::None,
            forget_grace_seconds: default_forget_grace_seconds(),
            repository: StoreConfig::new(repository.to_str().expect("plain").parse().expect("a place")),
            quotas: Quotas::default(),
        };
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        init(&first, &config).await.expect("made");
        fs::remove_file(first.join(FILE)).expect("removed");
        init(&first, &config).await.expect("finished");

        // One that has run since is refused: its hosts know its CA.
        fs::write(first.join(LISTEN_FILE), "127.0.0.1:7443\n").expect("written");
        fs::remove_file(first.join(FILE)).expect("removed");
        let key = fs::read(first.join("ca.key")).expect("key");
        let refused = init(&first, &config).await.expect_err("refused");
        assert!(refused.to_string().contains("put that file back"), "{refused}");
        assert!(matches!(rebuild(&first, &config).await, Err(InitError::HasRun(_))));
        assert_eq!(fs::read(first.join("ca.key")).expect("key"), key);
        assert!(matches!(init(&second, &config).await, Err(InitError::Repository(_))));
    }

    #[tokio::test]
    async fn an_address_no_certificate_can_name_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let config = Config {
            listen: default_listen(),
            addresses: vec!["not a name".to_owned()],
            crypto: Crypto::None,
            forget_grace_seconds: default_forget_grace_seconds(),
            repository: StoreConfig::new("/nowhere".parse().expect("a place")),
            quotas: Quotas::default(),
        };
        assert!(matches!(init(dir.path(), &config).await, Err(InitError::Authority(_))));
        assert!(!dir.path().join(FILE).exists());
    }
}

//! Opening a repository, and finding a snapshot in it by what people call it.

use holdfast_archive::ids::SnapshotId;
use holdfast_archive::repository::{BrokenSnapshotError, OpenError, Repository, Snapshot};
use holdfast_archive::store::{Location, S3Options, Store, StoreConfig};

use crate::args::RepositoryArgs;
use crate::error::{CliError, Exit, Result, sentence};
use crate::output::{self, When};

pub(super) async fn open(place: &RepositoryArgs) -> Result<Repository> {
    let location: Location = place
        .repository
        .parse()
        .map_err(|error| CliError::usage(format!("--repository: {}", sentence(&error))))?;
    let s3 = S3Options {
        endpoint: place.s3_endpoint.clone(),
        region: place.s3_region.clone(),
        credentials_file: place.s3_credentials_file.clone(),
        ca_file: place.s3_ca_file.clone(),
        ..S3Options::default()
    };
    let store = Store::open(&StoreConfig { location, s3 })?;
    Repository::open(store).await.map_err(|error| match error {
        OpenError::NotARepository { .. } => CliError::new(Exit::NotFound, "no-repository", error.to_string()),
        OpenError::Info { .. } => CliError::new(Exit::Damage, "repository-info", sentence(&error)),
        OpenError::Store(error) => CliError::from(error),
    })
}

/// The snapshot a reference means: an id, or `[host/]source[@when]` where
/// `when` is `latest`, `#number` or the beginning of a date (UTC).
pub(super) async fn resolve(repository: &Repository, reference: &str) -> Result<Snapshot> {
    if let Ok(id) = reference.parse::<SnapshotId>() {
        return repository.snapshot(id).await.map_err(|error| match error {
            BrokenSnapshotError::Store(error) => CliError::from(error),
            other => CliError::new(Exit::Damage, "damaged", format!("snapshot {id}: {}", sentence(&other))),
        });
    }
    let (name, when) = reference.split_once('@').unwrap_or((reference, "latest"));
    let snapshots = repository.snapshots().await?.good;
    let named: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| is_called(snapshot, name)).collect();
    if named.is_empty() {
        let near = output::nearest(name, snapshots.iter().map(|snapshot| snapshot.body.source.name.as_str()));
        let message = format!("the repository has no snapshot of `{name}`{near}");
        return Err(CliError::new(Exit::NotFound, "unknown-source", message).hint("holdfast repo ls"));
    }
    let mut hosts: Vec<&str> = named.iter().map(|snapshot| snapshot.body.host_name.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.len() > 1 {
        let choices: Vec<String> = hosts.iter().map(|host| format!("`{host}/{name}`")).collect();
        return Err(CliError::usage(format!("`{name}` is on several hosts: say {}", choices.join(" or "))));
    }
    let matching = named.into_iter().filter(|snapshot| is_of(snapshot, when));
    matching.max_by_key(|snapshot| snapshot.header.id.number).cloned().ok_or_else(|| {
        let message =
            format!("`{name}` has no snapshot `{when}`: latest, #number or a date (YYYY-MM-DD) is expected");
        CliError::new(Exit::NotFound, "unknown-snapshot", message).hint("holdfast repo ls")
    })
}

fn is_called(snapshot: &Snapshot, name: &str) -> bool {
    let body = &snapshot.body;
    body.source.name == name
        || name.strip_suffix(body.source.name.as_str()).and_then(|rest| rest.strip_suffix('/'))
            == Some(&body.host_name)
}

fn is_of(snapshot: &Snapshot, when: &str) -> bool {
    match when.strip_prefix('#') {
        Some(number) => number == snapshot.header.id.number.to_string(),
        None => {
            when == "latest"
                || (when.starts_with(char::is_numeric)
                    && When(snapshot.header.created_unix_ms).utc().starts_with(when))
        }
    }
}

//! Opening a repository, and finding a snapshot in it by what people call it.

use std::collections::BTreeMap;

use holdfast_archive::ids::{HostId, SnapshotId, SourceId};
use holdfast_archive::keys::Prefix;
use holdfast_archive::repository::{BrokenSnapshotError, InfoError, OpenError, Repository, Snapshot};
use holdfast_archive::snapshot::Names;
use holdfast_archive::store::{Location, RetryPolicy, S3Options, Store, StoreConfig};

use crate::args::RepositoryArgs;
use crate::error::{CliError, ErrorCode, Result, sentence};
use crate::output::When;

pub(super) fn open_store(place: &RepositoryArgs) -> Result<Store> {
    let location: Location = place
        .repository
        .parse()
        .map_err(|error| CliError::usage(format!("--repository: {}", sentence(&error))))?;
    let s3 = S3Options {
        endpoint: place.s3_endpoint.clone(),
        region: place.s3_region.clone(),
        credentials_file: place.s3_credentials_file.clone(),
        profile: place.s3_profile.clone(),
        ca_file: place.s3_ca_file.clone(),
        allow_http: place.s3_allow_http,
    };
    // The store would say so as well, by the name of a setting that has another name here.
    if matches!(location, Location::S3 { .. }) && s3.credentials_file.is_none() {
        return Err(CliError::usage(format!(
            "{location} needs an access key: --s3-credentials-file is missing"
        ))
        .hint("a file of two lines, access key and secret key, or one with profiles in the form of AWS"));
    }
    Ok(Store::open(&StoreConfig { location, s3 })?)
}

pub(super) async fn open(place: &RepositoryArgs) -> Result<Repository> {
    let store = open_store(place)?;
    // A place that is misspelt or down is told within seconds. Work of hours
    // outlasts a bad minute.
    let first = Repository::open(store.clone().with_retry(RetryPolicy::interactive())).await;
    let error = match first {
        Ok(_) => match Repository::open(store.clone()).await {
            Ok(repository) => return Ok(repository),
            Err(error) => error,
        },
        Err(error) => error,
    };
    Err(match error {
        // A lost `repo.json` and a mistyped prefix look alike. Whoever has lost it must not be told
        // to look elsewhere.
        OpenError::NotARepository { .. } if holds_snapshots(&store).await => {
            CliError::new(ErrorCode::RepositoryInfo, format!("{error}, but snapshots: it was lost"))
                .hint(WRITE_AGAIN)
        }
        OpenError::NotARepository { .. } => CliError::new(ErrorCode::NoRepository, error.to_string())
            .hint("is the path or prefix right, and, if it is on a disk of its own, is that mounted?"),
        OpenError::Info { source: InfoError::Damaged(_), .. } => {
            CliError::new(ErrorCode::RepositoryInfo, sentence(&error)).hint(WRITE_AGAIN)
        }
        OpenError::Info { .. } => CliError::new(ErrorCode::RepositoryInfo, sentence(&error)),
        OpenError::Store(error) => CliError::from(error),
    })
}

/// What to do where `repo.json` is lost and the rest is not.
const WRITE_AGAIN: &str = "on the controller's machine, with the controller stopped: holdfast-controller reconcile \
    --write-repo-json";

async fn holds_snapshots(store: &Store) -> bool {
    let store = store.clone().with_retry(RetryPolicy::interactive());
    store
        .list(Prefix::Snapshots, None)
        .await
        .is_ok_and(|page| page.items.iter().any(|item| item.key.is_some()))
}

/// The snapshot a reference means: an id, or `[host/]source[@when]` where
/// `when` is `latest`, `#number` or the beginning of a date (UTC). Host and
/// source are names or ids.
pub(super) async fn resolve(repository: &Repository, reference: &str) -> Result<Snapshot> {
    // An id is looked up by its name in the store: that works where no other snapshot can be read.
    if let Ok(id) = reference.parse::<SnapshotId>() {
        return repository.snapshot(id).await.map_err(|error| match error {
            BrokenSnapshotError::Store(error) => CliError::from(error),
            other => CliError::new(ErrorCode::Damaged, format!("snapshot {id}: {}", sentence(&other))),
        });
    }
    choose(&repository.snapshots().await?.good, reference)
}

/// What is backed up of one source of one host. Names may be given twice: a
/// host that was recreated under an old name is another one.
type Place = (HostId, SourceId);

fn choose(snapshots: &[Snapshot], reference: &str) -> Result<Snapshot> {
    let (name, when) = reference.split_once('@').unwrap_or((reference, "latest"));
    let mut places: BTreeMap<Place, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| is_called(snapshot, name)) {
        let id = snapshot.header.id;
        places.entry((id.host, id.source)).or_default().push(snapshot);
    }
    // The newest of either would be a guess, and one that overwrites nothing here still restores
    // the wrong data.
    if places.len() > 1 {
        return Err(several(name, &places));
    }
    let Some(named) = places.into_values().next() else {
        let names: Vec<String> = snapshots.iter().map(|snapshot| snapshot.names().source).collect();
        let near = holdfast_archive::text::did_you_mean(name, names.iter().map(String::as_str));
        let message = format!("the repository has no snapshot of `{name}`{near}");
        return Err(CliError::new(ErrorCode::SourceUnknown, message).hint("holdfast repo ls"));
    };
    let matching = named.into_iter().filter(|snapshot| is_of(snapshot, when));
    matching.max_by_key(|snapshot| snapshot.header.id.number).cloned().ok_or_else(|| {
        let message =
            format!("`{name}` has no snapshot `{when}`: latest, #number or a date (YYYY-MM-DD) is expected");
        CliError::new(ErrorCode::SnapshotUnknown, message).hint("holdfast repo ls")
    })
}

/// Refuses to guess, and says how to name each: by host where that is enough,
/// else by ids. The newest snapshot of each helps to tell them apart.
fn several(name: &str, places: &BTreeMap<Place, Vec<&Snapshot>>) -> CliError {
    let named: Vec<(Place, Names, i64)> = places
        .iter()
        .filter_map(|(place, snapshots)| {
            let newest = snapshots.iter().max_by_key(|snapshot| snapshot.header.created_unix_ms)?;
            Some((*place, newest.names(), newest.header.created_unix_ms))
        })
        .collect();
    let same = |by: &dyn Fn(&Place, &Names) -> (String, String), place: &Place, names: &Names| {
        named.iter().filter(|(other, theirs, _)| by(other, theirs) == by(place, names)).count()
    };
    let by_name = |_: &Place, names: &Names| (names.host.clone(), names.source.clone());
    let by_host = |place: &Place, names: &Names| (place.0.to_string(), names.source.clone());
    let mut unique = true;
    let choices = named.iter().map(|(place, names, created)| {
        let (host, source) = if same(&by_name, place, names) == 1 {
            by_name(place, names)
        } else if same(&by_host, place, names) == 1 {
            unique = false;
            by_host(place, names)
        } else {
            unique = false;
            (place.0.to_string(), place.1.to_string())
        };
        format!("`{host}/{source}` (newest {})", When(*created).utc())
    });
    let choices = choices.collect::<Vec<_>>().join(" or ");
    let why = if unique { "is on several hosts" } else { "is the name of several" };
    CliError::usage(format!("`{name}` {why}: say {choices}"))
}

fn is_called(snapshot: &Snapshot, name: &str) -> bool {
    let (names, id) = (snapshot.names(), snapshot.header.id);
    [names.source, id.source.to_string()].iter().any(|source| {
        let host = name.strip_suffix(source.as_str()).and_then(|rest| rest.strip_suffix('/'));
        name == source || host.is_some_and(|host| host == names.host || host == id.host.to_string())
    })
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

#[cfg(test)]
mod tests {
    use holdfast_archive::ids::{FrameId, RepositoryId};
    use holdfast_archive::snapshot::{SnapshotBody, SnapshotHeader, SourceFacts, Stats};

    use super::*;

    const DAY: i64 = 86_400_000;

    /// As the controller named it, and as its host says it is called.
    fn snapshot(place: Place, (host, source): (&str, &str), number: u64, said: (&str, &str)) -> Snapshot {
        let header = SnapshotHeader {
            repository: RepositoryId::generate(),
            id: SnapshotId { host: place.0, source: place.1, number },
            created_unix_ms: number as i64 * DAY,
            commit_number: number,
            names: match host {
                "" => Names::default(),
                host => Names { host: host.into(), kind: "volume".into(), source: source.into() },
            },
        };
        let body = SnapshotBody {
            root: FrameId([0; 32]),
            started_unix_ns: 0,
            stats: Stats::default(),
            source: SourceFacts { kind: "volume".into(), name: said.1.into(), ..SourceFacts::default() },
            consistency: "none".into(),
            host_name: said.0.into(),
            partial: false,
            problems: Vec::new(),
            downtime_ms: 0,
            agent_version: "0".into(),
            containers: Vec::new(),
        };
        Snapshot { header, body }
    }

    fn place() -> Place {
        (HostId::generate(), SourceId::generate())
    }

    fn chosen(snapshots: &[Snapshot], reference: &str) -> SnapshotId {
        choose(snapshots, reference).expect(reference).header.id
    }

    fn refused(snapshots: &[Snapshot], reference: &str) -> String {
        choose(snapshots, reference).expect_err(reference).message
    }

    #[test]
    fn v05_a_host_that_calls_itself_another_is_not_taken_for_it() {
        let (db, evil) = (place(), place());
        let honest = snapshot(db, ("db-1", "db_data"), 3, ("db-1", "db_data"));
        let lying = snapshot(evil, ("web-1", "app"), 700, ("db-1", "db_data"));
        let both = [honest.clone(), lying];
        assert_eq!(chosen(&both, "db-1/db_data@latest"), honest.header.id);
        assert_eq!(chosen(&both, "db_data"), honest.header.id);

        // Of before controllers wrote names: nothing says who is right.
        let lying = snapshot(evil, ("", ""), 700, ("db-1", "db_data"));
        let both = [honest.clone(), lying.clone()];
        let said = refused(&both, "db-1/db_data@latest");
        for host in [db.0, evil.0] {
            assert!(said.contains(&format!("`{host}/db_data`")), "{said}");
            assert!(choose(&both, &format!("{host}/db_data")).is_ok());
        }
        assert!(said.contains("newest 1970-01-04"), "{said}");
        assert_eq!(chosen(&both, &format!("{}/db_data", db.0)), honest.header.id);
    }

    #[test]
    fn v05_latest_is_not_that_of_a_host_of_the_same_name() {
        let (old, new) = (place(), place());
        let name = ("web-1", "data");
        let all: Vec<Snapshot> = (1..=40)
            .map(|number| snapshot(old, name, number, name))
            .chain((1..=2).map(|number| snapshot(new, name, number, name)))
            .collect();
        assert!(refused(&all, "data").contains(&new.0.to_string()));
        assert_eq!(chosen(&all, &format!("{}/data", new.0)).number, 2);
        assert_eq!(chosen(&all, &format!("{}/data@#1", new.0)).host, new.0);
        assert_eq!(chosen(&all, &format!("{}/data", old.0)).number, 40);
    }

    #[test]
    fn several_hosts_and_several_sources_of_one_name_are_told_apart() {
        let (one, two) = (place(), place());
        let here = snapshot(one, ("web-1", "data"), 1, ("web-1", "data"));
        let there = snapshot(two, ("web-2", "data"), 1, ("web-2", "data"));
        let said = refused(&[here.clone(), there], "data");
        assert!(said.contains("`web-1/data`") && said.contains("`web-2/data`"), "{said}");
        let again = snapshot((one.0, SourceId::generate()), ("web-1", "data"), 1, ("web-1", "data"));
        let both = [here.clone(), again];
        assert!(refused(&both, "web-1/data").contains(&format!("`{}/{}`", one.0, one.1)));
        assert_eq!(chosen(&both, &format!("{}/{}", one.0, one.1)), here.header.id);
        assert!(refused(&both, "dat").contains("no snapshot of `dat`"));
    }
}

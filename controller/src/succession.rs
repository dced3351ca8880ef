//! What a controller takes over from the bucket besides snapshots: all of it
//! when it was lost, and what happened since when its catalogue was put back
//! from a copy.
//!
//! Giving up and revoking are decisions. One that is forgotten raises an alarm
//! for ever, or lets in whoever was to be kept out.

pub mod exchange;

use std::collections::BTreeSet;

use holdfast_archive::ids::HostId;

use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::identity::name::Name;
use crate::repository::{Repository, RepositoryError};
use exchange::{KnownHost, RetiredSource};

/// What a rebuilt controller knows again besides snapshots.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    pub hosts: Vec<String>,
    /// Of these, those that were revoked, retired ones included.
    pub revoked: Vec<String>,
    pub policies: Vec<String>,
    /// What could not be taken over; a sentence each.
    pub notes: Vec<String>,
}

/// Hosts and policies as the lost controller left them in the bucket. Policies
/// come disabled, and a host whose row was lost, too, comes from its snapshots.
///
/// # Errors
/// When catalogue or store fail.
pub async fn take_over(catalog: &Catalog, repository: &Repository) -> Result<TakenOver, RepositoryError> {
    let mut taken = TakenOver::default();
    let [hosts, policies] = repository.exported_state().await?;
    let mut known = read_hosts(hosts.as_deref(), &mut taken.notes);
    // The newest first: the source that was backed up last is the one that goes on.
    let snapshots = repository.list(&SnapshotFilter::default()).await?;
    for snapshot in &snapshots {
        let id = snapshot.id.host.to_string();
        if known.iter().all(|host| host.id != id) {
            known.push(KnownHost { id, name: snapshot.host_name.clone(), ..KnownHost::default() });
        }
    }
    // Hosts before the sources of their snapshots: a source belongs to a row of `hosts`.
    let imported = take_hosts(catalog, &known, &mut taken).await?;
    for snapshot in snapshots.iter().filter(|snapshot| imported.contains(&snapshot.id.host)) {
        let SnapshotRecord { id, source_kind, source_name, created_ms, .. } = snapshot;
        if matches!(source_kind.as_str(), "volume" | "directory") {
            catalog.import_source(id, source_kind, source_name, *created_ms).await?;
        }
    }
    if let Some(policies) = policies {
        take_policies(catalog, &policies, &mut taken).await?;
    }
    Ok(taken)
}

/// Gives the ids of those that are known from now on.
async fn take_hosts(
    catalog: &Catalog,
    known: &[KnownHost],
    taken: &mut TakenOver,
) -> Result<BTreeSet<HostId>, CatalogError> {
    let mut imported = BTreeSet::new();
    for host in known {
        match import(catalog, host).await? {
            Some(id) => {
                imported.insert(id);
                taken.hosts.push(host.name.clone());
                if host.revoked_ms.is_some() || host.retired_ms.is_some() {
                    taken.revoked.push(host.name.clone());
                }
            }
            None => taken.notes.push(format!(
                "host {} cannot be known as `{}`: its id or its name is another's, or no valid one",
                host.id, host.name
            )),
        }
    }
    Ok(imported)
}

async fn take_policies(
    catalog: &Catalog,
    exported: &[u8],
    taken: &mut TakenOver,
) -> Result<(), CatalogError> {
    match exchange::read_policies(exported) {
        Ok((policies, unreadable)) => {
            taken.policies = policies.iter().map(|policy| policy.name.clone()).collect();
            let fresh: Vec<_> = policies.into_iter().map(|policy| (policy, true)).collect();
            catalog.put_policies(&fresh, now_ms()).await?;
            let unreadable =
                unreadable.iter().map(|name| format!("policy `{name}` is not one this version can read"));
            taken.notes.extend(unreadable);
        }
        Err(error) => taken.notes.push(format!("the bucket's policies are not readable: {error}")),
    }
    Ok(())
}

/// For a catalogue that was put back from a copy: which hosts were revoked, and
/// which certificates denied or renewed, since it was made. A sentence for each
/// host of which that was news.
///
/// What the bucket knew before this catalogue did is taken in as well and
/// changes nothing: serial numbers say which of the two is older.
///
/// # Errors
/// When catalogue or store fail.
pub async fn catch_up(catalog: &Catalog, repository: &Repository) -> Result<Vec<String>, RepositoryError> {
    let mut notes = Vec::new();
    let [hosts, _] = repository.exported_state().await?;
    let now = now_ms();
    for host in read_hosts(hosts.as_deref(), &mut notes) {
        let Ok(id) = host.id.parse::<HostId>() else { continue };
        if catalog.host(id).await?.is_none() {
            continue;
        }
        let before = catalog.certificates(now).await?.remove(&id).unwrap_or_default();
        let news = catalog.take_certificates(id, &host.certificates, now).await?;
        // Revoked once and joined again since is told from revoked by the
        // certificate it has now.
        let refused = before.current.is_none_or(|serial| host.certificates.denied.contains(&serial));
        if host.revoked_ms.is_some() && refused {
            catalog.import_standing(id, host.revoked_ms, host.retired_ms).await?;
        }
        if news {
            notes.push(format!(
                "host `{}`: what was revoked or renewed since this catalogue was copied counts again",
                host.name
            ));
        }
    }
    Ok(notes)
}

fn read_hosts(content: Option<&[u8]>, notes: &mut Vec<String>) -> Vec<KnownHost> {
    match content.map(exchange::read_hosts) {
        Some(Ok(hosts)) => hosts,
        Some(Err(error)) => {
            notes.push(format!("the bucket's list of hosts is not readable: {error}"));
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// Makes a host with what was given up of it. `None`: it cannot be made.
///
/// It has no certificate until it joins: whatever the CA, none it had before
/// opens anything.
async fn import(catalog: &Catalog, host: &KnownHost) -> Result<Option<HostId>, CatalogError> {
    let KnownHost { id, name, labels, revoked_ms, retired_ms, certificates: _, retired } = host;
    let (Ok(id), Ok(name)) = (id.parse::<HostId>(), name.parse::<Name>()) else { return Ok(None) };
    if !catalog.import_host(id, name.as_str(), labels).await? {
        return Ok(None);
    }
    // A retired host is a revoked one.
    catalog.import_standing(id, revoked_ms.or(*retired_ms), *retired_ms).await?;
    for RetiredSource { id: source, kind, name, retired_ms } in retired {
        match (source.as_deref().map(str::parse), kind.as_str()) {
            (Some(Ok(source)), "volume" | "directory") => {
                catalog.import_retired_source((id, source), kind, name, *retired_ms).await?;
            }
            (None, "directory") => catalog.import_retired_bind(id, name, *retired_ms).await?,
            // Of a version that knows more kinds: it alarms, and can be retired again.
            _ => {}
        }
    }
    Ok(Some(id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_archive::ids::SourceId;
    use holdfast_archive::repository::{CryptoMode, InitOptions, Repository as Bucket};
    use holdfast_archive::store::Store;

    use super::exchange::{HostFacts, hosts_json, policies_json};
    use super::*;
    use crate::catalog::certificates::Certificates;
    use crate::catalog::enrolment::{Enrolled, Enrolment, JoinRecord, NewJoinToken};
    use crate::catalog::hosts::HostRecord;
    use crate::catalog::policies::PolicyRecord;
    use crate::catalog::sources::SeenVolume;
    use crate::catalog::standing::Standing;
    use crate::coverage::{Facts, coverage};
    use crate::repository::Settings;

    struct World {
        dir: tempfile::TempDir,
        catalog: Catalog,
        repository: Repository,
    }

    impl World {
        async fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary folder");
            let store = Store::create_directory(&dir.path().join("bucket")).expect("store");
            let options = InitOptions { owner: "me".into(), created_unix_ms: 1, crypto: CryptoMode::None };
            Bucket::init(store, options).await.expect("made");
            let (catalog, repository) = on(&dir).await;
            repository.check().await.expect("checked");
            Self { dir, catalog, repository }
        }

        async fn export(&self, now_ms: i64) {
            let hosts = hosts_json(&HostFacts::of(&self.catalog, now_ms).await.expect("asked"));
            let none: Vec<PolicyRecord> = Vec::new();
            self.repository.export_state(&hosts, &policies_json(&none)).await.expect("written");
        }
    }

    async fn on(dir: &tempfile::TempDir) -> (Catalog, Repository) {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let store = Store::directory(&dir.path().join("bucket")).expect("there");
        (catalog.clone(), Repository::new(catalog, store, Settings::default()))
    }

    async fn join(catalog: &Catalog, name: &str, serial: &str) -> HostId {
        let labels = BTreeMap::from([("rack".to_owned(), "7".to_owned())]);
        let token =
            NewJoinToken { hash: serial, host_name: name, labels: &labels, created_ms: 0, expires_ms: 9 };
        catalog.put_join_token(&token).await.expect("put");
        let enrolment = Enrolment {
            token_hash: serial,
            host_name: name,
            serial,
            not_after_ms: 1_000,
            instance_id: "i",
            now_ms: 1,
            record: JoinRecord::default(),
        };
        match catalog.enrol(&enrolment, |_| Some(())).await.expect("enrols") {
            Enrolled::Host { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    async fn standing(catalog: &Catalog, host: HostId, serial: &str) -> Standing {
        catalog.certificate_standing(host, serial, now_ms()).await.expect("asked")
    }

    /// Kinds of problems by host.
    async fn problems(catalog: &Catalog) -> Vec<(String, &'static str)> {
        let facts = Facts {
            now_ms: 10,
            hosts: catalog.hosts().await.expect("asked"),
            connected: Vec::new(),
            awaited: Vec::new(),
            sources: catalog.sources(None).await.expect("asked"),
            binds: catalog.binds(None).await.expect("asked"),
            policies: Vec::new(),
            snapshots: Vec::new(),
            latest_backups: Vec::new(),
            ended_upgrades: Vec::new(),
            damaged: std::collections::HashMap::new(),
        };
        coverage(&facts).problems.into_iter().map(|problem| (problem.host, problem.kind.as_str())).collect()
    }

    #[tokio::test]
    async fn p21_what_was_revoked_or_given_up_stays_so_after_a_rebuild() {
        let world = World::new().await;
        let catalog = &world.catalog;
        let mut ids = Vec::new();
        for name in ["gone", "kept", "thief"] {
            ids.push(join(catalog, name, name).await);
        }
        let [gone, kept, thief] = ids[..] else { panic!("three hosts") };
        for host in [gone, thief] {
            assert!(catalog.revoke_host(host, 5).await.expect("revoked"));
        }
        assert!(catalog.retire_host(gone, 6).await.expect("retired"));
        let volume = |name: &str| SeenVolume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            labels: BTreeMap::new(),
            anonymous: false,
            used: true,
            own: String::new(),
        };
        catalog.record_volumes(kept, &[volume("old"), volume("data")], 2).await.expect("recorded");
        catalog.record_volumes(kept, &[volume("data")], 3).await.expect("recorded");
        let old = catalog.sources(Some(kept)).await.expect("asked");
        let old: SourceId = old.iter().find(|source| source.name == "old").expect("there").id;
        catalog.retire_source(old, Some(4)).await.expect("retired");
        let bind = crate::catalog::binds::SeenBind {
            path: "/srv/cache".to_owned(),
            read_only: false,
            containers: BTreeSet::from(["web".to_owned()]),
        };
        catalog.record_binds(kept, std::slice::from_ref(&bind), 3).await.expect("recorded");
        assert!(catalog.retire_bind(kept, "/srv/cache", Some(4)).await.expect("retired"));
        world.export(10).await;

        let (catalog, repository) = on(&world.dir).await;
        repository.reconcile(Some("me again"), false).await.expect("rebuilt");
        let taken = take_over(&catalog, &repository).await.expect("taken over");
        assert_eq!(
            (taken.hosts.len(), &taken.revoked[..]),
            (3, &["gone".to_owned(), "thief".to_owned()][..])
        );
        assert!(taken.notes.is_empty(), "{taken:?}");
        let host = async |id| -> HostRecord { catalog.host(id).await.expect("asked").expect("known") };
        let times = |host: &HostRecord| (host.revoked_ms, host.retired_ms);
        assert_eq!(times(&host(gone).await), (Some(5), Some(6)));
        assert_eq!(times(&host(thief).await), (Some(5), None));
        assert_eq!((times(&host(kept).await), &*host(kept).await.labels["rack"]), ((None, None), "7"));
        // Whoever signs for it, its old certificate opens nothing.
        assert!(matches!(standing(&catalog, thief, "thief").await, Standing::Revoked { .. }));
        assert!(matches!(standing(&catalog, kept, "kept").await, Standing::Denied { .. }));
        let source = catalog.source(old).await.expect("asked").expect("known");
        assert_eq!((source.name.as_str(), source.retired_ms, source.gone_ms), ("old", Some(4), Some(4)));
        let expected = [("kept".to_owned(), "silent-host"), ("thief".to_owned(), "revoked-host")];
        assert_eq!(problems(&catalog).await, expected);
        // It mounts the directory as before, and is asked about it no more.
        catalog.record_binds(kept, &[bind], 11).await.expect("recorded");
        assert_eq!(problems(&catalog).await, expected);
        assert_eq!(catalog.binds(Some(kept)).await.expect("asked")[0].retired_ms, Some(4));
    }

    #[tokio::test]
    async fn p21_a_catalogue_put_back_from_a_copy_learns_what_was_revoked_since() {
        let world = World::new().await;
        // The copy: before anything happened.
        let (copy, _) = on(&world.dir).await;
        let mut ids = Vec::new();
        for name in ["renewed", "thief", "back"] {
            let id = join(&world.catalog, name, name).await;
            copy.import_host(id, name, &BTreeMap::new()).await.expect("copied");
            sqlx::query("update hosts set certificate_serial = $2 where id = $1")
                .bind(id.to_string())
                .bind(name)
                .execute(copy.pool())
                .await
                .expect("copied");
            ids.push(id);
        }
        let [renewed, thief, back] = ids[..] else { panic!("three hosts") };
        assert!(
            world.catalog.renew_certificate(renewed, "renewed", "renewed-2", 9, 2).await.expect("renews")
        );
        assert!(matches!(standing(&world.catalog, renewed, "renewed-2").await, Standing::Good { .. }));
        for host in [thief, back] {
            assert!(world.catalog.revoke_host(host, now_ms()).await.expect("revoked"));
        }
        world.export(now_ms()).await;

        let store = Store::directory(&world.dir.path().join("bucket")).expect("there");
        let repository = Repository::new(copy.clone(), store, Settings::default());
        assert!(
            matches!(standing(&copy, thief, "thief").await, Standing::Good { .. }),
            "what is to be mended"
        );
        // It joined again after the copy was put back.
        assert_eq!(join(&copy, "back", "back-2").await, back);
        let notes = catch_up(&copy, &repository).await.expect("caught up");
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(matches!(standing(&copy, thief, "thief").await, Standing::Revoked { .. }));
        assert!(matches!(standing(&copy, renewed, "renewed-2").await, Standing::Good { .. }));
        assert!(matches!(standing(&copy, renewed, "renewed").await, Standing::Denied { .. }));
        assert!(matches!(standing(&copy, back, "back-2").await, Standing::Good { .. }));
        assert_eq!(catch_up(&copy, &repository).await.expect("caught up"), Vec::<String>::new());
        assert_ne!(copy.certificates(now_ms()).await.expect("asked")[&thief], Certificates::default());
    }
}

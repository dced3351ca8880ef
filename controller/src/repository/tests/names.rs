//! Whose a snapshot is, is the controller's to say.

use holdfast_archive::repository::Repository as Bucket;
use holdfast_archive::snapshot::Names;

use super::*;
use crate::catalog::sources::SeenVolume;

fn altered(tree: &Tree, alter: impl FnOnce(&mut SnapshotBody)) -> Vec<u8> {
    let mut body = decode_body(&tree.body).expect("a body");
    alter(&mut body);
    encode_body(&body)
}

/// What it is about, and how it is told.
type Lie = (&'static str, fn(&mut SnapshotBody));

impl World {
    /// A volume of the host instead of its directory.
    async fn with_volume(mut self, name: &str) -> Self {
        let volume = SeenVolume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            labels: Default::default(),
            anonymous: false,
            used: true,
            own: String::new(),
        };
        let catalog = self.repository.catalog();
        catalog.record_volumes(self.host, &[volume], 1).await.expect("recorded");
        let sources = catalog.sources(Some(self.host)).await.expect("asked");
        self.source = sources.iter().find(|source| source.name == name).expect("there").id;
        self
    }
}

#[tokio::test]
async fn v05_a_snapshot_that_names_another_host_source_or_kind_is_refused() {
    let world = World::new().await.with_volume("app_data").await;
    let tree = tree("mine");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    let honest = |body: &mut SnapshotBody| {
        body.source.kind = "volume".into();
        body.source.name = "app_data".into();
    };
    let lies: [Lie; 4] = [
        ("host", |body| body.host_name = "db-1".into()),
        ("source", |body| body.source.name = "db_data".into()),
        ("kind of source", |body| body.source.kind = "directory".into()),
        ("source", |body| body.source.name = "a\u{1b}[2Jb".repeat(10_000)),
    ];
    for (what, lie) in lies {
        let body = altered(&tree, |body| {
            honest(body);
            lie(body);
        });
        let refused = world.repository.commit_snapshot(world.host, lease, &body).await;
        let Err(RepositoryError::Denied(message)) = refused else { panic!("{what}: {refused:?}") };
        assert!(message.contains(&format!("another {what} than")), "{message}");
        assert!(!message.contains('\u{1b}') && message.len() < 32 << 10, "{message}");
    }
    assert!(world.repository.list(&SnapshotFilter::default()).await.expect("listed").is_empty());
    let body = altered(&tree, honest);
    let Ok(Committed::Snapshot(made)) = world.repository.commit_snapshot(world.host, lease, &body).await
    else {
        panic!("an honest one is taken")
    };
    let bucket = Store::directory(&world.dir.path().join("bucket")).expect("there");
    let stored = Bucket::open(bucket).await.expect("opens").snapshot(made.id).await.expect("there");
    let names = Names { host: "web-1".into(), kind: "volume".into(), source: "app_data".into() };
    assert_eq!(stored.header.names, names);
}

#[tokio::test]
async fn v05_a_rebuilt_catalogue_takes_the_names_of_the_header() {
    let world = World::new().await;
    let tree = tree("past a link");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    // Where the directory really is, past a link: not what it is called.
    let body = altered(&tree, |body| body.source.name = "/mnt/disk/data".into());
    let committed = world.repository.commit_snapshot(world.host, lease, &body).await;
    assert!(matches!(committed, Ok(Committed::Snapshot(_))), "{committed:?}");
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let store = Store::directory(&world.dir.path().join("bucket")).expect("there");
    let rebuilt = Repository::new(catalog, store, world.repository.settings().clone());
    rebuilt.reconcile(Some("another"), false).await.expect("rebuilt");
    let known = rebuilt.list(&SnapshotFilter::default()).await.expect("listed");
    let called = |record: &SnapshotRecord| (record.host_name.clone(), record.source_name.clone());
    assert_eq!(called(&known[0]), ("web-1".to_owned(), "/data".to_owned()));
}

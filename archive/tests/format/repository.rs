use holdfast_archive::ids::SourceId;
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::repository::{CommitError, CryptoMode, InitError, InitOptions, OpenError, Repository};
use holdfast_archive::snapshot::SnapshotBody;
use holdfast_archive::state::{IndexedPack, encode_index};
use holdfast_archive::store::Store;
use holdfast_archive::verify::{Level, ProblemKind};

use crate::support::{Fixture, expected, sample_tree};

fn options() -> InitOptions {
    InitOptions { owner: "x".into(), created_unix_ms: 1, crypto: CryptoMode::None }
}

#[test]
fn snapshots_are_numbered_listed_and_read_back() {
    let fixture = Fixture::new();
    let (first, second) = (sample_tree(1), sample_tree(2));
    let one = fixture.back_up(&first);
    let two = fixture.back_up(&second);
    let again = fixture.back_up(&first);
    assert_eq!([one.number, two.number, again.number], [1, 2, 3]);

    let repository = fixture.runtime.block_on(Repository::open(fixture.repository.store().clone())).unwrap();
    assert_eq!(repository.info().id, fixture.repository.info().id);
    let snapshots = fixture.runtime.block_on(repository.snapshots()).unwrap();
    assert!(snapshots.broken.is_empty());
    let ids: Vec<_> = snapshots.good.iter().map(|snapshot| snapshot.header.id).collect();
    assert_eq!(ids, [one, two, again]);
    let commits: Vec<_> = snapshots.good.iter().map(|snapshot| snapshot.header.commit_number).collect();
    assert_eq!(commits, [1, 2, 3]);
    assert_eq!(snapshots.good[0].body.root, snapshots.good[2].body.root);

    for (id, tree) in [(one, &first), (two, &second), (again, &first)] {
        assert_eq!(fixture.read(id), (expected(tree), 0));
    }
    let report = fixture.verify();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.snapshots, report.packs_read), (3, report.packs));
    assert!(fixture.verify_at(Level::Metadata).is_clean());
}

#[test]
fn o09_one_place_holds_one_repository() {
    let fixture = Fixture::new();
    let again = fixture.runtime.block_on(Repository::init(fixture.repository.store().clone(), options()));
    assert!(matches!(again, Err(InitError::Exists { .. })));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("holiday.jpg"), "x").unwrap();
    let store = Store::directory(dir.path()).unwrap();
    assert!(matches!(
        fixture.runtime.block_on(Repository::open(store.clone())),
        Err(OpenError::NotARepository { .. })
    ));
    assert!(matches!(
        fixture.runtime.block_on(Repository::init(store, options())),
        Err(InitError::NotEmpty { .. })
    ));
}

#[test]
fn an_init_that_was_cut_off_can_be_repeated() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path.join("repo.json")).unwrap();
    std::fs::remove_file(fixture.path.join("RECOVERY/recover.py")).unwrap();
    // By the next process: to this one, it is a repository that went away.
    let store = Store::directory(&fixture.path).unwrap();
    fixture.runtime.block_on(Repository::init(store, options())).unwrap();
}

#[test]
fn a_snapshot_with_references_to_nowhere_is_not_committed() {
    let fixture = Fixture::new();
    let id = fixture.back_up(&sample_tree(1));
    let body = fixture.runtime.block_on(fixture.repository.snapshot(id)).unwrap().body;
    let pack = fixture.objects().into_iter().find(|name| name.starts_with("packs/")).unwrap();
    std::fs::remove_file(fixture.path.join(pack)).unwrap();
    let session = fixture.session();
    let outcome = session.commit(fixture.host, SourceId::generate(), &SnapshotBody { ..body }, 1);
    assert!(matches!(outcome, Err(CommitError::Missing { .. } | CommitError::Manifest(_))), "{outcome:?}");
    assert_eq!(fixture.objects().iter().filter(|name| name.starts_with("snapshots/")).count(), 1);
}

#[test]
fn s08_index_files_are_hints_and_lies_in_them_are_reported() {
    let fixture = Fixture::new();
    fixture.back_up(&sample_tree(1));
    let index = fixture.runtime.block_on(fixture.repository.load_index()).unwrap();
    let mut packs = Vec::new();
    for pack in index.packs() {
        let table = fixture.runtime.block_on(fixture.repository.read_table(pack.id, pack.len)).unwrap();
        packs.push(IndexedPack { pack: pack.id, len: pack.len, table });
    }
    let put = |packs: &[IndexedPack]| {
        let object = encode_index(packs).into();
        fixture.runtime.block_on(fixture.repository.store().put(&ObjectKey::Index(1), object)).unwrap();
    };
    put(&packs);
    assert!(fixture.verify_at(Level::Metadata).is_clean());

    let table = std::mem::take(&mut packs[0].table);
    packs[0].table = packs[1].table.clone();
    packs[0].len = packs[1].len;
    packs[1].table = table;
    put(&packs[..1]);
    let report = fixture.verify_at(Level::Metadata);
    assert_eq!(report.problems.len(), 1, "{report:#?}");
    assert_eq!(report.problems[0].kind, ProblemKind::Index);
}

/// Everybody who has `zstd` can prove a pack.
#[test]
fn zstd_accepts_every_pack() {
    let fixture = Fixture::new();
    fixture.back_up(&sample_tree(1));
    let packs: Vec<_> = fixture
        .objects()
        .into_iter()
        .filter(|name| name.starts_with("packs/"))
        .map(|name| fixture.path.join(name))
        .collect();
    assert!(packs.len() > 2);
    let Ok(outcome) = std::process::Command::new("zstd").arg("-tq").args(&packs).output() else {
        ::support::record::skipped("there is no program `zstd`");
        return;
    };
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
}

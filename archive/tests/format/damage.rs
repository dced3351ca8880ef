//! Every kind of damage to every kind of object: found, named, and no more
//! lost than was hit.

use std::collections::BTreeSet;

use holdfast_archive::frame::encode;
use holdfast_archive::ids::{AllocationId, PackId, SnapshotId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::keys::StateFile;
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::FrameKind;
use holdfast_archive::repository::{Repository, hash};
use holdfast_archive::state::{encode_hosts, encode_index, encode_policies};
use holdfast_archive::store::StoreErrorKind;
use holdfast_archive::verify::{Level, ProblemKind, Report, verify};

use crate::support::{Fixture, Tree, expected, flip, overwrite, sample_tree};

struct Damaged {
    fixture: Fixture,
    trees: Vec<(SnapshotId, Tree)>,
}

fn two_snapshots() -> Damaged {
    let fixture = Fixture::new();
    let trees = [1, 5].map(|seed| {
        let tree = sample_tree(seed);
        (fixture.back_up(&tree), tree)
    });
    let store = fixture.repository.store();
    let put = |key, bytes: Vec<u8>| fixture.runtime.block_on(store.put(&key, bytes.into())).unwrap();
    put(ObjectKey::State(StateFile::Policies), encode_policies(b"policies"));
    put(ObjectKey::State(StateFile::Hosts), encode_hosts(b"hosts"));
    put(ObjectKey::Index(7), encode_index(&[]));
    Damaged { trees: trees.into(), fixture }
}

impl Damaged {
    /// Reads all that can be read and holds it against what the report says
    /// is lost: content that is given is right, and what is lost was named.
    fn check_losses(&self, report: &Report, what: &str) {
        let damaged = report.damaged_snapshots();
        let named: BTreeSet<(SnapshotId, &[u8])> = report
            .problems
            .iter()
            .flat_map(|problem| &problem.files)
            .map(|file| (file.snapshot, &file.path[..]))
            .collect();
        for (id, tree) in &self.trees {
            let object = self.fixture.runtime.block_on(self.fixture.repository.snapshot(*id));
            if object.is_err() {
                assert!(damaged.contains(id), "{what}: {id} is lost and not named");
                continue;
            }
            let (got, errors) = self.fixture.read(*id);
            let expected = expected(tree);
            let lost = got.iter().filter(|(_, content)| content.is_none()).count();
            assert_eq!(
                damaged.contains(id),
                errors > 0 || lost > 0,
                "{what}: {id}: {errors} errors, {lost} files lost; {report:#?}"
            );
            for (path, content) in &got {
                match content {
                    Some(_) => assert!(content == &expected[path], "{what}: `{}`", path.escape_ascii()),
                    None => assert!(named.contains(&(*id, path)), "{what}: `{}`", path.escape_ascii()),
                }
            }
            assert!(errors > 0 || got.len() == expected.len());
        }
    }
}

#[test]
fn s06_any_flipped_bit_in_any_object_is_found_and_costs_no_more_than_it_hits() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let objects = fixture.objects();
    for prefix in ["repo.json", "RECOVERY/", "packs/", "snapshots/", "state/", "index/"] {
        assert!(objects.iter().any(|name| name.starts_with(prefix)), "{prefix} in {objects:?}");
    }
    for name in &objects {
        let path = fixture.path.join(name);
        let bits = std::fs::metadata(&path).unwrap().len() as usize * 8;
        // Begin, end, and places in between; in packs also the table's end.
        for bit in [0, bits / 7, bits / 2, bits - 300, bits - 1] {
            let what = format!("bit {bit} of {bits} of {name}");
            flip(&path, bit);
            let opened = fixture.runtime.block_on(Repository::open(fixture.repository.store().clone()));
            let report = fixture.verify();
            assert_eq!(opened.is_err(), name == "repo.json", "{what}");
            assert!(report.problems.iter().any(|problem| problem.object == *name), "{what}: {report:#?}");
            damaged.check_losses(&report, &what);
            flip(&path, bit);
        }
    }
    assert!(fixture.verify().is_clean());
}

#[test]
fn s07_missing_cut_and_emptied_objects_are_found() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    for name in fixture.objects() {
        let path = fixture.path.join(&name);
        let whole = std::fs::read(&path).unwrap();
        for cut in [None, Some(0), Some(whole.len() / 2), Some(whole.len() - 1)] {
            match cut {
                None => std::fs::remove_file(&path).unwrap(),
                Some(len) => overwrite(&path, &whole[..len]),
            }
            let what = format!("{name} cut to {cut:?}");
            if cut.is_none() && name == "repo.json" {
                // What then lies there is no repository: nothing is said of one.
                let error = fixture.try_verify(Level::Metadata).expect_err(&what);
                assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}");
                overwrite(&path, &whole);
                continue;
            }
            let report = fixture.verify();
            let optional = ["index/", "state/policies", "state/hosts", "snapshots/"];
            let may_be_absent = optional.iter().any(|prefix| name.starts_with(prefix));
            if cut.is_some() || !may_be_absent {
                assert!(!report.is_clean(), "{what}");
            }
            if !(cut.is_none() && name.starts_with("snapshots/")) {
                damaged.check_losses(&report, &what);
            }
            overwrite(&path, &whole);
        }
    }
    assert!(fixture.verify().is_clean());
}

#[test]
fn a_lost_pack_that_an_index_file_knows_is_named() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let index = fixture.runtime.block_on(fixture.repository.load_index()).unwrap();
    let pack = index.packs()[0];
    let table = fixture.runtime.block_on(fixture.repository.read_table(pack.id, pack.len)).unwrap();
    let hint = encode_index(&[holdfast_archive::state::IndexedPack { pack: pack.id, len: pack.len, table }]);
    overwrite(&fixture.path.join("index/7"), &hint);
    let name = ObjectKey::Pack(pack.id).to_string();
    std::fs::remove_file(fixture.path.join(&name)).unwrap();
    let report = fixture.verify_at(Level::Metadata);
    let problem = report.problems.iter().find(|problem| problem.object == name).unwrap();
    assert_eq!(problem.kind, ProblemKind::MissingPack);
    assert!(problem.lost_frames > 0 && !problem.snapshots.is_empty());
    damaged.check_losses(&report, "a lost pack");
}

#[test]
fn s09_hostile_objects_are_set_apart_and_cost_nothing() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let (id, _) = damaged.trees[0];
    let snapshot = std::fs::read(fixture.path.join(ObjectKey::Snapshot(id).to_string())).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = fixture.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        overwrite(&path, bytes);
    };
    // Copied to another number; garbage as a snapshot, a hint, a pack; a name of no kind.
    let copied = ObjectKey::Snapshot(SnapshotId { number: 99, ..id }).to_string();
    let garbage = ObjectKey::Snapshot(SnapshotId { number: 100, ..id }).to_string();
    let pack = PackId { sha256: [9; 32], allocation: AllocationId::generate() };
    let pack = ObjectKey::Pack(pack).to_string();
    put(&copied, &snapshot);
    put(&garbage, &[0xff; 5000]);
    put("index/8", &[0; 100]);
    put(&pack, &[1; 4000]);
    put("packs/README.txt", b"hello");
    let report = fixture.verify();
    for name in [&copied[..], &garbage, "index/8", &pack, "packs/README.txt"] {
        assert!(report.problems.iter().any(|problem| problem.object == name), "{name}: {report:#?}");
    }
    assert_eq!(report.problems.len(), 5, "{report:#?}");
    let snapshots = fixture.runtime.block_on(fixture.repository.snapshots()).unwrap();
    assert_eq!((snapshots.good.len(), snapshots.broken.len()), (2, 2));
    for (id, tree) in &damaged.trees {
        assert_eq!(fixture.read(*id), (expected(tree), 0));
    }
}

/// A pack whose table claims frames of others, with other bytes in them.
#[test]
fn s09_a_pack_that_claims_frames_it_does_not_have_hides_none() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let index = fixture.runtime.block_on(fixture.repository.load_index()).unwrap();
    let mut liar = PackBuilder::new();
    for pack in index.packs() {
        for entry in fixture.runtime.block_on(fixture.repository.read_table(pack.id, pack.len)).unwrap() {
            let other = encode(FrameKind::Data, &vec![b'x'; entry.raw_len as usize], 1);
            liar.push_stored(entry.id, entry.kind, 0, entry.raw_len, &other.bytes);
        }
    }
    let liar = liar.finish();
    for _ in 0..3 {
        let id = PackId { sha256: liar.sha256, allocation: AllocationId::generate() };
        let key = ObjectKey::Pack(id);
        fixture.runtime.block_on(fixture.repository.store().put(&key, liar.bytes.clone())).unwrap();
    }
    for (id, tree) in &damaged.trees {
        assert_eq!(fixture.read(*id), (expected(tree), 0));
    }
    let report = fixture.verify();
    assert_eq!(report.problems.len(), 3, "{report:#?}");
    assert!(report.damaged_snapshots().is_empty());
}

#[test]
fn a_head_from_a_copy_is_noticed() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let old = std::fs::read(fixture.path.join("state/head")).unwrap();
    fixture.back_up(&sample_tree(1));
    overwrite(&fixture.path.join("state/head"), &old);
    let report = fixture.verify_at(Level::Metadata);
    assert_eq!(report.problems.len(), 1, "{report:#?}");
    assert_eq!(report.problems[0].kind, ProblemKind::State);
}

#[test]
fn h01_a_damaged_table_costs_no_frame() {
    let damaged = two_snapshots();
    let fixture = &damaged.fixture;
    let mut packs = 0;
    for name in fixture.objects().iter().filter(|name| name.starts_with("packs/")) {
        let path = fixture.path.join(name);
        let bits = std::fs::metadata(&path).unwrap().len() as usize * 8;
        flip(&path, bits - 1);
        packs += 1;
    }
    assert!(packs > 1);
    for (id, tree) in &damaged.trees {
        assert_eq!(fixture.read(*id), (expected(tree), 0), "everything is read without any table");
    }
    let report = fixture.verify();
    assert_eq!(report.problems.len(), packs, "{report:#?}");
    assert!(report.problems.iter().all(|problem| problem.kind == ProblemKind::PackTable), "{report:#?}");
    assert!(report.damaged_snapshots().is_empty());
}

#[test]
fn v15_a_recovery_file_is_not_sound_because_repo_json_says_so() {
    let fixture = Fixture::new();
    let path = fixture.path.join("RECOVERY/recover.py");
    let theirs = b"import os\n";
    overwrite(&path, theirs);
    let mut info = fixture.repository.info().clone();
    info.recovery.insert("RECOVERY/recover.py".to_owned(), hash(theirs));
    overwrite(&fixture.path.join("repo.json"), &info.encode());
    let store = fixture.repository.store().clone();
    let opened = fixture.runtime.block_on(Repository::open(store)).unwrap();
    assert_eq!(opened.info(), &info);
    let progress = std::sync::Arc::default();
    let report = fixture.runtime.block_on(verify(&opened, Level::Metadata, progress)).unwrap();
    let found: Vec<_> = report.problems.iter().map(|one| (one.kind, one.object.as_str())).collect();
    assert_eq!(found, [(ProblemKind::RecoveryFile, "RECOVERY/recover.py")], "{report:#?}");
}

//! A repository that is verified while others write to it and collect.

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_archive::entry::EntryKind;
use holdfast_archive::ids::{AllocationId, PackId, SnapshotId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::verify::{Level, Share};

use crate::support::{Fixture, Tree, file, noise, other};

/// Frames that no other tree has.
fn tree(seed: u64) -> Tree {
    let mut tree = vec![other(b"", EntryKind::Directory)];
    tree.extend((0..4).map(|n| file(format!("file-{n}").as_bytes(), noise(seed * 10 + n, 300_000))));
    tree
}

fn packs(fixture: &Fixture) -> BTreeSet<String> {
    fixture.objects().into_iter().filter(|name| name.starts_with("packs/")).collect()
}

/// A backup that is in the repository, with the packs only it needs.
struct Backup {
    id: SnapshotId,
    packs: Vec<String>,
}

struct Host<'a> {
    fixture: &'a Fixture,
    backups: VecDeque<Backup>,
    seed: u64,
}

impl Host<'_> {
    fn back_up(&mut self) {
        let before = packs(self.fixture);
        self.seed += 1;
        let id = self.fixture.back_up(&tree(self.seed));
        let packs = packs(self.fixture).difference(&before).cloned().collect();
        self.backups.push_back(Backup { id, packs });
    }

    fn delete(&self, key: &ObjectKey) {
        let store = self.fixture.repository.store();
        let left = self.fixture.runtime.block_on(store.delete(std::slice::from_ref(key))).unwrap();
        assert!(left.is_empty());
    }

    /// As a purge and a collection go: the snapshot, then its packs.
    fn forget_oldest(&mut self) {
        let Some(Backup { id, packs }) = self.backups.pop_front() else { return };
        self.delete(&ObjectKey::Snapshot(id));
        packs.iter().for_each(|pack| self.delete(&ObjectKey::parse(pack).unwrap()));
    }

    /// As what was damaged is sent again: the new copy, then the old one goes.
    fn renew_newest(&mut self) {
        let Some(backup) = self.backups.back() else { return };
        let renewed = backup.packs.iter().map(|pack| {
            let bytes = std::fs::read(self.fixture.path.join(pack)).unwrap();
            let Some(ObjectKey::Pack(old)) = ObjectKey::parse(pack) else { panic!("{pack}") };
            let new = ObjectKey::Pack(PackId { sha256: old.sha256, allocation: AllocationId::generate() });
            self.fixture.runtime.block_on(self.fixture.repository.store().put(&new, bytes.into())).unwrap();
            self.delete(&ObjectKey::Pack(old));
            new.to_string()
        });
        let renewed = renewed.collect();
        self.backups.back_mut().unwrap().packs = renewed;
    }
}

#[test]
fn h08_a_repository_in_use_has_no_losses() {
    let fixture = Fixture::new();
    let mut host = Host { fixture: &fixture, backups: VecDeque::new(), seed: 0 };
    host.back_up();
    host.back_up();
    let over = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                host.back_up();
                host.forget_oldest();
                host.renew_newest();
                rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let verified = std::panic::catch_unwind(AssertUnwindSafe(|| {
            // On a busy machine either side may be the slower one.
            let mut verified = 0;
            while verified < 30 || rounds.load(Ordering::Relaxed) <= 10 {
                for level in [Level::Metadata, Level::Packs(Share::ALL)] {
                    let report = fixture.verify_at(level);
                    assert!(report.is_clean(), "{level:?}: {report:#?}");
                    assert!(report.packs > 0);
                }
                verified += 1;
                assert!(!working.is_finished(), "the host has stopped");
            }
        }));
        over.store(true, Ordering::Relaxed);
        working.join().unwrap();
        verified.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // And a real loss is one, also here.
    let lost = packs(&fixture).pop_first().unwrap();
    std::fs::remove_file(fixture.path.join(&lost)).unwrap();
    let report = fixture.verify();
    assert!(!report.damaged_snapshots().is_empty(), "{report:#?}");
}

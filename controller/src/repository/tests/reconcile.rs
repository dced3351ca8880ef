//! What a reconciliation and a rebuild must not lose: each scenario over a real
//! store and a real catalogue, then rounds of collection, then every snapshot
//! read to its last byte.

use std::path::PathBuf;

use holdfast_archive::entry::EntryKind;
use holdfast_archive::fetch::FrameFetcher;
use holdfast_archive::manifest::ManifestReader;

use super::*;
use crate::repository::rebuild::Rebuilt;

/// The content of a snapshot's file, read as a restore reads it.
pub(super) async fn content(repository: &Repository, id: &SnapshotId) -> Result<Vec<u8>, String> {
    let (root, source) = repository.reader(id).await.map_err(|error| error.to_string())?;
    let read = move || {
        let fetcher = FrameFetcher::new(source, 0);
        let mut content = Vec::new();
        for entry in ManifestReader::open(&fetcher, root).entries() {
            let EntryKind::File(data) = entry.map_err(|error| format!("{error:?}"))?.kind else { continue };
            for extent in data.extents {
                let raw = fetcher.get(extent.frame).map_err(|error| format!("{error:?}"))?;
                let from = extent.frame_offset as usize;
                content.extend_from_slice(&raw[from..from + extent.len as usize]);
            }
        }
        Ok(content)
    };
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

/// Rounds of collection over days of running time; whether they were refused.
pub(super) async fn collect_for_days(repository: &Repository) -> bool {
    let mut refused = false;
    for _ in 0..4 {
        repository.catalog().advance_ticks(200).await.expect("time passes");
        match gc::round(repository).await {
            Ok(_) => {}
            Err(RepositoryError::Suspended(_)) => refused = true,
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

/// One that lost its catalogue, or keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Reconcile,
    Rebuild,
}

pub(super) const BOTH: [How; 2] = [How::Reconcile, How::Rebuild];

impl World {
    fn path(&self, pack: PackId) -> PathBuf {
        self.dir.path().join("bucket").join(ObjectKey::Pack(pack).to_string())
    }

    fn flip(&self, pack: PackId, at: usize) {
        let mut bytes = std::fs::read(self.path(pack)).expect("read");
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x10;
        std::fs::write(self.path(pack), bytes).expect("written");
    }

    /// Rots this frame where it lies in the pack.
    pub(super) fn rot(&self, pack: PackId, tree: &Tree, frame: FrameId) {
        let row = tree.pack.table.iter().find(|row| row.id == frame).expect("in the pack");
        self.flip(pack, row.offset as usize + row.stored_len as usize / 2);
    }

    /// The repository with its catalogue, or with an empty one, after a pass.
    async fn afresh(&self, how: How) -> (Repository, Rebuilt) {
        let (repository, take_over) = match how {
            How::Reconcile => (self.repository.clone(), None),
            How::Rebuild => {
                let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
                let (store, settings) = (self.repository.store().clone(), self.repository.settings().clone());
                (Repository::new(catalog, store, settings), Some("another"))
            }
        };
        let rebuilt = repository.reconcile(take_over, false).await.expect("a pass");
        (repository, rebuilt)
    }
}

async fn assert_content(repository: &Repository, wanted: &[(SnapshotId, &str)], what: &str) {
    for (id, text) in wanted {
        let read = content(repository, id).await;
        assert_eq!(read.as_deref(), Ok(text.as_bytes()), "{what}: snapshot {id}");
    }
}

#[track_caller]
fn assert_lacks(rebuilt: &Rebuilt, id: &SnapshotId, frames: u64) {
    let [loss] = &rebuilt.losses[..] else { panic!("{rebuilt:?}") };
    let (what, name) = (format!("lacks {frames} frames"), format!("snapshot {id} (web-1//data, "));
    assert!(loss.starts_with(&name) && loss.ends_with(&what), "{loss}");
}

/// A frame of that kind rots and is sent again: it lies in two packs then. Both
/// snapshots are whole.
async fn healed(frame: fn(&Tree) -> FrameId) -> (World, [SnapshotId; 2]) {
    let world = World::new().await;
    let tree = tree("healed once");
    let lease = world.open().await;
    let first = world.send(lease, &tree.pack).await;
    let old = world.committed(lease, &tree).await;
    world.rot(first, &tree, frame(&tree));
    let lease = world.open().await;
    let lost = world.repository.report_lost(world.host, lease, &tree.frames).await;
    assert_eq!(lost.expect("looked at"), 1);
    world.send(lease, &tree.pack).await;
    let new = world.committed(lease, &tree).await;
    assert_content(&world.repository, &[(old, "healed once"), (new, "healed once")], "before").await;
    (world, [old, new])
}

fn page(tree: &Tree) -> FrameId {
    tree.frames[1]
}

fn data(tree: &Tree) -> FrameId {
    tree.frames[0]
}

#[tokio::test]
async fn h01_a_healed_frame_is_found_in_the_pack_that_has_it() {
    for frame in [page as fn(&Tree) -> FrameId, data] {
        for how in BOTH {
            // Which of the two packs comes first is chance.
            for _ in 0..6 {
                let (world, [old, new]) = healed(frame).await;
                let (repository, rebuilt) = world.afresh(how).await;
                assert_eq!(rebuilt.losses, Vec::<String>::new(), "{how:?}");
                assert!(!collect_for_days(&repository).await);
                let wanted = [(old, "healed once"), (new, "healed once")];
                assert_content(&repository, &wanted, &format!("{how:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn h01_below_a_page_that_is_lost_everything_stays_until_it_is_sent_again() {
    for how in BOTH {
        let world = World::new().await;
        let (content, pages) = (tree("below"), tree_with(b"file", "below", false));
        let lease = world.open().await;
        // Content alone, then pages alone.
        let below = world.send(lease, &only_content(&content)).await;
        let above = world.send(lease, &pages.pack).await;
        let id = world.committed(lease, &pages).await;
        world.rot(above, &pages, page(&pages));
        let (repository, rebuilt) = world.afresh(how).await;
        assert_lacks(&rebuilt, &id, 1);
        assert!(repository.get(&id).await.expect("known").partial);
        assert!(collect_for_days(&repository).await, "{how:?}: nothing is deleted");
        assert!(world.stored(below).await && world.stored(above).await, "{how:?}");
        let plan = gc::plan(&repository).await.expect("a plan");
        assert!(plan.packs_deleted == 0 && plan.notes[0].contains("--accept-loss"), "{plan:?}");
        let shown = repository.status().await.expect("status").collection_off;
        assert!(shown.contains("nothing is deleted"), "{shown}");

        // The host still has it: the page comes again, and the old snapshot is whole.
        let world = World { repository, ..world }.with_host().await;
        let lease = world.open().await;
        assert!(!world.have(lease, &pages).await[1], "a lost page is not offered");
        world.send(lease, &pages.pack).await;
        if how == How::Rebuild {
            world.send(lease, &only_content(&content)).await;
        }
        let new = world.committed(lease, &pages).await;
        let rebuilt = world.repository.reconcile(None, false).await.expect("a pass");
        assert_eq!((rebuilt.losses, rebuilt.collection_off.as_str()), (vec![], ""), "{how:?}");
        assert!(!world.repository.get(&id).await.expect("known").partial);
        world.repository.forget(&new).await.expect("forgotten");
        assert!(!collect_for_days(&world.repository).await);
        assert_content(&world.repository, &[(id, "below")], &format!("{how:?}")).await;
    }
}

/// The pack of a tree without its pages.
fn only_content(tree: &Tree) -> SealedPack {
    let mut pack = PackBuilder::new();
    let row = &tree.pack.table[0];
    let stored = &tree.pack.bytes[row.offset as usize..][..row.stored_len as usize];
    pack.push_stored(row.id, row.kind, 0, row.raw_len, stored);
    pack.finish()
}

impl World {
    /// Knows its host and source in the catalogue it has now.
    async fn with_host(self) -> Self {
        let catalog = self.repository.catalog();
        if catalog.host(self.host).await.expect("asked").is_none() {
            catalog.import_host(self.host, "web-1", &Default::default()).await.expect("known again");
            let id = SnapshotId { host: self.host, source: self.source, number: 1 };
            catalog.import_source(&id, "directory", "/data", 1).await.expect("known again");
        }
        self
    }
}

#[tokio::test]
async fn h01_a_loss_is_given_up_only_once_it_was_shown_and_by_name() {
    for how in BOTH {
        let world = World::new().await;
        let (content, pages) = (tree("given up"), tree_with(b"file", "given up", false));
        let lease = world.open().await;
        let below = world.send(lease, &only_content(&content)).await;
        let above = world.send(lease, &pages.pack).await;
        let id = world.committed(lease, &pages).await;
        world.rot(above, &pages, page(&pages));
        let (repository, _) = match how {
            How::Rebuild => world.afresh(how).await,
            How::Reconcile => (world.repository.clone(), Rebuilt::default()),
        };
        if how == How::Reconcile {
            let blind = repository.reconcile(None, true).await.expect("a pass");
            assert!(blind.losses.len() == 1 && blind.notes[0].contains("had not been shown"), "{blind:?}");
            assert!(collect_for_days(&repository).await);
        }
        let given_up = repository.reconcile(None, true).await.expect("a pass");
        assert_eq!((given_up.losses, given_up.collection_off.as_str()), (vec![], ""), "{how:?}");
        assert!(!collect_for_days(&repository).await);
        // A catalogue that knew what lay below has kept it all the same.
        assert_eq!(world.stored(below).await, how == How::Reconcile, "{how:?}");
        assert!(repository.get(&id).await.expect("known").partial);
        // It was given up once and for all, but nothing else was.
        let again = repository.reconcile(None, false).await.expect("a pass");
        assert_eq!(again.collection_off, "", "{how:?}: {again:?}");
        let other = world.repository.store().clone();
        let key = ObjectKey::Snapshot(SnapshotId { number: 2, ..id });
        other.put(&key, vec![0; 100].into()).await.expect("stored");
        let again = repository.reconcile(None, false).await.expect("a pass");
        assert!(again.losses.len() == 1 && collect_for_days(&repository).await, "{how:?}: {again:?}");
    }
}

#[tokio::test]
async fn h01_a_damaged_table_costs_no_frame() {
    #[derive(Debug, Clone, Copy)]
    enum Damage {
        LastByte,
        Cut,
        Row,
    }
    for how in BOTH {
        for hints in [true, false] {
            for damage in [Damage::LastByte, Damage::Cut, Damage::Row] {
                let what = format!("{how:?}, hints: {hints}, {damage:?}");
                let world = World::new().await;
                let tree = tree("whole but for its table");
                let lease = world.open().await;
                let pack = world.send(lease, &tree.pack).await;
                let id = world.committed(lease, &tree).await;
                if hints {
                    assert_eq!(world.repository.write_hints().await.expect("written"), 1);
                }
                let length = tree.pack.bytes.len();
                match damage {
                    Damage::LastByte => world.flip(pack, length - 1),
                    Damage::Row => world.flip(pack, length - 40),
                    Damage::Cut => {
                        let file = std::fs::File::options().write(true).open(world.path(pack));
                        file.expect("opened").set_len(length as u64 - 1).expect("cut");
                    }
                }
                let (repository, rebuilt) = world.afresh(how).await;
                assert_eq!(rebuilt.losses, Vec::<String>::new(), "{what}");
                let note = &rebuilt.notes[0];
                assert!(note.contains("2 of its frames were read without its table, 0 cannot be"), "{note}");
                assert!(!collect_for_days(&repository).await, "{what}");
                assert!(world.stored(pack).await, "{what}");
                assert_content(&repository, &[(id, "whole but for its table")], &what).await;
                if hints {
                    // The only place that has its table is kept.
                    repository.write_hints().await.expect("written");
                    let file = repository.store().head(&ObjectKey::Index(1)).await.expect("asked");
                    assert!(file.is_some(), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn h01_what_is_sent_again_after_a_pack_was_lost_belongs_to_the_older_snapshots() {
    for how in BOTH {
        let world = World::new().await;
        let tree = tree("lost and found");
        let lease = world.open().await;
        let lost = world.send(lease, &only_content(&tree)).await;
        let pages = tree_with(b"file", "lost and found", false);
        world.send(lease, &pages.pack).await;
        let old = world.committed(lease, &pages).await;
        std::fs::remove_file(world.path(lost)).expect("removed");
        let (repository, rebuilt) = world.afresh(how).await;
        assert_lacks(&rebuilt, &old, 1);
        let world = World { repository, ..world }.with_host().await;
        let (job, generation) = world.job().await;
        let opened = world.repository.open_upload(world.host, job, generation, world.source).await;
        let opened = opened.expect("opens");
        assert_eq!(opened.damaged.frames, [data(&tree)], "{how:?}: the host is told to send it again");
        world.send(opened.lease, &only_content(&tree)).await;
        let new = world.committed(opened.lease, &pages).await;
        world.repository.reconcile(None, false).await.expect("a pass");
        world.repository.forget(&new).await.expect("forgotten");
        assert!(!collect_for_days(&world.repository).await);
        assert!(world.repository.get(&new).await.is_err(), "purged");
        assert_content(&world.repository, &[(old, "lost and found")], &format!("{how:?}")).await;
    }
}

#[tokio::test]
async fn h01_a_snapshot_whose_object_was_lost_is_stored_again() {
    let world = World::new().await;
    let id = world.backup(&tree("its row has it")).await;
    let key = ObjectKey::Snapshot(id);
    let before = world.repository.store().get(&key).await.expect("there");
    for damage in [None, Some(vec![1_u8; 50])] {
        match damage {
            None => drop(world.repository.store().delete(std::slice::from_ref(&key)).await.expect("deleted")),
            Some(bytes) => world.repository.store().put(&key, bytes.into()).await.expect("stored"),
        }
        let rebuilt = world.repository.reconcile(None, false).await.expect("a pass");
        assert_eq!(rebuilt.losses, Vec::<String>::new());
        assert_eq!(world.repository.store().get(&key).await.expect("there"), before);
        assert!(!collect_for_days(&world.repository).await);
        assert_content(&world.repository, &[(id, "its row has it")], "stored again").await;
    }
    // Where frames are gone as well it is kept, as far as it goes, until it is given up.
    world.repository.store().delete(std::slice::from_ref(&key)).await.expect("deleted");
    for pack in world.repository.catalog().all_packs().await.expect("asked") {
        std::fs::remove_file(world.path(pack.id)).expect("removed");
    }
    let rebuilt = world.repository.reconcile(None, false).await.expect("a pass");
    assert_eq!(rebuilt.losses.len(), 1, "{rebuilt:?}");
    world.repository.get(&id).await.expect("still known");
    world.repository.reconcile(None, true).await.expect("a pass");
    world.repository.get(&id).await.expect_err("given up");
}

#[tokio::test]
async fn h01_a_head_that_is_gone_or_damaged_suspends_and_is_written_anew() {
    let world = World::new().await;
    let id = world.backup(&tree("without a head")).await;
    let key = ObjectKey::State(StateFile::Head);
    world.repository.store().delete(std::slice::from_ref(&key)).await.expect("deleted");
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Behind);
    assert!(collect_for_days(&world.repository).await);
    world.repository.reconcile(None, false).await.expect("a pass");
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Whole);
    world.repository.store().put(&key, vec![7; 60].into()).await.expect("stored");
    let damaged = world.repository.check().await;
    assert!(matches!(damaged, Err(RepositoryError::Damaged(_))), "{damaged:?}");
    let rebuilt = world.repository.reconcile(None, false).await.expect("a pass");
    assert!(rebuilt.losses.is_empty() && rebuilt.notes[0].contains("state/head"), "{rebuilt:?}");
    assert!(!collect_for_days(&world.repository).await);
    assert_content(&world.repository, &[(id, "without a head")], "a new head").await;
}

/// Frames with where each lies, snapshots with what each reaches, by ids.
async fn rows(repository: &Repository) -> (Vec<String>, Vec<String>) {
    let catalog = repository.catalog();
    let mut frames = Vec::new();
    for pack in catalog.all_packs().await.expect("asked") {
        for row in catalog.frames_of_pack(&pack.id).await.expect("asked") {
            frames.push(format!("{:?} {:?} {}", pack.host, row.location, pack.length));
        }
    }
    frames.sort_unstable();
    let mut snapshots = Vec::new();
    for record in repository.list(&SnapshotFilter::default()).await.expect("listed") {
        let reached = catalog.snapshot_frames(record.commit_number).await.expect("asked");
        let rows = catalog.frames_by_number(&reached).await.expect("asked");
        let mut ids: Vec<FrameId> = rows.iter().map(|row| row.location.entry.id).collect();
        ids.sort_unstable();
        assert_eq!(ids.len() as u64, reached.len());
        snapshots.push(format!("{} {} {} {:?}", record.id, record.commit_number, record.created_ms, ids));
    }
    (frames, snapshots)
}

#[tokio::test]
async fn s08_without_any_index_file_the_rebuilt_rows_are_the_old_ones() {
    let world = World::new().await;
    for n in 0..5 {
        world.backup(&tree(&format!("content {n}"))).await;
    }
    world.repository.write_hints().await.expect("written");
    let before = rows(&world.repository).await;
    assert_eq!((before.0.len(), before.1.len()), (10, 5));
    let (with_hints, _) = world.afresh(How::Rebuild).await;
    assert_eq!(rows(&with_hints).await, before);
    std::fs::remove_dir_all(world.dir.path().join("bucket/index")).expect("removed");
    let (without, rebuilt) = world.afresh(How::Rebuild).await;
    assert_eq!((rebuilt.notes, rebuilt.losses), (vec![], vec![]));
    assert_eq!(rows(&without).await, before);
}

#[tokio::test]
async fn index_files_hold_every_pack_once_and_go_with_them() {
    let world = World::new().await;
    let store = world.repository.store();
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(world.backup(&tree(&format!("indexed {n}"))).await);
        assert_eq!(world.repository.write_hints().await.expect("written"), 1);
    }
    assert_eq!(world.repository.write_hints().await.expect("nothing new"), 0);
    let listed = async || -> Vec<(u64, usize)> {
        let mut files = Vec::new();
        for item in store.list(holdfast_archive::keys::Prefix::Index, None).await.expect("listed").items {
            let Some(ObjectKey::Index(number)) = item.key else { panic!("{item:?}") };
            files.push((
                number,
                world.repository.read_index(number).await.expect("read").expect("whole").len(),
            ));
        }
        files
    };
    // The newest has taken in the others, which are gone.
    assert_eq!(listed().await, [(3, 3)]);
    // A new controller goes on with it, and gives no number twice.
    let (rebuilt, _) = world.afresh(How::Rebuild).await;
    assert_eq!(rebuilt.write_hints().await.expect("nothing new"), 0);
    for id in &ids[..2] {
        rebuilt.forget(id).await.expect("forgotten");
    }
    assert!(!collect_for_days(&rebuilt).await);
    assert_eq!(rebuilt.write_hints().await.expect("written"), 0);
    assert_eq!(listed().await, [(4, 1)], "most of it was gone");
    rebuilt.forget(&ids[2]).await.expect("forgotten");
    assert!(!collect_for_days(&rebuilt).await);
    rebuilt.write_hints().await.expect("written");
    assert_eq!(listed().await, []);
}

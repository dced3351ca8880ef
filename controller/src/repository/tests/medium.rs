//! What the medium lost is called lost, and nothing else is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use holdfast_archive::keys::RecoveryFile;
use holdfast_archive::pack_io::FrameLocation;
use holdfast_archive::repository::text;
use holdfast_archive::store::{Fault, Rule, StoreErrorKind, Verb};
use holdfast_archive::verify::ProblemKind;

use super::truth::{faulty, tree_of};
use super::*;

#[tokio::test]
async fn h04_a_bad_sector_costs_the_frames_on_it_and_the_next_backup_heals() {
    let (world, plan) = faulty().await;
    let first = tree("on a bad sector");
    let lease = world.open().await;
    let pack = world.send(lease, &first.pack).await;
    let Committed::Snapshot(record) = world.commit(lease, &first).await else { panic!("missing") };
    let id = record.id;
    for (at, entry) in first.pack.table.iter().enumerate() {
        plan.clear();
        let object = ObjectKey::Pack(pack).to_string();
        plan.add(Rule::new(Verb::Get, Fault::Medium).on(object).at(entry.offset));
        let read = world.read_all(&id).await;
        let lost: Vec<FrameId> = read.iter().filter(|(_, whole)| !whole).map(|(id, _)| *id).collect();
        assert_eq!(lost, [entry.id], "frame {at} and no other");
        assert!(plan.hits() <= 8, "{} reads of what the medium has lost", plan.hits());
    }
    // The last of them is a page, which says what the snapshot is made of.
    let page = first.pack.table.last().expect("a page").id;
    let told = world.repository.report_lost(world.host, world.open().await, &first.frames).await;
    assert_eq!(told.expect("looked at"), 1);
    let (job, generation) = world.job().await;
    let opened =
        world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens");
    assert_eq!(opened.damaged.frames, [page]);
    let again = tree_with(b"renamed", "on a bad sector", true);
    assert_eq!(world.have(opened.lease, &first).await, [true, false]);
    world.send(opened.lease, &first.pack).await;
    assert!(matches!(world.commit(opened.lease, &first).await, Committed::Snapshot(_)));
    assert!(world.read_all(&id).await.iter().all(|(_, whole)| *whole), "healed");
    world.backup(&again).await;
}

#[tokio::test]
async fn h04_a_page_the_medium_lost_is_asked_for_by_the_commit_that_needs_it() {
    let (world, plan) = faulty().await;
    let tree = tree("a page on a bad sector");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let page = tree.pack.table.last().expect("a page");
    plan.add(Rule::new(Verb::Get, Fault::Medium).on(ObjectKey::Pack(pack).to_string()).at(page.offset));
    assert_eq!(world.commit(lease, &tree).await, Committed::Missing(vec![page.id]));
    world.send(lease, &tree.pack).await;
    assert!(matches!(world.commit(lease, &tree).await, Committed::Snapshot(_)));
}

#[tokio::test]
async fn h04_verify_and_reconcile_end_with_a_whole_report() {
    let (world, plan) = faulty().await;
    let trees = [tree("frame lost"), tree("table lost"), tree("sound"), tree("body lost")];
    let mut packs = Vec::new();
    let mut ids = Vec::new();
    for tree in &trees {
        let lease = world.open().await;
        packs.push(world.send(lease, &tree.pack).await);
        let Committed::Snapshot(record) = world.commit(lease, tree).await else { panic!("missing") };
        ids.push(record.id);
    }
    let name = |n: usize| ObjectKey::Pack(packs[n]).to_string();
    plan.add(Rule::new(Verb::Get, Fault::Medium).on(name(0)).at(trees[0].pack.table[0].offset));
    plan.add(Rule::new(Verb::Get, Fault::Medium).on(name(1)).at(trees[1].pack.bytes.len() as u64 - 1));
    plan.add(Rule::new(Verb::Get, Fault::Medium).on(ObjectKey::Snapshot(ids[3]).to_string()));
    let verified = world.repository.verify(false).await.expect("a report");
    let kind_of = |object: &str| {
        let found = verified.report.problems.iter().find(|problem| problem.object == object);
        found.map(|problem| (problem.kind, problem.snapshots.iter().copied().collect::<Vec<_>>()))
    };
    assert_eq!(kind_of(&name(0)), Some((ProblemKind::PackFrames, vec![ids[0]])));
    assert_eq!(kind_of(&name(1)), Some((ProblemKind::PackTable, vec![ids[1]])));
    assert_eq!(kind_of(&name(2)), None);
    let body = ObjectKey::Snapshot(ids[3]).to_string();
    assert_eq!(kind_of(&body), Some((ProblemKind::SnapshotObject, vec![ids[3]])));
    assert_eq!(verified.report.problems.len(), 3, "{:#?}", verified.report);
    assert_eq!((verified.marked, verified.unmarked), (1, Vec::new()));
    // Nothing of the whole ones is given up, and it ends.
    let rebuilt = world.repository.reconcile(None, false).await.expect("reconciled");
    assert!(rebuilt.notes.iter().any(|note| note.contains(&ids[3].to_string())), "{:?}", rebuilt.notes);
    assert!(world.repository.get(&ids[3]).await.is_ok());
    assert!(world.read_all(&ids[2]).await.iter().all(|(_, whole)| *whole));
}

#[tokio::test]
async fn h04_a_store_that_fails_while_damage_is_noted_costs_no_report() {
    let (world, plan) = faulty().await;
    let trees = [tree("one"), tree("two")];
    let mut packs = Vec::new();
    for tree in &trees {
        let lease = world.open().await;
        packs.push(world.send(lease, &tree.pack).await);
        assert!(matches!(world.commit(lease, tree).await, Committed::Snapshot(_)));
    }
    for (tree, pack) in trees.iter().zip(&packs) {
        let path = world.mounted().join(ObjectKey::Pack(*pack).to_string());
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[tree.pack.table[0].offset as usize + 2] ^= 0x10;
        std::fs::write(&path, bytes).expect("written");
    }
    // Its table, then the whole, then the page: and the store fails when the damage is looked at.
    let object = ObjectKey::Pack(packs[0]).to_string();
    plan.add(Rule::new(Verb::Get, Fault::Auth).on(object).skip(3));
    let verified = world.repository.verify(false).await.expect("a report");
    assert_eq!(verified.report.damaged_snapshots().len(), 2, "{:#?}", verified.report);
    assert_eq!(verified.marked, 1);
    assert!(
        verified.unmarked.len() == 1 && verified.unmarked[0].contains("denied"),
        "{:?}",
        verified.unmarked
    );
}

#[tokio::test]
async fn h04_what_comes_wrong_on_its_way_is_not_lost() {
    let (world, plan) = faulty().await;
    let tree = tree("whole where it lies");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    assert!(matches!(world.commit(lease, &tree).await, Committed::Snapshot(_)));
    plan.add(Rule::new(Verb::Get, Fault::Truncated(3)).on("packs/"));
    let locations =
        tree.pack.table.iter().map(|entry| FrameLocation { pack, entry: entry.clone() }).collect();
    let read = world.repository.read_frames(locations).await;
    assert!(matches!(read, Err(RepositoryError::Store(_))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h08_a_repository_that_is_verified_while_it_works_has_no_losses() {
    let world = Arc::new(World::new().await);
    world.backup(&tree("first")).await;
    let over = Arc::new(AtomicBool::new(false));
    let deleted = Arc::new(AtomicU64::new(0));
    let working = tokio::spawn({
        let (world, over, deleted) = (world.clone(), over.clone(), deleted.clone());
        async move {
            let mut round = 0;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                world.backup(&tree(&format!("round {round}"))).await;
                let oldest = world.repository.list(&SnapshotFilter::default()).await.expect("listed").pop();
                world.repository.forget(&oldest.expect("a snapshot").id).await.expect("forgotten");
                // The leases of the backups before are over.
                world.repository.catalog().advance_ticks(200).await.expect("time passes");
                let gone = gc::round(&world.repository).await.expect("a round").packs_deleted;
                deleted.fetch_add(gone, Ordering::Relaxed);
            }
        }
    });
    // Until enough went while it was looked at, however slow the machine is.
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut round = 0;
    while round < 40 || deleted.load(Ordering::Relaxed) <= 3 {
        let verified = world.repository.verify(round % 2 == 0).await.expect("verified");
        assert!(verified.report.is_clean(), "{:#?}", verified.report);
        assert_eq!((verified.marked, verified.unmarked), (0, Vec::new()));
        assert!(!working.is_finished() && Instant::now() < deadline, "nothing is deleted meanwhile");
        round += 1;
    }
    over.store(true, Ordering::Relaxed);
    working.await.expect("no panic");
}

#[tokio::test]
async fn h04_what_one_pack_has_lost_is_marked_though_another_cannot_be_asked() {
    let (world, plan) = faulty().await;
    let (rotten, refused) = (tree("rotten"), tree("refused"));
    let lease = world.open().await;
    let pack = world.send(lease, &rotten.pack).await;
    let unreachable = world.send(lease, &refused.pack).await;
    world.rot(pack, &rotten, rotten.frames[0]);
    plan.add(Rule::new(Verb::Get, Fault::Auth).on(ObjectKey::Pack(unreachable).to_string()));
    let frames = [&rotten.frames[..], &refused.frames].concat();
    let told = world.repository.report_lost(world.host, lease, &frames).await;
    assert!(matches!(told, Err(RepositoryError::Store(_))), "{told:?}");
    assert_eq!(world.have(lease, &rotten).await, [false, true]);
    assert_eq!(world.have(lease, &refused).await, [true, true]);
}

/// A tree's pack, of whose data frame another host has a row as well, as after a
/// rebuild from snapshots that name it. The world as that host sees it comes
/// with it.
async fn shared(world: &World, tree: &Tree) -> (PackId, World) {
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let catalog = world.repository.catalog();
    let host = add_host(catalog, "db-1").await;
    let source = catalog.directory_source(host, "/data", 1).await.expect("source").id;
    let data = tree.pack.table.iter().find(|row| row.id == tree.frames[0]).expect("in the pack");
    catalog.place_frames(host, &pack, std::slice::from_ref(data)).await.expect("a row");
    let dir = tempfile::tempdir().expect("temporary folder");
    (pack, World { dir, repository: world.repository.clone(), host, source })
}

#[tokio::test]
async fn h04_a_frame_that_two_hosts_have_is_marked_for_both() {
    let world = World::new().await;
    let tree = tree("of two hosts");
    let (pack, other) = shared(&world, &tree).await;
    world.rot(pack, &tree, tree.frames[0]);
    let catalog = world.repository.catalog();
    let mut rows = Vec::new();
    for host in [world.host, other.host] {
        rows.extend(catalog.find_frames(host, &tree.frames[..1]).await.expect("asked").into_iter().flatten());
    }
    assert_eq!(world.repository.note_lost(rows).await.expect("looked at"), 2);
    for host in [world.host, other.host] {
        assert_eq!(catalog.have(host, &tree.frames[..1]).await.expect("asked"), [false]);
    }
}

#[tokio::test]
async fn x07_of_another_hosts_pack_a_host_reads_the_frames_it_has_rows_of() {
    let world = World::new().await;
    let tree = tree("of two hosts");
    let (pack, other) = shared(&world, &tree).await;
    let lease = other.open().await;
    let whole = 0..tree.pack.bytes.len() as u64;
    let mut reading =
        world.repository.read_pack(other.host, lease, pack, whole.clone()).await.expect("a frame of its own");
    let read = reading.next().await.expect("read").expect("a piece").bytes;
    let mut data = tree.pack.table.iter().filter(|row| row.id == tree.frames[0]);
    let data = data.next().map(|row| row.offset as usize..(row.offset + u64::from(row.stored_len)) as usize);
    let data = data.expect("in the pack");
    let mut wanted = vec![0; tree.pack.bytes.len()];
    wanted[data.clone()].copy_from_slice(&tree.pack.bytes[data]);
    assert_eq!(read, wanted, "its own frame, and zeros for the other host's page");
    let third = add_host(world.repository.catalog(), "db-2").await;
    let source = world.repository.catalog().directory_source(third, "/data", 1).await.expect("source").id;
    let dir = tempfile::tempdir().expect("temporary folder");
    let third = World { dir, repository: world.repository.clone(), host: third, source };
    let lease = third.open().await;
    let denied = world.repository.read_pack(third.host, lease, pack, whole).await.err();
    assert!(matches!(denied, Some(RepositoryError::Denied(_))), "{denied:?}");
}

#[tokio::test]
async fn h08_an_index_file_that_was_merged_meanwhile_is_no_damage() {
    let (world, plan) = faulty().await;
    world.backup(&tree("indexed")).await;
    world.repository.write_hints().await.expect("written");
    plan.add(Rule::new(Verb::Get, Fault::Missing).on("index/"));
    let verified = world.repository.verify(false).await.expect("verified");
    assert!(plan.hits() > 0, "no index file was asked for");
    assert!(verified.report.is_clean(), "{:?}", verified.report);
}

#[tokio::test]
async fn s20_on_a_full_store_hints_make_room_for_the_head_and_nothing_is_deleted_without_it() {
    let (world, plan) = faulty().await;
    let id = world.backup(&tree("forgotten here")).await;
    let kept = world.backup(&tree("kept")).await;
    assert_eq!(world.repository.write_hints().await.expect("written"), 2);
    let index = || tree_of(&world.mounted().join("index")).len();
    assert_eq!(index(), 1);
    world.repository.forget(&id).await.expect("forgotten");
    let stored = |id: SnapshotId| world.mounted().join(ObjectKey::Snapshot(id).to_string()).exists();

    // Nothing makes enough room.
    plan.add(Rule::new(Verb::Put, Fault::Full).on("state/head"));
    let refused = gc::round(&world.repository).await;
    assert!(
        matches!(&refused, Err(RepositoryError::Store(error)) if error.kind() == StoreErrorKind::Full),
        "{refused:?}"
    );
    assert!(stored(id), "deleted without the head");
    assert_eq!(index(), 0);
    plan.clear();
    assert_eq!(world.repository.write_hints().await.expect("written"), 2, "they are written again");

    // What one file takes is enough.
    plan.add(Rule::new(Verb::Put, Fault::Full).on("state/head").times(1));
    let report = gc::round(&world.repository).await.expect("a round");
    assert_eq!((report.snapshots_purged, report.packs_deleted), (1, 1), "{report:?}");
    assert!(!stored(id) && stored(kept));
    assert_eq!(world.repository.write_hints().await.expect("written"), 1);
    assert!(world.read_all(&kept).await.iter().all(|(_, whole)| *whole));
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn h19_a_snapshot_object_that_is_lost_is_told_and_stored_again() {
    let world = World::new().await;
    let lost = world.backup(&tree("lost")).await;
    let rotten = world.backup(&tree("rotten")).await;
    let forgotten = world.backup(&tree("forgotten")).await;
    let purged = world.backup(&tree("purged")).await;
    world.repository.forget(&forgotten).await.expect("forgotten");
    let path = |id: SnapshotId| world.mounted().join(ObjectKey::Snapshot(id).to_string());
    let whole: Vec<Vec<u8>> =
        [lost, rotten, forgotten].iter().map(|id| std::fs::read(path(*id)).expect("read")).collect();
    sqlx::query("update snapshots set state = 'purging' where number = $1 and source_id = $2")
        .bind(i64::try_from(purged.number).expect("small"))
        .bind(purged.source.to_string())
        .execute(world.repository.catalog().pool())
        .await
        .expect("being removed");
    for id in [lost, forgotten, purged] {
        std::fs::remove_file(path(id)).expect("removed");
    }
    let mut bytes = whole[1].clone();
    bytes[whole[1].len() / 2] ^= 1;
    std::fs::write(path(rotten), bytes).expect("written");

    let verified = world.repository.verify(true).await.expect("verified");
    assert_eq!(verified.stored_again, 3, "{:#?}", verified.report);
    let mut told: Vec<&str> = verified
        .report
        .problems
        .iter()
        .filter(|problem| problem.kind == ProblemKind::SnapshotObject)
        .inspect(|problem| assert!(problem.detail.contains("stored again"), "{problem:?}"))
        .map(|problem| problem.object.as_str())
        .collect();
    told.sort_unstable();
    let mut wanted = [lost, rotten, forgotten].map(|id| ObjectKey::Snapshot(id).to_string());
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    for (id, whole) in [lost, rotten, forgotten].into_iter().zip(whole) {
        assert_eq!(std::fs::read(path(id)).expect("there again"), whole);
    }
    assert!(!path(purged).exists(), "nobody was promised it any more");
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn v15_recovery_files_that_are_gone_or_not_ours_are_told_and_written_again() {
    let world = World::new().await;
    let path = |name: &str| world.mounted().join("RECOVERY").join(name);
    std::fs::write(path("recover.py"), "import os\n").expect("written");
    std::fs::remove_file(path("README")).expect("removed");
    let info = std::fs::read(world.mounted().join("repo.json")).expect("read");
    let verified = world.repository.verify(true).await.expect("verified");
    assert_eq!(verified.recovery_written, 2, "{:#?}", verified.report);
    for problem in &verified.report.problems {
        assert_eq!(problem.kind, ProblemKind::RecoveryFile, "{problem:?}");
        assert!(problem.detail.ends_with("; it was written again"), "{problem:?}");
    }
    for (name, file) in [("recover.py", RecoveryFile::Script), ("README", RecoveryFile::Readme)] {
        assert_eq!(std::fs::read_to_string(path(name)).expect("there"), text(file));
    }
    // It says who owns the repository, and is not ours to write back.
    assert_eq!(std::fs::read(world.mounted().join("repo.json")).expect("read"), info);
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

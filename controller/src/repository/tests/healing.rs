//! Losses of any size: the next backup sends again what was lost.

use std::collections::HashSet;

use holdfast_proto::v1;

use super::*;

/// More than the ids of which go into one message of 4 MiB.
const FRAMES: usize = 130_000;

/// Frames in one pack.
const PER_PACK: usize = 20_000;

/// A tree of so many files, each in a frame of its own.
struct Wide {
    packs: Vec<SealedPack>,
    frames: HashSet<FrameId>,
    body: Vec<u8>,
}

fn wide() -> Wide {
    let mut frames = HashSet::new();
    let mut packs = Vec::new();
    let mut pack = PackBuilder::new();
    let mut count = 0;
    let mut files = Vec::new();
    for n in 0..FRAMES {
        let data = encode(FrameKind::Data, format!("content {n}").as_bytes(), DEFAULT_LEVEL);
        let extent = Extent { file_offset: 0, frame: data.id, frame_offset: 0, len: data.raw_len };
        files.push((format!("{n:08}"), extent));
        frames.insert(data.id);
        pack.push(data);
        count += 1;
        if count == PER_PACK {
            packs.push(std::mem::replace(&mut pack, PackBuilder::new()).finish());
            count = 0;
        }
    }
    let entry = |path: &[u8], kind| Entry {
        path: path.to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        inode: 1,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    };
    let mut emit = |raw: Vec<u8>| -> Result<FrameId, std::io::Error> {
        let page = encode(FrameKind::Page, &raw, DEFAULT_LEVEL);
        let id = page.id;
        if frames.insert(id) {
            pack.push(page);
        }
        Ok(id)
    };
    let mut writer = ManifestWriter::new(&mut emit);
    writer.push(entry(b"", EntryKind::Directory)).expect("root");
    for (name, extent) in files {
        let data = FileData { size: u64::from(extent.len), extents: vec![extent], hash: None };
        writer.push(entry(name.as_bytes(), EntryKind::File(data))).expect("file");
    }
    let root = writer.finish().expect("finished");
    packs.push(pack.finish());
    let small = decode_body(&tree("the account").body).expect("an account");
    let stats = Stats { entries: FRAMES as u64 + 1, files: FRAMES as u64, ..Stats::default() };
    Wide { packs, frames, body: encode_body(&SnapshotBody { root, stats, ..small }) }
}

impl World {
    async fn send_wide(&self, lease: LeaseId, wide: &Wide) -> SnapshotId {
        for pack in &wide.packs {
            self.send(lease, pack).await;
        }
        let committed = self.repository.commit_snapshot(self.host, lease, &wide.body).await;
        match committed.expect("answers") {
            Committed::Snapshot(record) => record.id,
            Committed::Missing(frames) => panic!("{} frames are missing", frames.len()),
        }
    }

    /// Opens an upload over the wire; gives its lease and every damaged frame
    /// it is told, with the number of calls that took.
    async fn damaged_over_the_wire(&self) -> (LeaseId, HashSet<FrameId>, usize) {
        let mut client = self.client().await;
        let (job, generation) = self.job().await;
        let open =
            v1::OpenUploadRequest { job_id: job.to_string(), generation, source_id: self.source.to_string() };
        let opened = client.open_upload(open).await.expect("an upload opens").into_inner();
        assert!(opened.base.is_some(), "it follows the last snapshot");
        let lease_id = opened.lease_id.clone();
        let (mut told, mut next, mut calls) = (opened.damaged_frames, opened.more_damaged, 1);
        while next != 0 {
            let request = v1::ListDamagedRequest { lease_id: lease_id.clone(), from: next };
            let page = client.list_damaged(request).await.expect("a page").into_inner();
            told.extend(page.frames);
            (next, calls) = (page.next, calls + 1);
        }
        let count = told.len();
        let damaged: HashSet<FrameId> =
            told.iter().map(|id| FrameId::from_slice(id).expect("32 bytes")).collect();
        assert_eq!(damaged.len(), count, "each is told once");
        (lease_id.parse().expect("a lease"), damaged, calls)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_the_next_backup_heals_a_loss_of_a_hundred_and_thirty_thousand_frames() {
    let world = World::new().await;
    let wide = wide();
    let lease = world.open().await;
    let first = world.send_wide(lease, &wide).await;
    let keys: Vec<ObjectKey> = {
        let rows = world.repository.catalog().all_packs().await.expect("asked");
        rows.iter().map(|row| ObjectKey::Pack(row.id)).collect()
    };
    assert_eq!(keys.len(), wide.packs.len());
    world.repository.store().delete(&keys).await.expect("lost");
    let verified = world.repository.verify(true).await.expect("verified");
    assert_eq!(verified.marked, wide.frames.len() as u64);

    let (lease, damaged, calls) = world.damaged_over_the_wire().await;
    assert!(damaged.len() > FRAMES && damaged == wide.frames, "{} frames", damaged.len());
    assert!(calls > 1, "one message does not hold them");
    let asked: Vec<FrameId> = wide.frames.iter().take(4096).copied().collect();
    let have = world.repository.have(world.host, lease, &asked).await.expect("asked");
    assert!(have.iter().all(|have| !have), "what is damaged is not offered");

    let second = world.send_wide(lease, &wide).await;
    let (_, damaged, calls) = world.damaged_over_the_wire().await;
    assert_eq!((damaged.len(), calls), (0, 1), "nothing is damaged any more");
    for id in [first, second] {
        assert!(world.is_whole(&id).await, "{id}");
    }
}

/// A commit that meets as many lost frames says so in a message that can be sent.
#[tokio::test(flavor = "multi_thread")]
async fn h09_a_commit_names_no_more_missing_frames_than_a_message_holds() {
    let world = World::new().await;
    let wide = wide();
    let lease = world.open().await;
    for pack in &wide.packs {
        world.send(lease, pack).await;
    }
    let rows = world.repository.catalog().all_packs().await.expect("asked");
    let mut marked = 0;
    for row in &rows {
        let frames = world.repository.catalog().frames_of_pack(&row.id).await.expect("asked");
        let data = frames.iter().filter(|frame| frame.location.entry.kind == FrameKind::Data);
        let numbers: RoaringTreemap = data.map(|frame| frame.number).collect();
        marked += world.repository.catalog().mark_damaged(&numbers).await.expect("marked");
    }
    assert_eq!(marked, FRAMES as u64);
    let mut client = world.client().await;
    let request = v1::CommitSnapshotRequest { lease_id: lease.to_string(), body: wide.body.clone().into() };
    let answer = client.commit_snapshot(request).await.expect("an answer that can be sent").into_inner();
    match answer.outcome {
        Some(v1::commit_snapshot_response::Outcome::Missing(missing)) => {
            assert!(!missing.frames.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

/// A pack with one damaged frame, whose content a later backup has sent again.
#[tokio::test]
async fn a_damaged_copy_of_what_was_sent_again_is_no_damage_and_goes() {
    let world = World::new().await;
    let tree = tree("damaged once");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let first = world.committed(lease, &tree).await;
    world.rot(pack, &tree, tree.frames[0]);
    let verified = world.repository.verify(false).await.expect("verified");
    assert!(!verified.is_sound() && verified.marked == 1, "{verified:#?}");

    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    let second = world.committed(lease, &tree).await;
    let verified = world.repository.verify(false).await.expect("verified");
    assert!(verified.is_sound(), "no snapshot needs it: {verified:#?}");
    let [problem] = &verified.report.problems[..] else { panic!("{verified:#?}") };
    assert!(problem.object.contains(&pack.to_string()), "{problem:?}");
    assert!(
        problem.detail.contains("no snapshot needs") && problem.detail.contains("repo prune"),
        "{problem:?}"
    );

    // What was whole in it lies elsewhere: nothing holds the damaged copy.
    world.repository.catalog().advance_ticks(200).await.expect("time passes");
    gc::round(&world.repository).await.expect("a round");
    assert!(!world.stored(pack).await);
    for id in [first, second] {
        assert!(world.is_whole(&id).await, "{id}");
    }
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

/// Flips a bit of a pack's last byte: its table cannot be read any more.
fn damage_table(world: &World, pack: PackId) {
    let path = world.dir.path().join("bucket").join(ObjectKey::Pack(pack).to_string());
    let mut bytes = std::fs::read(&path).expect("read");
    *bytes.last_mut().expect("a pack") ^= 1;
    std::fs::write(&path, bytes).expect("written");
}

#[tokio::test]
async fn a_pack_whose_table_is_damaged_is_written_again_from_the_catalogue() {
    let world = World::new().await;
    let tree = tree("all its frames are whole");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let id = world.committed(lease, &tree).await;
    damage_table(&world, pack);

    let verified = world.repository.verify(true).await.expect("verified");
    assert!(!verified.is_sound(), "it is told once as damage: {verified:#?}");
    let [problem] = &verified.report.problems[..] else { panic!("{verified:#?}") };
    assert!(problem.detail.contains("written again"), "{problem:?}");
    let verified = world.repository.verify(true).await.expect("verified");
    assert!(verified.is_sound(), "{verified:#?}");

    world.repository.catalog().advance_ticks(200).await.expect("time passes");
    gc::round(&world.repository).await.expect("a round");
    assert!(!world.stored(pack).await && world.is_whole(&id).await);
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
    // A catalogue that is made from the bucket finds the same.
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let settings = world.repository.settings().clone();
    let rebuilt = Repository::new(catalog, world.repository.store().clone(), settings);
    let report = rebuilt.reconcile(Some("another"), false).await.expect("rebuilt");
    assert!(report.losses.is_empty() && report.notes.is_empty(), "{report:?}");
}

/// A store that takes nothing more leaves the rows where they were.
#[tokio::test]
async fn what_cannot_be_written_again_stays_where_it_is() {
    use holdfast_archive::store::{Fault, FaultPlan, Rule, Verb};

    let plan = FaultPlan::new();
    let altered = plan.clone();
    let world = World::on(|store| store.faulty(altered)).await;
    let tree = tree("on a full store");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let id = world.committed(lease, &tree).await;
    damage_table(&world, pack);
    plan.add(Rule::new(Verb::Put, Fault::Full).on("packs/"));
    let verified = world.repository.verify(true).await.expect("verified");
    assert!(!verified.is_sound(), "{verified:#?}");
    assert!(verified.report.problems[0].detail.contains("could not be written again"), "{verified:#?}");
    world.repository.catalog().advance_ticks(200).await.expect("time passes");
    gc::round(&world.repository).await.expect("a round");
    assert!(world.stored(pack).await && world.is_whole(&id).await);
}

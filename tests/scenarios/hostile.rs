//! Peers that want the controller's memory, places and disk for themselves.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::command::run;
use e2e::fleet::{Fleet, Said};
use e2e::hostile::{Flood, Intruder, Target};
use e2e::{figure, require_engine, wait};
use futures_util::StreamExt as _;
use holdfast_archive::entry::{Entry, EntryFlags, EntryKind};
use holdfast_archive::frame::{MAX_RAW, encode};
use holdfast_archive::ids::FrameId;
use holdfast_archive::manifest::ManifestWriter;
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::{FrameKind, SealedPack};
use holdfast_archive::snapshot::{SnapshotBody, SourceFacts, Stats, decode_body, decode_object, encode_body};
use holdfast_proto::v1;
use holdfast_proto::v1::commit_snapshot_response::Outcome;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tonic::{Code, Response};

/// What the controller may take at most, whatever comes.
const MEMORY: u64 = 512 << 20;

/// Peak resident memory of the controller, bytes.
fn peak(fleet: &mut Fleet) -> u64 {
    let pid = fleet.controller().pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

fn within_memory(fleet: &mut Fleet, after: &str) {
    let peak = peak(fleet);
    figure!("peak resident memory of the controller: {} MiB after {after}", peak >> 20);
    assert!(peak <= MEMORY, "{} MiB after {after}", peak >> 20);
}

/// Lets this process have so many files open; gives what it might have.
fn open_files(soft: u64) -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..limit }).expect("a new limit");
    limit
}

/// Files the controller may have open.
fn soft_limit(fleet: &mut Fleet) -> u64 {
    let pid = fleet.controller().pid().as_raw_nonzero();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a running process");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).expect("a number")
}

fn target(fleet: &Fleet) -> Target {
    Target {
        address: fleet.address(),
        ca_pem: std::fs::read_to_string(fleet.state_dir().join("ca.crt")).expect("CA"),
    }
}

/// A real host with a volume to be backed up.
fn honest(fleet: &Fleet) {
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    let data = fleet.engine("host-a").volume_path("data");
    std::fs::write(data.join("file"), "some content".repeat(1000)).unwrap();
}

fn succeeds(said: &Said) -> bool {
    said.code == 0
}

#[test]
fn v03_x16_x17_a_flood_of_peers_with_nothing_to_show_keeps_nobody_out() {
    require_engine!();
    // As systemd starts a service; this process holds the other end of each connection.
    let files = open_files(1024);
    let mut fleet = Fleet::start(&["host-a"]);
    let raised = soft_limit(&mut fleet);
    assert_eq!(
        raised,
        files.maximum.unwrap_or(65_536).min(65_536),
        "the controller asks for what it may have"
    );
    open_files(files.maximum.unwrap_or(32_768).min(32_768));
    honest(&fleet);
    let runtime = Runtime::new().expect("a runtime");
    let flood = Arc::new(Flood::default());
    // Ends by itself, whatever becomes of this test.
    let until = Instant::now() + Duration::from_secs(180);
    let running = runtime.spawn(flood.clone().run(target(&fleet), 4096, until));
    wait::until("the flood", 60, || {
        let connected = flood.connected.load(Ordering::Relaxed);
        let half_sent = flood.half_sent.load(Ordering::Relaxed);
        let refused = flood.refused.load(Ordering::Relaxed);
        (connected >= 512 && refused >= 4096 && half_sent >= 4096)
            .then_some(())
            .ok_or((connected, refused, half_sent))
    });
    // An operator who comes now, and an agent that comes anew.
    let said = fleet.cli(&["host", "ls"]);
    assert!(succeeds(&said), "an operator does not get in: {said:?}");
    fleet.host("host-a").agent().kill();
    fleet.wait_json("the host to be seen as gone", 60, &["host", "show", "host-a"], |host| {
        host["connected"] == false
    });
    fleet.host("host-a").start_agent(None);
    fleet.wait_connected("host-a");
    let job = fleet.backup("host-a", "data", "none");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(!running.is_finished(), "the flood went on all the time");
    figure!("{flood:?}");
    within_memory(&mut fleet, "a flood of anonymous connections");
    running.abort();
    drop(runtime);
    fleet.ok(&["host", "ls"]);
}

/// Frames of 4 MiB that take a few hundred bytes each, all different.
fn dense(kind: FrameKind, count: u64) -> SealedPack {
    let mut pack = PackBuilder::new();
    let mut raw = vec![0; MAX_RAW];
    for number in 0..count {
        raw[..8].copy_from_slice(&number.to_be_bytes());
        raw[8] = kind as u8;
        pack.push(encode(kind, &raw, 1));
    }
    pack.finish()
}

/// Bytes that do not compress.
fn heavy(frames: usize) -> SealedPack {
    let mut pack = PackBuilder::new();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..frames {
        let raw: Vec<u8> = (0..MAX_RAW / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        pack.push(encode(FrameKind::Data, &raw, 1));
    }
    pack.finish()
}

/// A manifest's root that leads to these pages.
fn index(pages: &[FrameId]) -> SealedPack {
    let field = |number: u8, bytes: &[u8]| -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7F).expect("a byte") | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).expect("a byte"));
        out.extend_from_slice(bytes);
        out
    };
    // Kind 2, level 1, and a child for each page.
    let mut raw = vec![0x08, 2, 0x10, 1];
    for (number, page) in pages.iter().enumerate() {
        let mut child = field(1, page.as_bytes());
        child.extend(field(3, format!("{number:06}").as_bytes()));
        child.extend([0x20, 6, 0x30, 1]);
        raw.extend(field(6, &child));
    }
    let mut pack = PackBuilder::new();
    pack.push(encode(FrameKind::Page, &raw, 1));
    pack.finish()
}

fn body(root: FrameId) -> Vec<u8> {
    encode_body(&SnapshotBody {
        root,
        started_unix_ns: 1,
        stats: Stats::default(),
        source: SourceFacts { kind: "volume".into(), name: "data".into(), ..SourceFacts::default() },
        consistency: "none".into(),
        host_name: "evil".into(),
        partial: false,
        problems: Vec::new(),
        downtime_ms: 0,
        agent_version: "0".into(),
        containers: Vec::new(),
    })
}

/// Everything of the host, from the order to back up on.
struct Attack {
    fleet: Fleet,
    runtime: Runtime,
    evil: Intruder,
    lease: String,
    job: String,
    /// Of each source of the job; `lease` is the first.
    leases: Vec<String>,
}

impl Attack {
    fn begin() -> Self {
        Self::begin_with(&[])
    }

    /// With these sources besides its volume.
    fn begin_with(more: &[&str]) -> Self {
        let fleet = Fleet::start(&["host-a"]);
        // The hostile host never ends its job.
        fleet.leaves_unsettled();
        honest(&fleet);
        let runtime = Runtime::new().expect("a runtime");
        let token = fleet.token("evil");
        let (evil, mut orders) = runtime.block_on(Intruder::join(target(&fleet), &token));
        runtime.block_on(evil.dial());
        fleet.wait_json("the hostile host to be connected", 30, &["host", "show", "evil"], |host| {
            host["connected"] == true
        });
        let what =
            ["backup", "run", "--host", "evil", "--volume", "data", "--consistency", "none", "--no-wait"];
        fleet.ok(&[&what[..], more].concat());
        let order = runtime.block_on(orders.recv()).expect("an order");
        let open = |source: &v1::SnapshotSource| v1::OpenUploadRequest {
            job_id: order.job_id.clone(),
            generation: order.generation,
            source_id: source.source_id.clone(),
        };
        let lease = |request| {
            let opened = async { evil.repository().await.open_upload(request).await };
            runtime.block_on(opened).expect("a lease").into_inner().lease_id
        };
        let leases: Vec<String> = order.sources.iter().map(open).map(lease).collect();
        Self { lease: leases[0].clone(), leases, job: order.job_id, fleet, runtime, evil }
    }

    fn put(&self, pack: &SealedPack) -> String {
        self.runtime.block_on(self.evil.put(&self.lease, pack))
    }

    /// A backup of the other host finishes, and memory is what it may be.
    fn others_go_on(&mut self, meanwhile: &str) {
        let job = self.fleet.backup("host-a", "data", "none");
        assert_eq!(job["state"], "succeeded", "{job}");
        within_memory(&mut self.fleet, meanwhile);
    }
}

#[test]
fn v04_lost_frames_on_dense_packs_and_full_pages_take_no_memory() {
    require_engine!();
    let mut attack = Attack::begin();
    let pack = dense(FrameKind::Data, 1024);
    let frames: Vec<Vec<u8>> = pack.table.iter().map(|entry| entry.id.as_bytes().to_vec()).collect();
    figure!("a pack of {} KiB decodes to {} MiB", pack.bytes.len() >> 10, frames.len() * (MAX_RAW >> 20));
    attack.put(&pack);
    let (evil, lease) = (attack.evil.clone(), attack.lease.clone());
    let reporting = attack.runtime.spawn(async move {
        let request = v1::ReportLostRequest { lease_id: lease, frames };
        evil.repository().await.report_lost(request).await.map(Response::into_inner)
    });
    attack.others_go_on("reports of lost frames in a dense pack");
    let report = attack.runtime.block_on(reporting).expect("joined").expect("an answer");
    assert_eq!(report.confirmed, 0, "they are there and whole");
    within_memory(&mut attack.fleet, "the report's end");

    let pages = dense(FrameKind::Page, 512);
    attack.put(&pages);
    let root = index(&pages.table.iter().map(|entry| entry.id).collect::<Vec<_>>());
    attack.put(&root);
    let request =
        v1::CommitSnapshotRequest { lease_id: attack.lease.clone(), body: body(root.table[0].id).into() };
    let (evil, request) = (attack.evil.clone(), request);
    let committing = attack
        .runtime
        .spawn(async move { evil.repository().await.commit_snapshot(request).await.map(|_| ()) });
    attack.others_go_on("a commit of 512 full pages");
    let refused = attack.runtime.block_on(committing).expect("joined").expect_err("these are no pages");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    within_memory(&mut attack.fleet, "the commit's end");
}

#[test]
fn v04_x17_a_reader_that_takes_nothing_loses_its_connection_and_holds_up_nobody() {
    require_engine!();
    let mut attack = Attack::begin();
    let pack = heavy(8);
    let length = pack.bytes.len() as u64;
    let id = attack.put(&pack);
    // Thirty-two on each of two connections, and not a byte of them is taken.
    let mut unread = Vec::new();
    for _ in 0..2 {
        let client = attack.runtime.block_on(attack.evil.repository());
        for _ in 0..32 {
            let (mut client, lease_id, pack_id) = (client.clone(), attack.lease.clone(), id.clone());
            unread.push(attack.runtime.spawn(async move {
                let request = v1::ReadPackRequest { lease_id, pack_id, offset: 0, length };
                let stream = client.read_pack(request).await?.into_inner();
                // Held and not read, until the other end has had enough.
                tokio::time::sleep(Duration::from_secs(150)).await;
                let ended: Vec<_> = stream.collect().await;
                ended.into_iter().find_map(Result::err).map_or(Ok(()), Err)
            }));
        }
    }
    attack.others_go_on("64 answers that nobody takes");
    let ended = attack.runtime.block_on(futures_util::future::join_all(unread));
    let cut = ended.iter().filter(|ended| ended.as_ref().is_ok_and(Result::is_err)).count();
    assert!(cut > 0, "a stalled reader was waited for: {ended:?}");
    within_memory(&mut attack.fleet, "their end");
    // Whoever takes what he asked for gets it.
    let mut client = attack.runtime.block_on(attack.evil.repository());
    let request = v1::ReadPackRequest { lease_id: attack.lease.clone(), pack_id: id, offset: 0, length };
    let read = attack.runtime.block_on(async {
        let mut stream = client.read_pack(request).await.expect("an answer").into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await.expect("a piece") {
            bytes.extend(message.data);
        }
        bytes
    });
    assert!(read == pack.bytes, "the whole pack, byte for byte");
}

#[test]
fn v04_a_byte_now_and_then_keeps_no_place() {
    require_engine!();
    let mut attack = Attack::begin();
    let length = 1 << 20;
    let mut uploads = Vec::new();
    for n in 0..5_u8 {
        let (evil, lease) = (attack.evil.clone(), attack.lease.clone());
        uploads.push(attack.runtime.spawn(async move {
            let mut client = evil.repository().await;
            let request = v1::AllocPackRequest { lease_id: lease.clone(), length, sha256: vec![n; 32] };
            let pack_id = client.alloc_pack(request).await?.into_inner().pack_id;
            let first = v1::UploadPackRequest { lease_id: lease, pack_id, data: Bytes::from_static(&[0]) };
            let begun = futures_util::stream::once(async { first });
            let drip = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((v1::UploadPackRequest { data: Bytes::from_static(&[0]), ..Default::default() }, ()))
            });
            // As long as a test may take: nothing here ends it.
            client.upload_pack(begun.chain(drip.take(600))).await.map(|_| ())
        }));
    }
    attack.others_go_on("uploads of a byte a second");
    let (first, _, rest) = attack.runtime.block_on(futures_util::future::select_all(uploads));
    let refused = first.expect("joined").expect_err("it never had its bytes");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    rest.into_iter().for_each(|upload| upload.abort());
}

/// Bytes of the catalogue on disk.
fn catalogue(fleet: &Fleet) -> u64 {
    let size = |name: &str| std::fs::metadata(fleet.state_dir().join(name)).map_or(0, |meta| meta.len());
    size("catalog.db") + size("catalog.db-wal")
}

#[test]
fn v04_endless_lists_and_events_fill_neither_memory_nor_disk() {
    require_engine!();
    let mut attack = Attack::begin();
    let before = catalogue(&attack.fleet);
    attack.evil.manners().endless_inventory.store(true, Ordering::Relaxed);
    wait::until("the list to be refused", 60, || {
        // It ends with another code while there are problems.
        let said = attack.fleet.cli(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let told = problems.iter().any(|p| p["kind"] == "quota" && p["host"] == "evil");
        told.then_some(()).ok_or(status)
    });
    attack.others_go_on("a list of volumes without an end");
    attack.evil.manners().endless_inventory.store(false, Ordering::Relaxed);

    attack.evil.manners().endless_events.store(true, Ordering::Relaxed);
    attack.others_go_on("events without an end");
    let show = ["job", "show", &attack.job];
    let job = attack
        .fleet
        .wait_json("the job of the hostile host to be ended", 120, &show, |job| job["state"] == "failed");
    assert_eq!(job["error_code"], "agent-misbehaves", "{}", job["error"]);
    within_memory(&mut attack.fleet, "the end of its job");
    let grown = catalogue(&attack.fleet).saturating_sub(before);
    let sent = attack.evil.manners().sent.load(Ordering::Relaxed);
    figure!("the catalogue grew by {} KiB while {sent} messages were sent", grown >> 10);
    assert!(grown <= 64 << 20, "the catalogue grew by {} MiB", grown >> 20);
}

/// The manifest of a directory that is empty, changed at that time: its pack,
/// and its root.
fn empty_tree(mtime_ns: i128) -> (SealedPack, FrameId) {
    let mut pages = PackBuilder::new();
    let mut emit = |raw: Vec<u8>| -> Result<FrameId, std::io::Error> {
        let page = encode(FrameKind::Page, &raw, 1);
        let id = page.id;
        pages.push(page);
        Ok(id)
    };
    let mut writer = ManifestWriter::new(&mut emit);
    let entry = Entry {
        path: Vec::new(),
        kind: EntryKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns,
        ctime_ns: 0,
        inode: 1,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    };
    writer.push(entry).expect("a root");
    let root = writer.finish().expect("finished");
    (pages.finish(), root)
}

#[test]
fn v05_a_host_that_names_another_in_its_snapshots_is_refused_and_offline_names_are_told_apart() {
    require_engine!();
    let attack = Attack::begin();
    attack.fleet.backup("host-a", "data", "none");
    let (pages, root) = empty_tree(0);
    attack.put(&pages);
    let commit = |body: Vec<u8>| {
        let request = v1::CommitSnapshotRequest { lease_id: attack.lease.clone(), body: body.into() };
        attack.runtime.block_on(async { attack.evil.repository().await.commit_snapshot(request).await })
    };
    for (host, source) in [("host-a", "data"), ("evil", "other"), ("host-a", "other")] {
        let lying = SnapshotBody {
            host_name: host.into(),
            source: SourceFacts { kind: "volume".into(), name: source.into(), ..SourceFacts::default() },
            ..decode_body(&body(root)).expect("a body")
        };
        let refused = commit(encode_body(&lying)).expect_err("another's name");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    let committed = commit(body(root)).expect("an answer").into_inner();
    assert!(matches!(committed.outcome, Some(Outcome::Committed(_))), "{committed:?}");
    // Without a controller: the honest host's volume of the same name is another one.
    let several = attack.fleet.repo("browse", &["data"]);
    assert!(several.stderr.contains("host-a/data") && several.stderr.contains("evil/data"), "{several:?}");
    let one = attack.fleet.repo("browse", &["host-a/data"]);
    assert_eq!(one.code, 0, "{one:?}");
    let denied = attack.fleet.json(&["audit", "ls", "--caller", "agent:evil", "--outcome", "denied"]);
    assert_eq!(denied.as_array().map(Vec::len), Some(3), "{denied}");
    attack.fleet.ok(&["audit", "verify"]);
}

/// The snapshots of a bucket: when each was made, and when its host says it
/// was begun.
fn dates(snapshots: &Path) -> Vec<(i64, i64)> {
    let listed = run(Command::new("find").arg(snapshots).args(["-type", "f"]));
    let dates = listed.lines().map(|object| {
        let bytes = std::fs::read(object).expect("an object");
        let (header, body) = decode_object(&bytes).expect("a snapshot");
        (header.created_unix_ms, body.started_unix_ns)
    });
    let mut dates: Vec<(i64, i64)> = dates.collect();
    dates.sort_unstable();
    dates
}

#[test]
fn x09_a_host_that_lies_about_dates_moves_no_snapshot_before_or_behind_another() {
    require_engine!();
    /// Nanoseconds of a hundred years.
    const CENTURY: i64 = 100 * 365 * 86_400 * 1_000_000_000;
    let lies = [CENTURY, -CENTURY, i64::MAX, i64::MIN, 0];
    let directories = ["/a", "/b", "/c", "/d"].map(|path| ["--directory", path]).concat();
    let attack = Attack::begin_with(&directories);
    assert_eq!(attack.leases.len(), lies.len());
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        since.as_millis() as i64
    };
    let (begun, mut committed) = (now(), Vec::new());
    for (lease, lie) in attack.leases.iter().zip(lies) {
        let (pages, root) = empty_tree(lie.into());
        attack.runtime.block_on(attack.evil.put(lease, &pages));
        let mut said = SnapshotBody { started_unix_ns: lie, ..decode_body(&body(root)).expect("a body") };
        if !committed.is_empty() {
            said.source = SourceFacts { kind: "directory".into(), name: "/x".into(), ..said.source };
        }
        let request = v1::CommitSnapshotRequest { lease_id: lease.clone(), body: encode_body(&said).into() };
        let answer =
            attack.runtime.block_on(async { attack.evil.repository().await.commit_snapshot(request).await });
        match answer.expect("an answer").into_inner().outcome {
            Some(Outcome::Committed(snapshot)) => committed.push(snapshot),
            other => panic!("{other:?}"),
        }
        let newest = &attack.fleet.json(&["snapshot", "ls"])[0];
        assert_eq!(newest["number"], 1, "the number is the controller's: {newest}");
    }
    // Each follows the last one, whatever it says; and what it says is kept beside that.
    let stored = dates(&attack.fleet.repository_dir().join("snapshots"));
    let said: Vec<i64> = stored.iter().map(|(_, started)| *started).collect();
    assert_eq!(said, lies);
    assert!(stored.iter().all(|(created, _)| (begun..=now()).contains(created)), "{stored:?}");
    let listed = attack.fleet.json(&["snapshot", "ls"]);
    let created = |one: &serde_json::Value| {
        let text = one["created"].as_str().expect("a time");
        text.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp_millis()
    };
    let mut shown: Vec<i64> = listed.as_array().expect("a list").iter().map(created).collect();
    shown.sort_unstable();
    assert_eq!(shown, stored.iter().map(|(created, _)| *created).collect::<Vec<_>>());
}

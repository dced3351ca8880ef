//! A repository with a tree whose content is known.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_archive::entry::{Entry, EntryFlags, EntryKind, Extent, FileData, path_order};
use holdfast_archive::fetch::{FetchError, FrameFetcher};
use holdfast_archive::frame::{EncodedFrame, encode};
use holdfast_archive::ids::{FrameId, HostId, SnapshotId, SourceId};
use holdfast_archive::manifest::{ManifestReader, ManifestWriter};
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::{FrameKind, PackIoError, PackSink};
use holdfast_archive::repository::{CryptoMode, DirectSession, InitOptions, Repository};
use holdfast_archive::snapshot::{SnapshotBody, SourceFacts, Stats};
use holdfast_archive::store::{Store, StoreError};
use holdfast_archive::verify::{Level, Report, Share, VerifyProgress, verify};
use tokio::runtime::Runtime;

pub(crate) const MTIME: i128 = 1_790_000_000_123_456_789;

pub(crate) struct Fixture {
    _dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) repository: Repository,
    pub(crate) host: HostId,
    pub(crate) source: SourceId,
}

/// What a file is made of: its size and its pieces, by offset.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

impl Content {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        for (offset, piece) in &self.pieces {
            bytes[*offset as usize..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    }
}

pub(crate) type Tree = Vec<(Entry, Content)>;

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: if kind == EntryKind::Directory { 0o755 } else { 0o640 },
        kind,
        uid: 0,
        gid: 0,
        mtime_ns: MTIME,
        ctime_ns: MTIME,
        inode: 1,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    }
}

pub(crate) fn file(path: &[u8], content: Vec<u8>) -> (Entry, Content) {
    let size = content.len() as u64;
    let pieces = if content.is_empty() { vec![] } else { vec![(0, content)] };
    (entry(path, EntryKind::File(FileData::default())), Content { size, pieces })
}

pub(crate) fn other(path: &[u8], kind: EntryKind) -> (Entry, Content) {
    (entry(path, kind), Content { size: 0, pieces: vec![] })
}

/// A tree with everything a plain directory can hold.
pub(crate) fn sample_tree(seed: u64) -> Tree {
    let mut tree = vec![
        other(b"", EntryKind::Directory),
        other(b"db", EntryKind::Directory),
        file(b"db/table", noise(seed, 700_000)),
        file(b"db/empty", vec![]),
        other(b"db/name", EntryKind::Symlink { target: b"/no/such\xff place".to_vec() }),
        other(b"db/table-again", EntryKind::Hardlink { target: b"db/table".to_vec() }),
        other(b"odd \xff\n\x1b", EntryKind::Directory),
        file(b"odd \xff\n\x1b/-rf", b"dash".to_vec()),
        other(b"pipe", EntryKind::Fifo),
        other(b"void", EntryKind::Directory),
    ];
    let mut sparse = file(b"sparse", vec![]);
    sparse.1 = Content {
        size: 3_000_000,
        pieces: vec![(1_000_000, noise(seed + 1, 5000)), (2_500_000, vec![7; 9])],
    };
    tree.push(sparse);
    for n in 0..300 {
        tree.push(file(
            format!("many/{n:03}").as_bytes(),
            format!("file {n} of {seed}\n").repeat(n).into_bytes(),
        ));
    }
    tree.push(other(b"many", EntryKind::Directory));
    tree.sort_by(|a, b| path_order(&a.0.path, &b.0.path));
    let named = |tree: &mut Tree, path: &[u8], edit: &dyn Fn(&mut Entry)| {
        tree.iter_mut().filter(|(entry, _)| entry.path == path).for_each(|(entry, _)| edit(entry));
    };
    named(&mut tree, b"db/empty", &|entry| entry.mtime_ns = -1_500_000_000);
    named(&mut tree, b"void", &|entry| entry.mode = 0o1777);
    named(&mut tree, b"many/007", &|entry| {
        entry.xattrs = vec![
            (b"user.binary".to_vec(), vec![0, 1, 0xff, b'\n', b'=']),
            (b"user.note".to_vec(), b"kept".to_vec()),
        ];
    });
    named(&mut tree, b"void", &|entry| {
        entry.xattrs = (0..20).map(|n| (format!("user.{n:02}").into_bytes(), vec![b'a' + n; 300])).collect();
    });
    tree
}

/// Fills packs of about 200 KB.
struct Packer<'a> {
    session: &'a DirectSession,
    builder: PackBuilder,
    sent: HashSet<FrameId>,
}

impl Packer<'_> {
    fn keep(&mut self, frame: EncodedFrame) -> Result<FrameId, PackIoError> {
        let id = frame.id;
        if !self.session.have(&[id])?[0] && self.sent.insert(id) {
            self.builder.push(frame);
            if self.builder.len_bytes() > 200_000 {
                self.session.put_pack(std::mem::take(&mut self.builder).finish())?;
            }
        }
        Ok(id)
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repository");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let store = Store::create_directory(&path).unwrap();
        let options = InitOptions { owner: "test".into(), created_unix_ms: 1, crypto: CryptoMode::None };
        let repository = runtime.block_on(Repository::init(store, options)).unwrap();
        Self { _dir: dir, path, runtime, repository, host: HostId::generate(), source: SourceId::generate() }
    }

    pub(crate) fn session(&self) -> DirectSession {
        self.runtime.block_on(self.repository.session()).unwrap()
    }

    pub(crate) fn back_up(&self, tree: &Tree) -> SnapshotId {
        let session = self.session();
        let mut packer = Packer { session: &session, builder: PackBuilder::new(), sent: HashSet::new() };
        let entries = store_contents(&mut packer, tree);
        let mut emit = |raw: Vec<u8>| packer.keep(encode(FrameKind::Page, &raw, 3));
        let mut writer = ManifestWriter::new(&mut emit);
        for entry in entries {
            writer.push(entry).unwrap();
        }
        let root = writer.finish().unwrap();
        if !packer.builder.is_empty() {
            session.put_pack(packer.builder.finish()).unwrap();
        }
        session.commit(self.host, self.source, &body(root, tree), 1_790_000_001_000).unwrap()
    }

    pub(crate) fn verify(&self) -> Report {
        self.verify_at(Level::Packs(Share::ALL))
    }

    pub(crate) fn verify_at(&self, level: Level) -> Report {
        self.try_verify(level).unwrap()
    }

    pub(crate) fn try_verify(&self, level: Level) -> Result<Report, StoreError> {
        self.runtime.block_on(verify(&self.repository, level, Arc::new(VerifyProgress::default())))
    }

    /// What can still be read of a snapshot: path to content, `None` where
    /// it is lost; and how many errors the manifest gave.
    pub(crate) fn read(&self, id: SnapshotId) -> (BTreeMap<Vec<u8>, Option<Vec<u8>>>, usize) {
        let snapshot = self.runtime.block_on(self.repository.snapshot(id)).unwrap();
        let source = self.runtime.block_on(self.repository.source()).unwrap();
        read_tree(&FrameFetcher::new(source, 1 << 20), snapshot.body.root)
    }

    /// Every object under the repository's directory, by name.
    pub(crate) fn objects(&self) -> Vec<String> {
        objects(&self.path)
    }
}

pub(crate) fn objects(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![path.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for item in std::fs::read_dir(&dir).unwrap() {
            let item = item.unwrap().path();
            if item.is_dir() {
                todo.push(item);
            } else {
                names.push(item.strip_prefix(path).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    names
}

pub(crate) fn read_tree(
    fetcher: &FrameFetcher,
    root: FrameId,
) -> (BTreeMap<Vec<u8>, Option<Vec<u8>>>, usize) {
    let mut files = BTreeMap::new();
    let mut errors = 0;
    for outcome in ManifestReader::open(fetcher, root).entries() {
        let Ok(entry) = outcome else {
            errors += 1;
            continue;
        };
        let EntryKind::File(data) = entry.kind else { continue };
        let mut bytes = vec![0; data.size as usize];
        let frames: Vec<FrameId> = data.extents.iter().map(|extent| extent.frame).collect();
        let outcome = fetcher.get_many(&frames, &mut |n, raw| {
            let Extent { file_offset, frame_offset, len, .. } = data.extents[n];
            let piece = &raw[frame_offset as usize..][..len as usize];
            bytes[file_offset as usize..][..len as usize].copy_from_slice(piece);
            Ok::<(), FetchError>(())
        });
        files.insert(entry.path, outcome.ok().map(|()| bytes));
    }
    (files, errors)
}

pub(crate) fn expected(tree: &Tree) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let files = tree.iter().filter(|(entry, _)| matches!(entry.kind, EntryKind::File(_)));
    files.map(|(entry, content)| (entry.path.clone(), Some(content.bytes()))).collect()
}

/// Small files share frames of up to 60 KB, others are cut every 100 KB.
fn store_contents(packer: &mut Packer<'_>, tree: &Tree) -> Vec<Entry> {
    let mut entries: Vec<Entry> = tree.iter().map(|(entry, _)| entry.clone()).collect();
    let mut group: Vec<u8> = Vec::new();
    let mut members: Vec<(usize, u32, u32)> = Vec::new();
    let close = |packer: &mut Packer<'_>,
                 group: &mut Vec<u8>,
                 members: &mut Vec<(usize, u32, u32)>,
                 entries: &mut Vec<Entry>| {
        if group.is_empty() {
            return;
        }
        let frame = packer.keep(encode(FrameKind::Data, group, 3)).unwrap();
        for (at, frame_offset, len) in members.drain(..) {
            let EntryKind::File(data) = &mut entries[at].kind else { unreachable!() };
            data.extents = vec![Extent { file_offset: 0, frame, frame_offset, len }];
        }
        group.clear();
    };
    for (at, (_, content)) in tree.iter().enumerate() {
        let EntryKind::File(data) = &mut entries[at].kind else { continue };
        data.size = content.size;
        data.hash = Some(blake3::hash(&content.bytes()).as_bytes()[..16].try_into().unwrap());
        match &content.pieces[..] {
            [(0, piece)] if piece.len() < 50_000 && piece.len() as u64 == content.size => {
                members.push((at, group.len() as u32, piece.len() as u32));
                group.extend_from_slice(piece);
                if group.len() > 60_000 {
                    close(packer, &mut group, &mut members, &mut entries);
                }
            }
            pieces => {
                for (offset, piece) in pieces {
                    for (n, chunk) in piece.chunks(100_000).enumerate() {
                        let frame = packer.keep(encode(FrameKind::Data, chunk, 3)).unwrap();
                        let file_offset = offset + n as u64 * 100_000;
                        data.extents.push(Extent {
                            file_offset,
                            frame,
                            frame_offset: 0,
                            len: chunk.len() as u32,
                        });
                    }
                }
            }
        }
    }
    close(packer, &mut group, &mut members, &mut entries);
    entries
}

fn body(root: FrameId, tree: &Tree) -> SnapshotBody {
    SnapshotBody {
        root,
        started_unix_ns: 1_790_000_000_000_000_000,
        stats: Stats {
            entries: tree.len() as u64,
            size_bytes: tree.iter().map(|(_, content)| content.size).sum(),
            ..Stats::default()
        },
        source: SourceFacts { kind: "volume".into(), name: "db_data".into(), ..SourceFacts::default() },
        consistency: "none".into(),
        host_name: "web-1".into(),
        partial: false,
        problems: vec![],
        downtime_ms: 0,
        agent_version: "test".into(),
        containers: Vec::new(),
    }
}

pub(crate) fn flip(path: &Path, bit: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    overwrite(path, &bytes);
}

pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

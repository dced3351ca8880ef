use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::page::{
    ChildMessage, EXTENT_INDEX, EXTENTS, EntryMessage, ExtentChildMessage, INDEX, LEAF, PageMessage,
};
use super::*;
use crate::entry::{Entry, EntryFlags, EntryKind, Extent, FileData, path_order};
use crate::fetch::FrameFetcher;
use crate::fetch::tests::MemorySource;
use crate::frame::{encode, frame_id};
use crate::ids::FrameId;
use crate::pack::PackBuilder;
use crate::pack_io::FrameKind;

type Pages = HashMap<FrameId, Vec<u8>>;

fn write(entries: &[Entry]) -> (FrameId, Pages) {
    let mut pages = Pages::new();
    let mut emit = |raw: Vec<u8>| {
        let id = frame_id(&raw);
        pages.insert(id, raw);
        Ok::<_, Infallible>(id)
    };
    let mut writer = ManifestWriter::new(&mut emit);
    for entry in entries {
        writer.push(entry.clone()).unwrap();
    }
    let root = writer.finish().unwrap();
    (root, pages)
}

fn fetcher(pages: &Pages) -> FrameFetcher {
    let mut builder = PackBuilder::new();
    pages.values().for_each(|raw| builder.push(encode(FrameKind::Page, raw, 1)));
    let mut source = MemorySource::default();
    source.add(builder.finish());
    FrameFetcher::new(Arc::new(source), 1 << 20)
}

fn read(root: FrameId, pages: &Pages) -> Result<Vec<Entry>, ManifestError> {
    ManifestReader::open(&fetcher(pages), root).entries().collect()
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        mtime_ns: 1_790_000_000_123_456_789,
        ctime_ns: 1_790_000_000_987_654_321,
        inode: 4711,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    }
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

fn small_file(path: &str, frame: u8, offset: u32, len: u32) -> Entry {
    let extent = Extent { file_offset: 0, frame: FrameId([frame; 32]), frame_offset: offset, len };
    let data = FileData { size: u64::from(len), extents: vec![extent], hash: Some([frame; 16]) };
    entry(path, EntryKind::File(data))
}

fn chunked(path: &str, chunks: u64, len: u32) -> Entry {
    let extents = (0..chunks).map(|n| Extent {
        file_offset: n * u64::from(len),
        frame: frame_id(&n.to_le_bytes()),
        frame_offset: 0,
        len,
    });
    let data = FileData { size: chunks * u64::from(len), extents: extents.collect(), hash: None };
    entry(path, EntryKind::File(data))
}

/// A tree of `files` files in directories of a thousand.
fn wide_tree(files: u32) -> Vec<Entry> {
    let mut entries = vec![directory("")];
    for n in 0..files {
        if n % 1000 == 0 {
            entries.push(directory(&format!("dir{:04}", n / 1000)));
        }
        let path = format!("dir{:04}/file-{n:07}.txt", n / 1000);
        entries.push(small_file(&path, (n / 900) as u8, n % 900 * 1000, 1000));
    }
    entries
}

fn strange_tree() -> Vec<Entry> {
    let mut setuid = small_file("bin/tool", 9, 5, 70);
    setuid.mode = 0o4755;
    setuid.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2]), (b"user.a".to_vec(), vec![])];
    setuid.flags.torn = true;
    let mut loaded = directory("heavy");
    loaded.xattrs = (0..200).map(|n| (format!("user.{n:03}").into_bytes(), vec![n as u8; 60_000])).collect();
    let mut old = entry("old", EntryKind::Fifo);
    (old.mtime_ns, old.ctime_ns) = (-1_000_000_001, -2_177_452_800_000_000_000);
    let mut unread = entry("unread", EntryKind::File(FileData::default()));
    unread.flags.unreadable = true;
    let sparse = FileData {
        size: 1 << 40,
        extents: vec![
            Extent { file_offset: 4096, frame: FrameId([1; 32]), frame_offset: 0, len: 1 },
            Extent { file_offset: (1 << 39) + 7, frame: FrameId([1; 32]), frame_offset: 9, len: 100 },
        ],
        hash: Some([5; 16]),
    };
    let mut entries = vec![
        directory(""),
        directory("bin"),
        setuid,
        entry("bin/tool-link", EntryKind::Hardlink { target: b"bin/tool".to_vec() }),
        entry("dev-c", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry("dev-b", EntryKind::BlockDevice { major: 259, minor: 1 << 20 }),
        entry("evil", EntryKind::Symlink { target: b"/victim/../\xff\n".to_vec() }),
        loaded,
        chunked("huge", 3000, 1 << 20),
        old,
        entry("socket", EntryKind::Socket),
        entry("sparse", EntryKind::File(sparse)),
        unread,
    ];
    let mut odd = directory("x");
    odd.path = b"-\xff\x1b\n".to_vec();
    entries.push(odd);
    entries.sort_by(|a, b| path_order(&a.path, &b.path));
    entries
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let entries = strange_tree();
    let (root, pages) = write(&entries);
    assert_eq!(read(root, &pages).unwrap(), entries);
    assert!(pages.values().all(|raw| raw.len() < 130 << 10), "long lists have pages of their own");
}

#[test]
fn a_tree_of_thousands_is_read_whole_and_in_part() {
    let entries = wide_tree(20_000);
    let (root, pages) = write(&entries);
    assert_eq!(read(root, &pages).unwrap(), entries);
    let mean = pages.values().map(Vec::len).sum::<usize>() / pages.len();
    assert!((3 << 10..8 << 10).contains(&mean), "pages have {mean} raw bytes in the mean");

    let fetcher = fetcher(&pages);
    let reader = ManifestReader::open(&fetcher, root);
    for at in [0, 1, 2, 999, 1001, 1002, 10_000, entries.len() - 1] {
        assert_eq!(reader.lookup(&entries[at].path).unwrap().as_ref(), Some(&entries[at]));
    }
    for path in ["dir0003/file-0", "dir0003/", "a", "zzz", "dir0003/file-0003000.txt/x"] {
        assert_eq!(reader.lookup(path.as_bytes()).unwrap(), None, "{path}");
    }
    let expect = |wanted: &dyn Fn(&[u8]) -> bool| -> Vec<Entry> {
        entries.iter().filter(|entry| wanted(&entry.path)).cloned().collect()
    };
    let children: Vec<Entry> = reader.children(b"").map(Result::unwrap).collect();
    assert_eq!(children, expect(&|path| parent(path) == Some(b"")));
    let children: Vec<Entry> = reader.children(b"dir0007").map(Result::unwrap).collect();
    assert_eq!(children, expect(&|path| parent(path) == Some(b"dir0007")));
    let subtree: Vec<Entry> = reader.subtree(b"dir0007").map(Result::unwrap).collect();
    assert_eq!(subtree, expect(&|path| is_within(path, b"dir0007")));
    assert_eq!(reader.children(b"dir0007/file-0007000.txt").count(), 0);
    assert_eq!(reader.subtree(b"").count(), entries.len());
}

#[test]
fn an_edit_changes_the_pages_on_its_way_to_the_root_and_no_other() {
    let entries = wide_tree(20_000);
    let (_, before) = write(&entries);
    let mut touched = entries.clone();
    touched[12_345].mtime_ns += 1;
    let mut inserted = entries.clone();
    inserted.insert(7001, small_file("dir0006/file-0006993.txt.new", 1, 1, 1));
    inserted.sort_by(|a, b| path_order(&a.path, &b.path));
    let mut removed = entries.clone();
    removed.remove(15_000);
    for (what, edited) in [("touched", touched), ("inserted", inserted), ("removed", removed)] {
        let (_, after) = write(&edited);
        let new = after.keys().filter(|id| !before.contains_key(id)).count();
        assert!(new <= 8, "{what}: {new} of {} pages are new", after.len());
    }
}

#[test]
fn an_edit_in_a_huge_file_leaves_most_of_its_extent_pages() {
    let chunks = 50_000;
    let tree = |file: Entry| vec![directory(""), file];
    let (_, before) = write(&tree(chunked("huge", chunks, 1 << 20)));
    let mut edited = chunked("huge", chunks, 1 << 20);
    let EntryKind::File(data) = &mut edited.kind else { unreachable!() };
    // One chunk more in the middle: all behind it move.
    let mut extra = data.extents[20_000].clone();
    extra.frame = FrameId([0xee; 32]);
    for extent in &mut data.extents[20_000..] {
        extent.file_offset += 1 << 20;
    }
    data.extents.insert(20_000, extra);
    data.size += 1 << 20;
    let (root, after) = write(&tree(edited.clone()));
    let new = after.keys().filter(|id| !before.contains_key(id)).count();
    assert!(after.len() > 100 && new <= 8, "{new} of {} pages are new", after.len());
    assert_eq!(read(root, &after).unwrap()[1], edited);
}

#[test]
fn a32_a_tree_of_3000_levels_fits() {
    let mut entries = vec![directory("")];
    let mut path = String::new();
    for level in 0..3000 {
        if level > 0 {
            path.push('/');
        }
        path.push_str(&format!("{level:020}"));
        entries.push(directory(&path));
    }
    let (root, pages) = write(&entries);
    assert_eq!(read(root, &pages).unwrap(), entries);
}

#[test]
fn page_refs_of_all_pages_are_all_frames_of_the_manifest() {
    let mut entries = strange_tree();
    entries.extend(wide_tree(3000).into_iter().skip(1).map(|mut entry| {
        entry.path.splice(0..0, *b"zz");
        entry
    }));
    entries.sort_by(|a, b| path_order(&a.path, &b.path));
    let (root, pages) = write(&entries);
    let mut todo = vec![root];
    let mut seen = HashSet::new();
    let mut data = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            let refs = page_refs(&pages[&id]).unwrap();
            todo.extend(refs.pages);
            data.extend(refs.data);
        }
    }
    assert_eq!(seen, pages.keys().copied().collect());
    let used = entries.iter().filter_map(|entry| match &entry.kind {
        EntryKind::File(data) => Some(data.extents.iter().map(|extent| extent.frame)),
        _ => None,
    });
    assert_eq!(data, used.flatten().collect());
}

#[test]
fn a_lost_page_costs_what_is_below_it_and_no_more() {
    let entries = wide_tree(5000);
    let (root, mut pages) = write(&entries);
    let victim = pages
        .iter()
        .find(|(_, raw)| {
            let page = PageMessage::read(raw).unwrap();
            page.kind == LEAF && page.entries.iter().all(|entry| entry.kind == 1)
        })
        .map(|(id, raw)| (*id, PageMessage::read(raw).unwrap().entries.len()))
        .unwrap();
    pages.remove(&victim.0);
    let fetcher = fetcher(&pages);
    let (got, lost): (Vec<_>, Vec<_>) =
        ManifestReader::open(&fetcher, root).entries().partition(Result::is_ok);
    assert_eq!(got.len(), entries.len() - victim.1);
    assert_eq!(lost.len(), 1);
    let error = lost.into_iter().next().unwrap().unwrap_err();
    assert!(error.is_loss() && error.page() == Some(victim.0));
}

#[test]
fn the_writer_refuses_what_no_tree_has() {
    let refused = |entries: &[Entry]| {
        let mut emit = |raw: Vec<u8>| Ok::<_, Infallible>(frame_id(&raw));
        let mut writer = ManifestWriter::new(&mut emit);
        entries.iter().try_for_each(|entry| writer.push(entry.clone())).is_err()
    };
    let root = directory("");
    assert!(!refused(&[root.clone(), directory("a"), directory("a/b")]));
    assert!(refused(&[directory("a")]));
    assert!(refused(&[root.clone(), directory("b"), directory("a")]));
    assert!(refused(&[root.clone(), directory("a"), directory("a")]));
    assert!(refused(&[root.clone(), small_file("a", 1, 0, 1), directory("a/b")]));
    assert!(refused(&[root.clone(), directory("..")]));
    assert!(refused(&[root.clone(), small_file("a", 1, u32::MAX, 2)]));
    let mut wrong_size = small_file("a", 1, 0, 10);
    let EntryKind::File(data) = &mut wrong_size.kind else { unreachable!() };
    data.size = 9;
    assert!(refused(&[root.clone(), wrong_size]));
    let mut unsorted = directory("a");
    unsorted.xattrs = vec![(b"b".to_vec(), vec![]), (b"a".to_vec(), vec![])];
    assert!(refused(&[root, unsorted]));
    let mut emit = |raw: Vec<u8>| Ok::<_, Infallible>(frame_id(&raw));
    assert!(ManifestWriter::new(&mut emit).finish().is_err());
}

/// A leaf with a root and these rows.
fn leaf(rows: Vec<EntryMessage>) -> PageMessage {
    let root = EntryMessage { kind: 2, ..EntryMessage::default() };
    let entries = std::iter::once(root).chain(rows).collect();
    PageMessage { kind: LEAF, frames: vec![7; 64], entries, ..PageMessage::default() }
}

fn row(suffix: &[u8]) -> EntryMessage {
    EntryMessage { suffix: suffix.to_vec(), kind: 1, size: 10, ..EntryMessage::default() }
}

fn read_page(page: &PageMessage) -> Result<Vec<Entry>, ManifestError> {
    let raw = page.encode_to_vec();
    read(frame_id(&raw), &Pages::from([(frame_id(&raw), raw)]))
}

#[test]
fn a02_a06_hostile_names_are_refused_by_the_decoder() {
    assert_eq!(read_page(&leaf(vec![row(b"a"), row(b"b")])).unwrap().len(), 3);
    for path in [&b"/etc"[..], b"..", b"../x", b"a/../b", b".", b"a//b", b"a\0"] {
        assert!(read_page(&leaf(vec![row(path)])).is_err(), "{}", path.escape_ascii());
    }
    assert!(read_page(&leaf(vec![row(b"a"), row(b"a")])).is_err());
    assert!(read_page(&leaf(vec![row(b"b"), row(b"a")])).is_err());
    let evil = EntryMessage { kind: 3, target: b"/victim".to_vec(), ..row(b"evil") };
    assert!(read_page(&leaf(vec![evil, row(b"evil/passwd")])).is_err());
    let shared = EntryMessage { shared: 5, ..row(b"x") };
    assert!(read_page(&leaf(vec![shared])).is_err());
}

#[test]
fn x12_hostile_numbers_are_refused_without_their_memory() {
    let bad = [
        EntryMessage { size: 1 << 63, ..row(b"a") },
        EntryMessage { extents: vec![0, 2, 0, 5], ..row(b"a") },
        EntryMessage { extents: vec![0, 0, 0, 11], ..row(b"a") },
        EntryMessage { extents: vec![u64::MAX, 0, 0, 1], ..row(b"a") },
        EntryMessage { extents: vec![0, 0, u64::MAX, 2], ..row(b"a") },
        EntryMessage { extents: vec![0, 0, 0], ..row(b"a") },
        EntryMessage { extents: vec![0, 0, 0, 0], ..row(b"a") },
        EntryMessage { hash: vec![0; 15], ..row(b"a") },
        EntryMessage { xattrs: vec![0], ..row(b"a") },
        EntryMessage { kind: 99, ..row(b"a") },
        EntryMessage { flags: 64, ..row(b"a") },
        EntryMessage { mode: 0o10_000, ..row(b"a") },
        EntryMessage { mtime_nanos: 1_000_000_000, ..row(b"a") },
        EntryMessage { kind: 4, target: b"later".to_vec(), ..row(b"a") },
        EntryMessage { kind: 4, target: b"../x".to_vec(), ..row(b"a") },
        EntryMessage { extent_root: vec![1; 32], extent_count: 4_000_000_000, ..row(b"a") },
        EntryMessage { extent_root: vec![1; 32], extent_level: 100_000, extent_count: 1, ..row(b"a") },
        EntryMessage { extent_root: vec![1; 31], extent_count: 1, ..row(b"a") },
    ];
    for row in bad {
        let shown = format!("{row:?}");
        assert!(read_page(&leaf(vec![row])).is_err(), "{shown}");
    }
    // A page of a million empty rows is refused before they are rows.
    let rows: Vec<u8> = [5 << 3 | 2, 0].repeat(1 << 20);
    assert!(matches!(PageMessage::read(&rows[..1 << 20]), Err(PageError::TooManyRows)));
    assert!(matches!(PageMessage::read(&rows), Err(PageError::Long(_)) | Err(PageError::TooManyRows)));
}

/// Pages that all refer to one below them, twice: 2^40 leaves.
#[test]
fn x12_pages_that_repeat_each_other_end_soon() {
    let mut pages = Pages::new();
    let mut keep = |page: &PageMessage| {
        let raw = page.encode_to_vec();
        let id = frame_id(&raw);
        pages.insert(id, raw);
        id
    };
    let mut below = keep(&leaf(vec![row(b"a")]));
    for level in 1..=30 {
        let child = |first: &[u8]| ChildMessage {
            page: below.0.to_vec(),
            first_suffix: first.to_vec(),
            last_suffix: b"a".to_vec(),
            entries: 2_u64.pow(level),
            ..ChildMessage::default()
        };
        let children = vec![child(b""), child(b"")];
        below = keep(&PageMessage { kind: INDEX, level, children, ..PageMessage::default() });
    }
    let root = below;

    let extents = PageMessage {
        kind: EXTENTS,
        frames: vec![7; 32],
        extents: vec![0, 0, 0, 1],
        ..PageMessage::default()
    };
    let mut below = keep(&extents);
    for level in 1..=30 {
        let child = ExtentChildMessage { page: below.0.to_vec(), extents: 1, span: 1 };
        let extent_children = vec![child; 2];
        below = keep(&PageMessage { kind: EXTENT_INDEX, level, extent_children, ..PageMessage::default() });
    }
    let bomb = EntryMessage {
        extent_root: below.0.to_vec(),
        extent_level: 30,
        extent_count: 1000,
        size: 1 << 40,
        ..row(b"a")
    };
    let file = keep(&leaf(vec![bomb]));

    let fetcher = fetcher(&pages);
    let outcomes: Vec<_> = ManifestReader::open(&fetcher, root).entries().collect();
    assert!(outcomes.len() < 100 && outcomes.iter().any(Result::is_err), "{}", outcomes.len());
    let outcomes: Vec<_> = ManifestReader::open(&fetcher, file).entries().collect();
    assert!(outcomes.len() == 2 && outcomes[1].is_err());
}

#[test]
fn the_cuts_of_pages_are_pinned() {
    let (root, pages) = write(&wide_tree(3000));
    let (strange, _) = write(&strange_tree());
    assert_eq!((pages.len(), root.to_string().as_str(), strange.to_string().as_str()), GOLDEN);
}

const GOLDEN: (usize, &str, &str) = (
    53,
    "da6894ef2b7dee9ad37e45ff1ab608c658c638e1d2458453af52f560299f2ca1",
    "09a73f600bf736bfda044ba7d4df57c08cd70b674321ac50211444a82495c0aa",
);

fn arbitrary_tree() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof![3 => "[a-c]{1,3}", 1 => "[ -~&&[^/]]{1,12}"];
    let node = (proptest::collection::vec(name, 1..5), 0_u32..5000, any::<i64>(), any::<bool>());
    proptest::collection::vec(node, 0..300).prop_map(|nodes| {
        let mut entries: std::collections::BTreeMap<Vec<Vec<u8>>, Entry> = std::collections::BTreeMap::new();
        for (components, len, time, is_file) in nodes {
            if components.iter().any(|name| name == "." || name == "..") {
                continue;
            }
            let components: Vec<Vec<u8>> = components.into_iter().map(String::into_bytes).collect();
            for depth in 1..=components.len() {
                let key = components[..depth].to_vec();
                let path = String::from_utf8(key.join(&b'/')).unwrap();
                let last = depth == components.len();
                let mut entry = if last && is_file && len > 0 {
                    small_file(&path, len as u8, len, len)
                } else {
                    directory(&path)
                };
                entry.mtime_ns = i128::from(time) * 1000;
                let existing = entries.get(&key).map(|entry| entry.kind == EntryKind::Directory);
                match existing {
                    None => {
                        entries.insert(key, entry);
                    }
                    Some(true) => {}
                    // A file has this name: it becomes the directory it must be.
                    Some(false) if !last => {
                        entries.insert(key, directory(&path));
                    }
                    Some(false) => {}
                }
            }
        }
        std::iter::once(directory("")).chain(entries.into_values()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_round_trips_and_is_found_by_path(tree in arbitrary_tree(), probe in any::<prop::sample::Index>()) {
        let (root, pages) = write(&tree);
        prop_assert_eq!(&read(root, &pages).unwrap(), &tree);
        let fetcher = fetcher(&pages);
        let reader = ManifestReader::open(&fetcher, root);
        let wanted = &tree[probe.index(tree.len())];
        let found = reader.lookup(&wanted.path).unwrap();
        prop_assert_eq!(found.as_ref(), Some(wanted));
        let children: Vec<Entry> = reader.children(&wanted.path).map(Result::unwrap).collect();
        let expected: Vec<Entry> =
            tree.iter().filter(|e| parent(&e.path) == Some(&wanted.path)).cloned().collect();
        prop_assert_eq!(children, expected);
        let below: Vec<Entry> = reader.subtree(&wanted.path).map(Result::unwrap).collect();
        let expected: Vec<Entry> =
            tree.iter().filter(|e| is_within(&e.path, &wanted.path)).cloned().collect();
        prop_assert_eq!(below, expected);
    }

    /// Any bytes changed anywhere in any page: a typed error or entries that
    /// make a tree, in bounded time.
    #[test]
    fn mutated_pages_never_panic(seed in any::<u64>(), edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut tree = strange_tree();
        tree.iter_mut().for_each(|entry| entry.xattrs.truncate(3));
        let (root, pages) = write(&tree);
        let mut ids: Vec<FrameId> = pages.keys().copied().collect();
        ids.sort();
        let mut raw = pages[&ids[seed as usize % ids.len()]].clone();
        for (at, byte) in edits {
            let at = at as usize % raw.len();
            match byte % 3 {
                0 => raw[at] = byte,
                1 => { raw.insert(at, byte); }
                _ => { raw.truncate(at.max(1)); }
            }
        }
        let _ = page_refs(&raw);
        let id = frame_id(&raw);
        let mut damaged = pages.clone();
        damaged.insert(id, raw);
        let fetcher = fetcher(&damaged);
        let mut order = super::path::TreeOrder::default();
        for entry in ManifestReader::open(&fetcher, id).entries().take(10_000).map_while(Result::ok) {
            let directory = entry.kind == EntryKind::Directory;
            prop_assert_eq!(order.accept(&entry.path, directory), Ok(()));
        }
        let _ = ManifestReader::open(&fetcher, root).lookup(b"huge");
    }

    #[test]
    fn garbage_is_no_page(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = page_refs(&raw);
        let id = frame_id(&raw);
        if !raw.is_empty() {
            let fetcher = fetcher(&Pages::from([(id, raw)]));
            let _: Vec<_> = ManifestReader::open(&fetcher, id).entries().collect();
        }
    }
}

#[test]
fn reading_a_part_reads_few_pages() {
    let entries = wide_tree(20_000);
    let (root, pages) = write(&entries);
    let mut builder = PackBuilder::new();
    pages.values().for_each(|raw| builder.push(encode(FrameKind::Page, raw, 1)));
    let mut source = MemorySource::default();
    source.add(builder.finish());
    let source = Arc::new(source);
    let fetcher = FrameFetcher::new(source.clone(), 0);
    let reader = ManifestReader::open(&fetcher, root);
    reader.lookup(b"dir0011/file-0011500.txt").unwrap().unwrap();
    let depth = source.reads.swap(0, std::sync::atomic::Ordering::Relaxed);
    assert!(depth <= 4, "{depth} reads for one path");
    let _: Bytes = fetcher.get(root).unwrap();
    source.reads.store(0, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(reader.children(b"").count(), 20);
    let top = source.reads.load(std::sync::atomic::Ordering::Relaxed);
    assert!(top < 70, "{top} reads for 20 names above 20,000");
}

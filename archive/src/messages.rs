//! That `recovery/format.proto` and the messages in this crate are the same.
//!
//! Each message is filled in every field; read by the description alone it
//! must have every field that is described, none that is not, and the values
//! that were put in.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};

use crate::manifest::messages::{ChildMessage, EntryMessage, ExtentChildMessage, PageMessage, XattrMessage};
use crate::snapshot::{BodyMessage, ContainerMessage, ObjectMessage, SourceMessage, StatsMessage};
use crate::state::{HeadMessage, IndexMessage, IndexedPackMessage, SourceNumberMessage};

fn pool() -> DescriptorPool {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/recovery");
    let files = protox::compile(["format.proto"], [path]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn read<M: Message + Default + PartialEq>(pool: &DescriptorPool, name: &str, message: &M) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(&format!("holdfast.format.v1.{name}")).unwrap();
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor.clone(), &bytes[..]).unwrap();
    assert_eq!(dynamic.unknown_fields().count(), 0, "{name} has fields that are not described");
    for field in descriptor.fields() {
        assert!(dynamic.has_field(&field), "{name}.{} is described and not written", field.name());
        if let Value::Message(below) = &*dynamic.get_field(&field) {
            assert_eq!(below.unknown_fields().count(), 0, "{}", below.descriptor().name());
        }
    }
    assert!(M::decode(&dynamic.encode_to_vec()[..]).unwrap() == *message, "{name}");
    dynamic
}

fn value(message: &DynamicMessage, field: &str) -> Value {
    message.get_field_by_name(field).unwrap().into_owned()
}

fn stats() -> StatsMessage {
    crate::snapshot::Stats {
        entries: 1,
        files: 2,
        size_bytes: 3,
        read_bytes: 4,
        new_bytes: 5,
        stored_bytes: 6,
        changed_files: 7,
        torn_files: 8,
        vanished_entries: 9,
        unreadable_entries: 10,
    }
    .into()
}

#[test]
fn pages_are_as_described() {
    let pool = pool();
    let entry = EntryMessage {
        shared: 1,
        suffix: b"s".to_vec(),
        kind: 1,
        mode: 0o644,
        uid: 3,
        gid: 4,
        size: u64::MAX,
        mtime_seconds: -5,
        mtime_nanos: 6,
        ctime_seconds: -7,
        ctime_nanos: 8,
        inode: 9,
        target: b"t".to_vec(),
        major: 10,
        minor: 11,
        flags: 12,
        xattrs: vec![300, 0],
        xattr_pages: vec![vec![1; 32]],
        hash: vec![2; 16],
        extents: vec![0, 1, 2, 3],
        extent_root: vec![3; 32],
        extent_level: 13,
        extent_count: 14,
    };
    let dynamic = read(&pool, "Entry", &entry);
    assert_eq!(value(&dynamic, "mtime_seconds"), Value::I64(-5));
    assert_eq!(value(&dynamic, "ctime_seconds"), Value::I64(-7));
    assert_eq!(value(&dynamic, "size"), Value::U64(u64::MAX));
    assert_eq!(value(&dynamic, "xattrs"), Value::List(vec![Value::U32(300), Value::U32(0)]));
    let child = ChildMessage {
        page: vec![1; 32],
        first_shared: 2,
        first_suffix: vec![3],
        last_shared: 4,
        last_suffix: vec![5],
        entries: 6,
    };
    read(&pool, "Child", &child);
    let extent_child = ExtentChildMessage { page: vec![1; 32], extents: 2, span: 3 };
    read(&pool, "ExtentChild", &extent_child);
    let xattr = XattrMessage { name: vec![1], value: vec![2] };
    read(&pool, "Xattr", &xattr);
    let page = PageMessage {
        kind: 1,
        level: 2,
        frames: vec![3; 32],
        xattrs: vec![xattr],
        entries: vec![entry],
        children: vec![child],
        extents: vec![4, 5, 6, 7],
        extent_children: vec![extent_child],
    };
    read(&pool, "Page", &page);
}

#[test]
fn objects_are_as_described() {
    let pool = pool();
    read(&pool, "Stats", &stats());
    let options = [("a".to_owned(), "b".to_owned())];
    let source = SourceMessage::from(crate::snapshot::SourceFacts {
        kind: "volume".into(),
        name: "n".into(),
        driver: "local".into(),
        options: options.clone().into(),
        labels: options.into(),
    });
    read(&pool, "Source", &source);
    let container = ContainerMessage::from(crate::snapshot::ContainerFacts {
        name: "n".into(),
        image: "i".into(),
        image_id: "d".into(),
        spec: "{}".into(),
    });
    read(&pool, "Container", &container);
    let mut body = crate::snapshot::tests::sample_body();
    body.started_unix_ns = -3;
    let body = BodyMessage::from(&body);
    assert_eq!(value(&read(&pool, "SnapshotBody", &body), "started_unix_ns"), Value::I64(-3));
    let object = ObjectMessage {
        repository: "r".into(),
        snapshot: "s".into(),
        created_unix_ms: -1,
        commit_number: 2,
        body_key_epoch: 3,
        body: vec![4],
        host_name: "h".into(),
        source_kind: "volume".into(),
        source_name: "data".into(),
    };
    assert_eq!(value(&read(&pool, "SnapshotObject", &object), "created_unix_ms"), Value::I64(-1));
    let number = SourceNumberMessage { host: "h".into(), source: "s".into(), number: 3 };
    read(&pool, "SourceNumber", &number);
    read(
        &pool,
        "Head",
        &HeadMessage { commit_number: 1, sources: vec![number], audit_row: 2, audit_chain: "c".into() },
    );
    let pack = IndexedPackMessage { pack: "p".into(), len: 1, table: vec![2] };
    read(&pool, "IndexedPack", &pack);
    read(&pool, "Index", &IndexMessage { packs: vec![pack] });
}

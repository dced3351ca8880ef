//! What reading a repository costs its store.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use holdfast_archive::fs::{CaptureOptions, CaptureRequest, capture};
use holdfast_archive::snapshot::{SnapshotBody, SourceFacts, Stats};
use holdfast_archive::verify::Level;

use crate::support::{Fixture, noise};

/// Files this small lie in the pages themselves: many pages, and no data frames.
const FILES: u64 = 8000;
const BYTES: usize = 1300;

#[test]
fn pages_are_read_by_the_megabyte_and_not_one_by_one() {
    let tree = tempfile::tempdir().unwrap();
    for n in 0..FILES {
        std::fs::write(tree.path().join(format!("{n:05}")), noise(n, BYTES)).unwrap();
    }
    let fixture = Fixture::new();
    let session = Arc::new(fixture.session());
    let captured = capture(CaptureRequest {
        root: File::open(tree.path()).unwrap().into(),
        base: None,
        damaged: &HashSet::new(),
        options: CaptureOptions::default(),
        sink: session.clone(),
        source: session.clone(),
        progress: Arc::default(),
        cancel: Arc::default(),
    })
    .unwrap();
    let body = SnapshotBody {
        root: captured.root,
        started_unix_ns: captured.started_unix_ns,
        stats: Stats::default(),
        source: SourceFacts { kind: "volume".into(), name: "data".into(), ..SourceFacts::default() },
        consistency: "none".into(),
        host_name: "web-1".into(),
        partial: captured.partial,
        problems: Vec::new(),
        downtime_ms: 0,
        agent_version: "test".into(),
        containers: Vec::new(),
    };
    let counted = |work: &mut dyn FnMut()| {
        let before = fixture.repository.store().counters();
        work();
        let after = fixture.repository.store().counters();
        (after.get - before.get, after.bytes_read - before.bytes_read)
    };

    let (reads, bytes) = counted(&mut || {
        session.commit(fixture.host, fixture.source, &body, 1_790_000_001_000).unwrap();
    });
    let stored = FILES * BYTES as u64;
    let (commit_reads, commit_bytes) = (reads, bytes);

    let mut pages = 0;
    let (reads, bytes) = counted(&mut || {
        let report = fixture.verify_at(Level::Metadata);
        assert!(report.is_clean() && report.frames > 100, "{report:#?}");
        pages = report.frames;
    });
    assert!(commit_reads <= 5 + pages / 5, "to commit {pages} pages: {commit_reads} reads");
    assert!(commit_bytes < 2 * stored, "to commit: {commit_bytes} bytes");
    // Small objects, the end of each pack, and a few long ranges of pages.
    assert!(reads <= 15 + pages / 5, "to verify {pages} pages: {reads} reads");
    assert!(bytes < 3 * stored, "to verify: {bytes} bytes");
}

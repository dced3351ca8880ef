use holdfast_archive::ids::SnapshotId;
use holdfast_proto::v1::PolicyFile;

use super::*;
use crate::catalog::sources::SeenVolume;
use crate::jobs::testing::Bench;
use crate::model::protocol::SnapshotState;

fn file(path: &str, toml: &str) -> PolicyFile {
    PolicyFile { path: path.to_owned(), toml: toml.to_owned() }
}

async fn apply(api: &PolicyApi, files: &[PolicyFile], dry_run: bool) -> ApplyPoliciesResponse {
    let request = ApplyPoliciesRequest { files: files.to_vec(), dry_run, allow_forgetting: false };
    api.apply_policies(Request::new(request)).await.expect("answers").into_inner()
}

const NIGHTLY: &str = "name = 'nightly'\nhosts = ['web-1', 'wbe-2']\nvolumes = ['db_*']\n\
                       [schedule]\ncron = '0 2 * * *'\nzone = 'Europe/Berlin'\n[retention]\nkeep_last = 3\n";

#[tokio::test]
async fn o01_one_bad_file_and_nothing_is_changed() {
    let bench = Bench::new().await;
    let api = PolicyApi::new(bench.jobs());
    let bad = "name = 'x'\nvolumes = ['*']\nconsistancy = 'none'\n";
    let answer = apply(&api, &[file("a.toml", NIGHTLY), file("b.toml", bad)], false).await;
    assert!(answer.changes.is_empty());
    let problem = &answer.problems[0];
    assert_eq!((problem.path.as_str(), problem.line, problem.column), ("b.toml", 3, 1));
    assert_eq!(problem.message, "unknown key `consistancy`; did you mean `consistency`?");
    assert!(bench.catalog.policies().await.expect("lists").is_empty());
    let twice = apply(&api, &[file("a.toml", NIGHTLY), file("b.toml", NIGHTLY)], false).await;
    assert!(twice.problems[0].message.contains("in another of these files"));
    assert!(!apply(&api, &[], false).await.problems.is_empty());
}

#[tokio::test]
async fn o01_applying_shows_the_next_five_fires_and_what_it_matches() {
    let bench = Bench::new().await;
    let volume = SeenVolume {
        name: "db_data".into(),
        driver: "local".into(),
        labels: BTreeMap::new(),
        anonymous: false,
        used: true,
        own: String::new(),
    };
    bench.catalog.record_volumes(bench.host, &[volume], 1).await.expect("recorded");
    let api = PolicyApi::new(bench.jobs());
    let planned = apply(&api, &[file("a.toml", NIGHTLY)], true).await;
    assert_eq!(planned.changes[0].change, "created");
    assert!(bench.catalog.policies().await.expect("lists").is_empty());
    let applied = apply(&api, &[file("a.toml", NIGHTLY)], false).await;
    let change = &applied.changes[0];
    assert_eq!(change.details.iter().filter(|line| line.starts_with("next ")).count(), 5, "{change:#?}");
    assert!(change.details.contains(&"matches web-1: db_data".to_owned()), "{change:#?}");
    assert_eq!(change.warnings, ["host `wbe-2` is not known; did you mean `web-1`?"]);
    let again = apply(&api, &[file("a.toml", NIGHTLY)], false).await;
    assert_eq!(again.changes[0].change, "unchanged");

    let request = ExplainPolicyRequest { name: "nightly".into(), count: 2 };
    let explained = api.explain_policy(Request::new(request)).await.expect("explains").into_inner();
    assert_eq!((explained.fires.len(), explained.matches.len()), (2, 1));
    assert_eq!(explained.keeps, "the last 3 complete snapshots of each source, and held ones");
    let request = ExplainPolicyRequest { name: "nigthly".into(), count: 0 };
    let refused = api.explain_policy(Request::new(request)).await.expect_err("unknown");
    assert_eq!(refused.message(), "policy `nigthly` is not known; did you mean `nightly`?");
}

#[test]
fn o07_an_edit_that_would_forget_more_than_half_is_named() {
    let id = SnapshotId {
        host: holdfast_archive::ids::HostId::generate(),
        source: holdfast_archive::ids::SourceId::generate(),
        number: 0,
    };
    let snapshots: Vec<SnapshotRecord> = (1..=10)
        .rev()
        .map(|number| SnapshotRecord {
            id: SnapshotId { number, ..id },
            commit_number: number,
            state: SnapshotState::Committed,
            job: String::new(),
            policy: "nightly".into(),
            created_ms: 0,
            root: holdfast_archive::ids::FrameId([0; 32]),
            host_name: "db-1".into(),
            source_kind: "volume".into(),
            source_name: "db_data".into(),
            partial: false,
            held: false,
            purge_after_ms: None,
            extent: None,
            shrink_accepted: false,
        })
        .collect();
    let with = |keep: u32| {
        policy::parse(&NIGHTLY.replace("keep_last = 3", &format!("keep_last = {keep}"))).expect("right")
    };
    let before = PolicyRecord { policy: with(10), applied_ms: 0, since_ms: 0 };
    let named = |keep: u32| forgetting(&with(keep), Some(&before), &snapshots).collect::<Vec<_>>();
    assert!(named(5).is_empty());
    assert_eq!(
        named(4),
        ["policy `nightly`: 6 of the 10 snapshots of db_data on db-1 would be forgotten; \
          to have it so, apply with --allow-forgetting"]
    );
    // What is in force already is not asked about again.
    let same = PolicyRecord { policy: with(1), applied_ms: 0, since_ms: 0 };
    assert!(forgetting(&with(1), Some(&same), &snapshots).next().is_none());
}

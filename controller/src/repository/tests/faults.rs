//! Every single fault of a store, at every request of a reconciliation and of a
//! rebuild: one answer is wrong, or one object cannot be had until the next
//! pass. Rounds of collection follow at once. Nothing that was whole before is
//! lost, whatever the pass itself came to.

use holdfast_archive::store::{Fault, FaultPlan, Rule, Verb};

use super::races::quick;
use super::reconcile::{BOTH, How, collect_for_days, content};
use super::*;

/// A bucket with two snapshots of a source, one page healed in between, and one
/// of content that lies in a pack of its own; with index files.
struct Template {
    world: World,
    snapshots: Vec<(SnapshotId, &'static str)>,
    objects: Vec<String>,
}

impl Template {
    async fn new(hints: bool) -> Self {
        let world = World::new().await;
        let (first, second) = (tree("first"), tree_with(b"name", "first", true));
        let mut snapshots = vec![(world.backup(&first).await, "first")];
        let pack = world.repository.catalog().all_packs().await.expect("asked")[0].id;
        let path = world.dir.path().join("bucket").join(ObjectKey::Pack(pack).to_string());
        let mut bytes = std::fs::read(&path).expect("read");
        let row = &first.pack.table[1];
        bytes[row.offset as usize + row.stored_len as usize / 2] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let lease = world.open().await;
        world.repository.report_lost(world.host, lease, &first.frames).await.expect("looked at");
        world.send(lease, &first.pack).await;
        snapshots.push((world.committed(lease, &first).await, "first"));
        snapshots.push((world.backup(&second).await, "first"));
        snapshots.push((world.backup(&tree("second")).await, "second"));
        if hints {
            world.repository.write_hints().await.expect("written");
        }
        let objects = objects(&world.dir.path().join("bucket"), "");
        Self { world, snapshots, objects }
    }

    /// A copy of the bucket, and of the catalogue or an empty one.
    async fn copy(&self, how: How, plan: &FaultPlan) -> Copy {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (from, to) = (self.world.dir.path().join("bucket"), dir.path().join("bucket"));
        for object in &self.objects {
            let target = to.join(object);
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
            std::fs::copy(from.join(object), target).expect("copied");
        }
        let url = match how {
            How::Rebuild => "sqlite::memory:".to_owned(),
            How::Reconcile => {
                let file = dir.path().join("catalog.db");
                sqlx::query(sqlx::AssertSqlSafe(format!("vacuum into '{}'", file.display())))
                    .execute(self.world.repository.catalog().pool())
                    .await
                    .expect("copied");
                format!("sqlite://{}", file.display())
            }
        };
        let catalog = Catalog::open(&url).await.expect("opens");
        let store = Store::directory(&to).expect("a store").with_retry(quick()).faulty(plan.clone());
        let repository = Repository::new(catalog, store, self.world.repository.settings().clone());
        Copy { repository, take_over: (how == How::Rebuild).then_some("another"), _dir: dir }
    }

    /// A pass under the plan, collection, then a pass without it, and
    /// collection: everything is there, at the latest after the second, and
    /// after the first unless it said that something is missing. Gives how many
    /// answers were wrong.
    async fn survives(&self, how: How, plan: &FaultPlan, what: &str) -> u64 {
        let copy = self.copy(how, plan).await;
        let first = copy.repository.reconcile(copy.take_over, false).await;
        if copy.repository.catalog().repository().await.expect("asked").is_some() {
            collect_whatever_comes(&copy.repository).await;
        }
        let wrong = plan.hits();
        plan.clear();
        if let Ok(rebuilt) = &first
            && rebuilt.losses.is_empty()
        {
            self.check(&copy.repository, &format!("{what}, after the first pass {rebuilt:?}")).await;
        }
        let second = copy.repository.reconcile(copy.take_over, false).await.expect("a pass");
        assert_eq!((&second.losses, second.collection_off.as_str()), (&vec![], ""), "{what}: {first:?}");
        assert!(!collect_for_days(&copy.repository).await, "{what}");
        self.check(&copy.repository, &format!("{what}, after the second pass")).await;
        wrong
    }

    async fn check(&self, repository: &Repository, what: &str) {
        for (id, text) in &self.snapshots {
            let read = content(repository, id).await;
            assert_eq!(read.as_deref(), Ok(text.as_bytes()), "{what}: snapshot {id}");
        }
    }
}

struct Copy {
    repository: Repository,
    take_over: Option<&'static str>,
    _dir: tempfile::TempDir,
}

/// The store fails collection as well.
async fn collect_whatever_comes(repository: &Repository) {
    for _ in 0..3 {
        repository.catalog().advance_ticks(200).await.expect("time passes");
        let _refused_or_done = gc::round(repository).await;
    }
}

fn objects(dir: &std::path::Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let entry = entry.expect("an entry");
        let name = format!("{prefix}{}", entry.file_name().display());
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(objects(&entry.path(), &format!("{name}/"))),
            false => found.push(name),
        }
    }
    found.sort_unstable();
    found
}

/// Four tests of one body: each is a few hundred passes, and they run side by side.
async fn one_wrong_answer_loses_nothing(how: How, hints: bool) {
    let template = Template::new(hints).await;
    let faults = [
        (Verb::Get, Fault::Missing),
        (Verb::Get, Fault::Flipped(usize::MAX)),
        (Verb::Get, Fault::Flipped(40)),
        (Verb::Head, Fault::Missing),
        (Verb::List, Fault::Omits(0)),
        (Verb::List, Fault::Omits(1)),
        (Verb::List, Fault::Omits(2)),
        (Verb::List, Fault::Omits(3)),
        (Verb::List, Fault::Repeats),
    ];
    let mut cases = 0;
    for (verb, fault) in faults {
        for skip in 0.. {
            let plan = FaultPlan::new();
            plan.add(Rule::new(verb, fault).skip(skip).times(1));
            let what = format!("{how:?}, hints: {hints}, {verb:?} {skip} {fault:?}");
            if template.survives(how, &plan, &what).await == 0 {
                break;
            }
            cases += 1;
        }
    }
    println!("{cases} single wrong answers, nothing lost");
    assert!(cases > 25, "{cases}");
}

#[tokio::test]
async fn h01_s10_one_wrong_answer_to_a_reconciliation_loses_nothing() {
    one_wrong_answer_loses_nothing(How::Reconcile, true).await;
}

#[tokio::test]
async fn h01_s10_one_wrong_answer_to_a_reconciliation_without_index_files_loses_nothing() {
    one_wrong_answer_loses_nothing(How::Reconcile, false).await;
}

#[tokio::test]
async fn h01_s10_one_wrong_answer_to_a_rebuild_loses_nothing() {
    one_wrong_answer_loses_nothing(How::Rebuild, true).await;
}

#[tokio::test]
async fn h01_s10_one_wrong_answer_to_a_rebuild_without_index_files_loses_nothing() {
    one_wrong_answer_loses_nothing(How::Rebuild, false).await;
}

#[tokio::test]
async fn h01_s10_a_listing_that_leaves_out_or_repeats_loses_nothing() {
    for hints in [true, false] {
        let template = Template::new(hints).await;
        for how in BOTH {
            for prefix in ["packs/", "snapshots/", "index/"] {
                let omitted = (0..5).map(Fault::Omits);
                for fault in omitted.chain([Fault::Repeats]) {
                    let plan = FaultPlan::new();
                    plan.add(Rule::new(Verb::List, fault).on(prefix));
                    let what = format!("{how:?}, hints: {hints}, listing of {prefix} {fault:?}");
                    assert!(template.survives(how, &plan, &what).await > 0, "{what}");
                }
            }
        }
    }
}

/// Rows know the packs of a catalogue, index files those of a bucket.
#[tokio::test]
async fn h01_packs_that_a_listing_leaves_out_are_asked_for_by_name() {
    for (hints, how) in [(true, How::Rebuild), (true, How::Reconcile), (false, How::Reconcile)] {
        let template = Template::new(hints).await;
        let packs = template.objects.iter().filter(|name| name.starts_with("packs/")).count();
        assert!(packs >= 3, "{:?}", template.objects);
        for fault in (0..packs).map(Fault::Omits) {
            let plan = FaultPlan::new();
            plan.add(Rule::new(Verb::List, fault).on("packs/"));
            let copy = template.copy(how, &plan).await;
            let what = format!("{how:?}, hints: {hints}, {fault:?}");
            let rebuilt = copy.repository.reconcile(copy.take_over, false).await.expect("a pass");
            assert!(plan.hits() > 0, "{what}");
            assert_eq!((&rebuilt.losses, rebuilt.collection_off.as_str()), (&vec![], ""), "{what}");
            template.check(&copy.repository, &what).await;
        }
    }
}

#[tokio::test]
async fn h01_an_object_that_cannot_be_had_for_a_while_loses_nothing() {
    for hints in [true, false] {
        let template = Template::new(hints).await;
        let whose = |name: &&String| !name.starts_with("RECOVERY") && *name != "repo.json";
        let objects: Vec<&String> = template.objects.iter().filter(whose).collect();
        assert!(objects.len() >= 9, "{objects:?}");
        for how in BOTH {
            for object in &objects {
                for fault in [Fault::Missing, Fault::Flipped(0), Fault::Flipped(usize::MAX)] {
                    let plan = FaultPlan::new();
                    plan.add(Rule::new(Verb::Get, fault).on(object.as_str()));
                    if fault == Fault::Missing {
                        plan.add(Rule::new(Verb::Head, fault).on(object.as_str()));
                    }
                    let what = format!("{how:?}, hints: {hints}, {object} {fault:?}");
                    template.survives(how, &plan, &what).await;
                }
            }
        }
    }
}

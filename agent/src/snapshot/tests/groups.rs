//! Sources of one job whose containers have nothing to do with one another.

use super::*;
use crate::engine::{Container, HealthState};

/// A volume, its source and the container that writes to it.
struct Pair {
    source: SourceId,
    name: VolumeName,
    user: String,
}

impl Bench {
    async fn pair(&self, suffix: &str, arguments: &[&str]) -> Pair {
        let (name, _) = self.volume(suffix).await;
        let mount = format!("{name}:/data");
        let mut all = vec!["-v", mount.as_str(), "--stop-timeout", "1"];
        all.extend(arguments);
        let user = self.scene.run_sleeper(&format!("{suffix}-user"), &all).await;
        Pair { source: SourceId::generate(), name, user }
    }

    async fn look(&self, container: &str) -> Container {
        self.scene.engine.inspect_container(container).await.unwrap()
    }

    async fn state(&self, container: &str) -> ContainerState {
        self.look(container).await.state
    }

    /// The one of two that is paused, and the other, which must run.
    async fn resting_and_running<'a>(&self, pairs: [&'a Pair; 2]) -> (&'a Pair, &'a Pair) {
        self.one_quiesced(pairs).await.unwrap_or_else(|other| panic!("not one of two is quiesced: {other:?}"))
    }

    async fn one_quiesced<'a>(
        &self,
        pairs: [&'a Pair; 2],
    ) -> Result<(&'a Pair, &'a Pair), [ContainerState; 2]> {
        let states = [self.state(&pairs[0].user).await, self.state(&pairs[1].user).await];
        match states {
            [ContainerState::Paused, ContainerState::Running] => Ok((pairs[0], pairs[1])),
            [ContainerState::Running, ContainerState::Paused] => Ok((pairs[1], pairs[0])),
            other => Err(other),
        }
    }
}

fn request_of(pairs: [&Pair; 2], mode: QuiesceMode) -> BackupRequest {
    let [first, second] = pairs;
    let mut request = request(first.source, &first.name, Some(mode));
    request
        .sources
        .push(SourceRequest { id: second.source, name: SourceName::Volume(second.name.to_string()) });
    request
}

impl Outcome {
    fn of_source(&self, pair: &Pair) -> &v1::SourceFinished {
        let id = pair.source.to_string();
        self.sources.iter().find(|source| source.source_id == id).expect("every source finishes")
    }

    fn order(&self) -> Vec<&str> {
        self.quiesced.iter().map(|report| report.container_name.as_str()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_may_not_be_stopped_costs_no_other_volume_its_snapshot() {
    let Some(bench) = Bench::open().await else { return };
    let refused = bench.pair("once", &["--rm"]).await;
    let good = bench.pair("good", &[]).await;
    let [refused_before, good_before] = [bench.look(&refused.user).await, bench.look(&good.user).await];
    let outcome = bench.run(request_of([&refused, &good], QuiesceMode::Stop)).await;

    let failed = outcome.of_source(&refused);
    assert_eq!(failed.error_code, "would-be-removed", "{outcome:?}");
    assert!(failed.error.contains(&refused.user), "{outcome:?}");
    assert_eq!((outcome.ended.ok, outcome.ended.error_code.as_str()), (false, "would-be-removed"));
    assert_eq!(bench.look(&refused.user).await, refused_before, "it was never touched");
    assert!(bench.repository.snapshots(refused.source).is_empty());

    assert!(outcome.of_source(&good).ok && !outcome.of_source(&good).partial, "{outcome:?}");
    assert_eq!(outcome.order(), [good.user.as_str()]);
    assert!(outcome.quiesced[0].resumed && outcome.quiesced[0].problem.is_empty(), "{outcome:?}");
    let good_after = bench.look(&good.user).await;
    assert_eq!(good_after.state, ContainerState::Running);
    assert_ne!(good_after.started_at, good_before.started_at, "it was quiesced");
    let (_, body) = bench.repository.snapshots(good.source).remove(0);
    assert_eq!((body.consistency.as_str(), body.downtime_ms), ("stop", outcome.quiesced[0].downtime_ms));
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_while_the_first_pass_reads_and_sends() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let before = [bench.look(&pairs[0].user).await, bench.look(&pairs[1].user).await];
    bench.repository.lock().stuck = Some("upload_pack");
    let looking = async {
        bench.called("upload_pack").await;
        for (pair, before) in pairs.iter().zip(&before) {
            assert_eq!(before.state, ContainerState::Running);
            assert_eq!(bench.look(&pair.user).await, *before, "it was not touched");
        }
        assert!(bench.recovery.journal().is_empty(), "the journal is empty");
        bench.repository.lock().stuck = None;
    };
    let (outcome, ()) =
        tokio::join!(bench.run(request_of([&pairs[0], &pairs[1]], QuiesceMode::Stop)), looking);
    assert!(outcome.ended.ok, "{outcome:?}");
    assert_eq!(outcome.quiesced.len(), 2, "{outcome:?}");
}

// The second pass reads the pages of the first, which is where it is stuck.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_group_is_quiesced_the_containers_of_the_other_run() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let pairs = [&pairs[0], &pairs[1]];
    bench.repository.lock().stuck = Some("locate");
    let looking = async {
        bench.called("locate").await;
        let (first, second) = bench.resting_and_running(pairs).await;
        assert_eq!(bench.recovery.journal().actions().len(), 1);
        bench.repository.lock().stuck = None;
        [first.user.as_str(), second.user.as_str()]
    };
    let (outcome, order) = tokio::join!(bench.run(request_of(pairs, QuiesceMode::Pause)), looking);
    assert!(outcome.ended.ok, "{outcome:?}");
    assert_eq!(outcome.order(), order, "each once, one after the other");
    for pair in pairs {
        assert_eq!(bench.state(&pair.user).await, ContainerState::Running);
        assert!(!outcome.of_source(pair).partial, "{outcome:?}");
    }
}

/// Maximum downtimes to try, in seconds. A pause that is over in a moment on an
/// idle machine may take longer than one of them on a busy one: then nothing is
/// shown either way, and the next one is tried.
const MAXIMA: [u64; 3] = [5, 20, 45];

/// It was quiesced for as long as it may be.
fn took_all(report: &v1::ContainerQuiesced, most: Duration) -> bool {
    u128::from(report.downtime_ms) >= most.as_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_maximum_downtime_is_that_of_each_group() {
    for most in MAXIMA.map(Duration::from_secs) {
        let Some(bench) = Bench::open().await else { return };
        if bench.one_group_is_stuck_for(most).await {
            return;
        }
    }
    panic!("a pause and a look at one small volume took {MAXIMA:?} s");
}

impl Bench {
    /// Whether the machine was quick enough for it to show anything.
    async fn one_group_is_stuck_for(&self, most: Duration) -> bool {
        let pairs = [self.pair("a", &[]).await, self.pair("b", &[]).await];
        let pairs = [&pairs[0], &pairs[1]];
        self.repository.lock().stuck = Some("locate");
        let looking = async {
            self.called("locate").await;
            let first = self.one_quiesced(pairs).await.map(|(first, _)| first);
            if let Ok(first) = first {
                // Until the watchdog has resumed it.
                while self.state(&first.user).await != ContainerState::Running {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            self.repository.lock().stuck = None;
            first
        };
        let asked = BackupRequest { max_downtime: Some(most), ..request_of(pairs, QuiesceMode::Pause) };
        let (outcome, seen) = tokio::join!(self.run(asked), looking);
        let seen = match seen {
            Ok(seen) => seen,
            Err(states) => {
                eprintln!("{most:?} were over before it was looked at: {states:?}");
                return false;
            }
        };
        let [first, second] = &outcome.quiesced[..] else { panic!("each is quiesced once: {outcome:?}") };
        let of = |report: &v1::ContainerQuiesced| {
            pairs.into_iter().find(|pair| pair.user == report.container_name).expect("one of the two")
        };
        let (first, stuck, second, free) = (of(first), first, of(second), second);
        assert_eq!(first.user, seen.user, "one after the other: {outcome:?}");
        assert_eq!(outcome.of_source(first).error_code, "max-downtime", "{outcome:?}");
        assert_eq!(outcome.ended.error_code, "max-downtime", "{outcome:?}");
        assert!(took_all(stuck, most), "{outcome:?}");
        for pair in pairs {
            assert_eq!(self.state(&pair.user).await, ContainerState::Running);
        }
        assert!(self.recovery.journal().is_empty());
        if !outcome.of_source(second).ok && took_all(free, most) {
            return false;
        }
        assert!(outcome.of_source(second).ok, "it had {most:?} of its own: {outcome:?}");
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_become_healthy_is_no_downtime() {
    for most in MAXIMA.map(Duration::from_secs) {
        let Some(bench) = Bench::open().await else { return };
        if bench.is_healthy_after_more_than(most).await {
            return;
        }
    }
    panic!("a stop, a look at one small volume and a start took {MAXIMA:?} s");
}

impl Bench {
    /// Whether the machine was quick enough for it to show anything.
    async fn is_healthy_after_more_than(&self, most: Duration) -> bool {
        let second = Duration::from_secs(1).as_nanos();
        let longer = (most.as_secs() + 5).to_string();
        let check = serde_json::json!({
            "Test": ["CMD", "/bin/busybox", "sleep", longer], "Interval": second, "Timeout": 120 * second
        });
        let image = self.scene.image_with("slow", &serde_json::json!({ "Healthcheck": check })).await;
        let (name, _) = self.volume("data").await;
        let (user, mount) = (self.scene.name("user"), format!("{name}:/data"));
        let run = ["run", "-d", "--name", &user, "--network", "none", "-v", &mount, "--stop-timeout", "1"];
        self.scene.docker(&[&run[..], &[&image, "/bin/busybox", "sleep", "86400"]].concat());
        let asked = BackupRequest {
            max_downtime: Some(most),
            ..request(SourceId::generate(), &name, Some(QuiesceMode::Stop))
        };
        let outcome = self.run(asked).await;
        if outcome.ended.error_code == "max-downtime" && took_all(&outcome.quiesced[0], most) {
            return false;
        }
        assert!(outcome.ended.ok, "{outcome:?}");
        assert!(outcome.quiesced[0].problem.is_empty(), "it was waited for: {outcome:?}");
        let container = self.look(&user).await;
        assert_eq!((container.state, container.health), (ContainerState::Running, HealthState::Healthy));
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_the_quiesced_group_and_touches_no_other() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let pairs = [&pairs[0], &pairs[1]];
    bench.repository.lock().stuck = Some("locate");
    let asked = request_of(pairs, QuiesceMode::Pause);
    let job = asked.job;
    let cancelling = async {
        bench.called("locate").await;
        let (first, _) = bench.resting_and_running(pairs).await;
        assert!(bench.snapshots.cancel(job));
        first.user.as_str()
    };
    let (outcome, first) = tokio::join!(bench.run(asked), cancelling);
    assert!(outcome.ended.cancelled, "{outcome:?}");
    assert_eq!(outcome.order(), [first]);
    for pair in pairs {
        assert_eq!(outcome.of_source(pair).error_code, "cancelled", "{outcome:?}");
        assert_eq!(bench.state(&pair.user).await, ContainerState::Running);
    }
    assert!(bench.recovery.journal().is_empty());
    assert_eq!(bench.repository.open_leases(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_writes_to_both_is_quiesced_once_for_both() {
    let Some(bench) = Bench::open().await else { return };
    let first = bench.pair("a", &[]).await;
    let mount = format!("{}:/first", first.name);
    let second = bench.pair("b", &["-v", &mount]).await;
    let outcome = bench.run(request_of([&first, &second], QuiesceMode::Pause)).await;
    assert!(outcome.ended.ok, "{outcome:?}");
    let mut order = outcome.order();
    order.sort_unstable();
    assert_eq!(order, [first.user.as_str(), second.user.as_str()]);
}

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

    /// Waits until a call of this name has come to the repository.
    async fn called(&self, name: &str) {
        while self.repository.calls(name) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The one of two that is paused, and the other, which must run.
    async fn resting_and_running<'a>(&self, pairs: [&'a Pair; 2]) -> (&'a Pair, &'a Pair) {
        let states = [self.state(&pairs[0].user).await, self.state(&pairs[1].user).await];
        match states {
            [ContainerState::Paused, ContainerState::Running] => (pairs[0], pairs[1]),
            [ContainerState::Running, ContainerState::Paused] => (pairs[1], pairs[0]),
            other => panic!("not one of two is at rest: {other:?}"),
        }
    }
}

fn request_of(pairs: [&Pair; 2], rest: Rest) -> BackupRequest {
    let [first, second] = pairs;
    let mut request = request(first.source, &first.name, Some(rest));
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

    fn rested(&self) -> Vec<&str> {
        self.quiesced.iter().map(|report| report.container_name.as_str()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_may_not_be_stopped_costs_no_other_volume_its_snapshot() {
    let Some(bench) = Bench::open().await else { return };
    let refused = bench.pair("once", &["--rm"]).await;
    let good = bench.pair("good", &[]).await;
    let [refused_before, good_before] = [bench.look(&refused.user).await, bench.look(&good.user).await];
    let outcome = bench.run(request_of([&refused, &good], Rest::Stop)).await;

    let failed = outcome.of_source(&refused);
    assert_eq!(failed.error_code, "would-be-removed", "{outcome:?}");
    assert!(failed.error.contains(&refused.user), "{outcome:?}");
    assert_eq!((outcome.ended.ok, outcome.ended.error_code.as_str()), (false, "would-be-removed"));
    assert_eq!(bench.look(&refused.user).await, refused_before, "it was never touched");
    assert!(bench.repository.snapshots(refused.source).is_empty());

    assert!(outcome.of_source(&good).ok && !outcome.of_source(&good).partial, "{outcome:?}");
    assert_eq!(outcome.rested(), [good.user.as_str()]);
    assert!(outcome.quiesced[0].resumed && outcome.quiesced[0].problem.is_empty(), "{outcome:?}");
    let good_after = bench.look(&good.user).await;
    assert_eq!(good_after.state, ContainerState::Running);
    assert_ne!(good_after.started_at, good_before.started_at, "it was at rest");
    let (_, body) = bench.repository.snapshots(good.source).remove(0);
    assert_eq!((body.consistency.as_str(), body.downtime_ms), ("stop", outcome.quiesced[0].downtime_ms));
    assert!(bench.payer.journal().is_empty());
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
        assert!(bench.payer.journal().is_empty(), "nothing is owed");
        bench.repository.lock().stuck = None;
    };
    let (outcome, ()) = tokio::join!(bench.run(request_of([&pairs[0], &pairs[1]], Rest::Stop)), looking);
    assert!(outcome.ended.ok, "{outcome:?}");
    assert_eq!(outcome.quiesced.len(), 2, "{outcome:?}");
}

// The second pass reads the pages of the first, which is where it is stuck.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_group_rests_the_containers_of_the_other_run() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let pairs = [&pairs[0], &pairs[1]];
    bench.repository.lock().stuck = Some("locate");
    let looking = async {
        bench.called("locate").await;
        let (first, second) = bench.resting_and_running(pairs).await;
        assert_eq!(bench.payer.journal().debts().len(), 1);
        bench.repository.lock().stuck = None;
        [first.user.as_str(), second.user.as_str()]
    };
    let (outcome, order) = tokio::join!(bench.run(request_of(pairs, Rest::Pause)), looking);
    assert!(outcome.ended.ok, "{outcome:?}");
    assert_eq!(outcome.rested(), order, "each once, one after the other");
    for pair in pairs {
        assert_eq!(bench.state(&pair.user).await, ContainerState::Running);
        assert!(!outcome.of_source(pair).partial, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_maximum_downtime_is_that_of_each_group() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let pairs = [&pairs[0], &pairs[1]];
    bench.repository.lock().stuck = Some("locate");
    let looking = async {
        bench.called("locate").await;
        let (first, second) = bench.resting_and_running(pairs).await;
        while bench.state(&first.user).await != ContainerState::Running {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.repository.lock().stuck = None;
        (first, second)
    };
    let asked =
        BackupRequest { max_downtime: Some(Duration::from_secs(20)), ..request_of(pairs, Rest::Pause) };
    let (outcome, (first, second)) = tokio::join!(bench.run(asked), looking);
    assert_eq!(outcome.of_source(first).error_code, "max-downtime", "{outcome:?}");
    assert_eq!(outcome.ended.error_code, "max-downtime", "{outcome:?}");
    assert!(outcome.of_source(second).ok, "{outcome:?}");
    assert_eq!(outcome.rested(), [first.user.as_str(), second.user.as_str()]);
    assert!(outcome.quiesced[0].downtime_ms >= 20_000, "{outcome:?}");
    assert_eq!(bench.state(&second.user).await, ContainerState::Running);
    assert!(bench.payer.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_become_healthy_is_no_downtime() {
    let Some(bench) = Bench::open().await else { return };
    let second = Duration::from_secs(1).as_nanos();
    let check = serde_json::json!({
        "Test": ["CMD", "/bin/busybox", "sleep", "25"], "Interval": second, "Timeout": 60 * second
    });
    let image = bench.scene.image_with("slow", &serde_json::json!({ "Healthcheck": check })).await;
    let (name, _) = bench.volume("data").await;
    let (user, mount) = (bench.scene.name("user"), format!("{name}:/data"));
    let run = ["run", "-d", "--name", &user, "--network", "none", "-v", &mount, "--stop-timeout", "1"];
    bench.scene.docker(&[&run[..], &[&image, "/bin/busybox", "sleep", "86400"]].concat());
    let asked = BackupRequest {
        max_downtime: Some(Duration::from_secs(20)),
        ..request(SourceId::generate(), &name, Some(Rest::Stop))
    };
    let outcome = bench.run(asked).await;
    assert!(outcome.ended.ok, "{outcome:?}");
    assert!(outcome.quiesced[0].problem.is_empty(), "it was waited for: {outcome:?}");
    let container = bench.look(&user).await;
    assert_eq!((container.state, container.health), (ContainerState::Running, HealthState::Healthy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_the_group_at_rest_and_touches_no_other() {
    let Some(bench) = Bench::open().await else { return };
    let pairs = [bench.pair("a", &[]).await, bench.pair("b", &[]).await];
    let pairs = [&pairs[0], &pairs[1]];
    bench.repository.lock().stuck = Some("locate");
    let asked = request_of(pairs, Rest::Pause);
    let job = asked.job;
    let cancelling = async {
        bench.called("locate").await;
        let (first, _) = bench.resting_and_running(pairs).await;
        assert!(bench.snapshots.cancel(job));
        first.user.as_str()
    };
    let (outcome, first) = tokio::join!(bench.run(asked), cancelling);
    assert!(outcome.ended.cancelled, "{outcome:?}");
    assert_eq!(outcome.rested(), [first]);
    for pair in pairs {
        assert_eq!(outcome.of_source(pair).error_code, "cancelled", "{outcome:?}");
        assert_eq!(bench.state(&pair.user).await, ContainerState::Running);
    }
    assert!(bench.payer.journal().is_empty());
    assert_eq!(bench.repository.open_leases(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_writes_to_both_rests_once_for_both() {
    let Some(bench) = Bench::open().await else { return };
    let first = bench.pair("a", &[]).await;
    let mount = format!("{}:/first", first.name);
    let second = bench.pair("b", &["-v", &mount]).await;
    let outcome = bench.run(request_of([&first, &second], Rest::Pause)).await;
    assert!(outcome.ended.ok, "{outcome:?}");
    let mut rested = outcome.rested();
    rested.sort_unstable();
    assert_eq!(rested, [first.user.as_str(), second.user.as_str()]);
}

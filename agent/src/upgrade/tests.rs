//! Upgrades on the Engine of this machine, run as the controller does.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_proto::ids::InstanceId;

use super::*;
use crate::clocks::Moment;
use crate::engine::testing::Scene;
use crate::journal::Journal;
use crate::upgrade::record::Options;

struct Host {
    scene: Scene,
    state: tempfile::TempDir,
}

impl Host {
    async fn open() -> Option<Self> {
        Some(Self { scene: Scene::open().await?, state: tempfile::tempdir().unwrap() })
    }

    fn upgrades(&self) -> Upgrades {
        upgrades(&self.scene.engine, self.state.path())
    }

    /// An image like the scene's own, with another environment.
    async fn image(&self, tag: &str, changes: &[&str]) -> String {
        let mut root = tar::Builder::new(Vec::new());
        root.append_path_with_name("/bin/busybox", "bin/busybox").unwrap();
        let root = Bytes::from(root.into_inner().unwrap());
        self.scene.image().await;
        let mut all = vec!["ENV PATH=/bin"];
        all.extend(changes);
        self.scene.engine.import_image(&self.scene.name("img"), tag, root, &all).await.unwrap();
        format!("{}:{tag}", self.scene.name("img"))
    }

    /// A container with a volume that keeps writing; gives name and data.
    async fn writer(&self, image: &str) -> (String, std::path::PathBuf) {
        let (name, volume) = (self.scene.name("app"), self.scene.name("data"));
        self.scene.docker(&["volume", "create", &volume]);
        let mount = format!("{volume}:/data");
        let args =
            ["run", "-d", "--name", &name, "--network", "none", "--restart", "unless-stopped", "-v", &mount];
        let script =
            "echo started >> /data/log; trap 'exit 0' TERM; while true; do /bin/busybox sleep 0.1; done";
        let command = [image, "/bin/busybox", "sh", "-c", script];
        self.scene.docker(&args.into_iter().chain(command).collect::<Vec<_>>());
        let path = self.scene.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]);
        (name, path.into())
    }

    fn inspect(&self, container: &str, format: &str) -> String {
        self.scene.docker(&["inspect", "--format", format, container])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let prefix = self.scene.name("img");
        let listed =
            std::process::Command::new("docker").args(["image", "ls", "-q", &prefix]).output().unwrap();
        for id in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            drop(std::process::Command::new("docker").args(["image", "rm", "-f", id]).output());
        }
    }
}

fn upgrades(engine: &Engine, state: &Path) -> Upgrades {
    let journal = Arc::new(Journal::open(state, Duration::from_secs(5)).unwrap());
    let parts = Parts::alone(
        engine.clone(),
        Some(RecoveryWorker::new(journal, engine.clone(), InstanceId::generate())),
        Specs::new(state, engine.clone()),
    );
    let allow = Allow::parse(["backup", "container", "exec"]).unwrap();
    Upgrades::open(state, Parts { allow, ..parts }).unwrap()
}

/// The upgrades of an agent that comes while the one before still has its
/// journal: one that is dead for all the records tell.
fn successor(host: &Host) -> Upgrades {
    let parts = Parts::alone(
        host.scene.engine.clone(),
        None,
        Specs::new(host.state.path(), host.scene.engine.clone()),
    );
    let allow = Allow::parse(["backup", "container", "exec"]).unwrap();
    Upgrades::open(host.state.path(), Parts { allow, ..parts }).unwrap()
}

fn options() -> Options {
    Options {
        health_timeout_seconds: 20,
        steady_seconds: 1,
        grace_seconds: 3600,
        stopped_seconds: 60,
        probe: None,
        allow_loss: Vec::new(),
    }
}

/// Plans, runs, lets it proceed; gives how it ended.
async fn upgrade(upgrades: &Upgrades, container: &str, image: &str, options: Options) -> v1::UpgradeFinished {
    let plan = PlanRequest { container: container.to_owned(), image: image.to_owned(), ..Default::default() };
    let planned = upgrades.plan(&plan).await.unwrap();
    assert!(planned.wire.runnable, "{:?}", planned.wire);
    let job = JobId::generate();
    let fingerprint = planned.wire.fingerprint;
    let request = RunRequest { job, generation: 1, plan, fingerprint, options };
    let mut events = Box::pin(upgrades.run(request).unwrap().unwrap());
    loop {
        let event = tokio::time::timeout(Duration::from_secs(180), events.next()).await.unwrap().unwrap();
        match event.event.unwrap() {
            Event::Stopped(stopped) => assert!(upgrades.proceed(job, 1, stopped.until_unix_ms).unwrap()),
            Event::Finished(finished) => return finished,
            Event::Step(_) => {}
        }
    }
}

/// Waits until what the containers wrote at their starts is this.
async fn await_log(data: &Path, text: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while std::fs::read_to_string(data.join("log")).unwrap() != text {
        assert!(std::time::Instant::now() < deadline, "{:?}", files(data));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn files(path: &Path) -> HashMap<String, String> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[tokio::test]
async fn the_new_container_takes_name_data_and_policy_and_can_be_undone() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    let finished = upgrade(&upgrades, &name, &image, options()).await;
    assert!(finished.ok, "{finished:?}");
    assert_ne!(host.inspect(&name, "{{.Id}}"), old);
    assert_eq!(
        host.inspect(&name, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"),
        "running unless-stopped"
    );
    assert_eq!(host.inspect(&name, "{{.Config.Image}}"), image);
    assert_eq!(host.inspect(&old, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"), "exited no");
    await_log(&data, "started\nstarted\n").await;
    // Undone after the commit: the data is that of the stop again.
    let undo = JobId::generate();
    let mut events = Box::pin(upgrades.roll_back(&name, undo, false).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.event;
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert!(finished.rolled_back, "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
    assert_eq!(host.inspect(&name, "{{.HostConfig.RestartPolicy.Name}}"), "unless-stopped");
    // Started once at first, once more by the rollback, and not by the new one.
    await_log(&data, "started\nstarted\n").await;
    assert_eq!(std::fs::read_dir(data.parent().unwrap()).unwrap().count(), 1, "a clone is left");
}

/// The clock is a month ahead when the agent looks, and set right afterwards.
#[tokio::test]
async fn h10_a_clock_ahead_for_one_pass_takes_no_way_back() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    std::fs::write(data.join("precious"), "as it was").unwrap();
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, options()).await.ok);
    let now = upgrades.context.clocks.now();
    let ahead = Moment { unix_ms: now.unix_ms + 30 * 24 * 3_600_000, ..now };
    upgrades.context.end_grace(ahead).await;
    assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::Committed);
    assert_eq!(host.inspect(&old, "{{.State.Status}}"), "exited");
    upgrades.context.end_grace(now).await;
    // As does the agent that comes after the reboot.
    let upgrades = successor(&host);
    upgrades.context.end_grace(Moment { uptime_ms: now.uptime_ms + 60_000, ..ahead }).await;
    std::fs::write(data.join("precious"), "rewritten").unwrap();
    let mut events = Box::pin(upgrades.roll_back(&name, JobId::generate(), false).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.event;
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert!(finished.rolled_back, "{finished:?}");
    assert_eq!(std::fs::read_to_string(data.join("precious")).unwrap(), "as it was");
    assert_eq!(host.inspect(&name, "{{.Id}}"), old);
}

#[tokio::test]
async fn h10_the_way_back_ends_when_its_time_is_over_by_both_clocks() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, options()).await.ok);
    let now = upgrades.context.clocks.now();
    let later = |wall_ms: i64, up_ms: u64| Moment {
        unix_ms: now.unix_ms + wall_ms,
        uptime_ms: now.uptime_ms + up_ms,
    };
    for not_yet in [later(3_700_000, 3_500_000), later(3_500_000, 3_700_000)] {
        upgrades.context.end_grace(not_yet).await;
        assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::Committed, "{not_yet:?}");
    }
    upgrades.context.end_grace(later(3_700_000, 3_700_000)).await;
    assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::Finished);
}

#[tokio::test]
async fn u03_u04_what_fails_is_taken_back_with_its_data() {
    let Some(host) = Host::open().await else { return };
    let check = "HEALTHCHECK --interval=1s --retries=1 CMD [\"/bin/busybox\", \"false\"]";
    let image = host.image("3", &[check]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let before = data.join("precious");
    std::fs::write(&before, "as it was").unwrap();
    let upgrades = host.upgrades();
    let finished = upgrade(&upgrades, &name, &image, options()).await;
    assert!(!finished.ok && finished.rolled_back, "{finished:?}");
    assert_eq!(finished.error_code, "unhealthy", "{finished:?}");
    assert!(finished.downtime_ms > 0);
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
    assert_eq!(std::fs::read_to_string(&before).unwrap(), "as it was");
    let left =
        host.scene.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name={name}")]);
    assert_eq!(left, name);
    assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::RolledBack);
}

#[tokio::test]
async fn nobody_who_proceeds_means_going_back() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    let plan = PlanRequest { container: name.clone(), image, ..Default::default() };
    let fingerprint = upgrades.plan(&plan).await.unwrap().wire.fingerprint;
    let options = Options { stopped_seconds: 1, ..options() };
    let request = RunRequest { job: JobId::generate(), generation: 1, plan, fingerprint, options };
    let mut events = Box::pin(upgrades.run(request).unwrap().unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.event;
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert_eq!((finished.error_code.as_str(), finished.rolled_back), ("abandoned", true), "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
}

/// A directory on which nothing can be changed any more, until it is dropped.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn new(path: &Path) -> Self {
        let made = Self(path.to_owned());
        let path = path.to_str().unwrap();
        for args in [&["--bind", path, path][..], &["-o", "remount,bind,ro", path]] {
            assert!(std::process::Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
        }
        made
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// The filesystem becomes read-only with everything quiesced, and a placeholder
/// in it: the old container starts all the same, and the rest is tried again.
#[tokio::test]
async fn h21_a_filesystem_that_became_read_only_keeps_nothing_stopped() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    let plan = PlanRequest { container: name.clone(), image, ..Default::default() };
    let fingerprint = upgrades.plan(&plan).await.unwrap().wire.fingerprint;
    let options = Options { stopped_seconds: 5, ..options() };
    let request = RunRequest { job: JobId::generate(), generation: 1, plan, fingerprint, options };
    let mut events = Box::pin(upgrades.run(request).unwrap().unwrap());
    let mut last = None;
    let placeholder = data.join(".holdfast-not-empty");
    while let Some(event) = events.next().await {
        match event.event {
            Some(Event::Stopped(_)) => {
                std::fs::write(&placeholder, "").unwrap();
                let read_only = ReadOnly::new(&data);
                // Nobody says that it is to go on.
                let deadline = std::time::Instant::now() + Duration::from_secs(120);
                while host.inspect(&old, "{{.State.Running}}") != "true" {
                    assert!(std::time::Instant::now() < deadline, "the old container stays stopped");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert!(placeholder.exists());
                drop(read_only);
            }
            event => last = event,
        }
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert_eq!((finished.error_code.as_str(), finished.rolled_back), ("abandoned", true), "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
    assert!(!placeholder.exists(), "it goes as soon as it can");
}

/// Somebody prunes stopped containers in the grace period: while its image is
/// there the old one is made again as it was, on the data as it was.
#[tokio::test]
async fn a_rollback_makes_the_old_container_again_where_it_was_pruned() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    std::fs::write(data.join("precious"), "as it was").unwrap();
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, options()).await.ok);
    std::fs::write(data.join("precious"), "rewritten").unwrap();
    host.scene.docker(&["rm", &old]);
    let mut events = Box::pin(upgrades.roll_back(&name, JobId::generate(), false).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.event;
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert!(finished.rolled_back, "{finished:?}");
    let facts = host.inspect(&name, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}} {{.Config.Image}}");
    assert_eq!(facts, format!("running unless-stopped {}", host.scene.image().await));
    assert_eq!(std::fs::read_to_string(data.join("precious")).unwrap(), "as it was");
}

/// Without its image there is nothing to go back to, and nothing is touched in
/// the attempt.
#[tokio::test]
async fn a_rollback_without_old_container_and_image_is_refused_and_touches_nothing() {
    let Some(host) = Host::open().await else { return };
    let (first, image) =
        (host.image("1", &["ENV VERSION=1"]).await, host.image("2", &["ENV VERSION=2"]).await);
    let (name, data) = host.writer(&first).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, options()).await.ok);
    let (new, before) = (host.inspect(&name, "{{.Id}}"), files(&data));
    host.scene.docker(&["rm", &old]);
    host.scene.docker(&["image", "rm", &first]);
    let mut events = Box::pin(upgrades.roll_back(&name, JobId::generate(), false).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.event;
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert_eq!((finished.rolled_back, finished.error_code.as_str()), (false, "old-gone"), "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{new} running"));
    assert_eq!(files(&data), before);
    let committed = upgrades.commit(&name).await.unwrap();
    assert_eq!(committed.state(), v1::UpgradeState::Finished);
    assert_eq!(files(&data), before);
    assert_eq!(std::fs::read_dir(data.parent().unwrap()).unwrap().count(), 1, "a clone is left");
}

/// The old container is removed while the new one has to show that it is well,
/// and the new one does not: it is made again as it was, on the data as it was.
#[tokio::test]
async fn an_old_container_that_was_pruned_is_made_again() {
    let Some(host) = Host::open().await else { return };
    let check = "HEALTHCHECK --interval=1s --retries=4 CMD [\"/bin/busybox\", \"false\"]";
    let image = host.image("3", &[check]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    std::fs::write(data.join("precious"), "as it was").unwrap();
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    let plan = PlanRequest { container: name.clone(), image, ..Default::default() };
    let fingerprint = upgrades.plan(&plan).await.unwrap().wire.fingerprint;
    let job = JobId::generate();
    let request = RunRequest { job, generation: 1, plan, fingerprint, options: options() };
    let mut events = Box::pin(upgrades.run(request).unwrap().unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        match event.event.unwrap() {
            Event::Stopped(stopped) => assert!(upgrades.proceed(job, 1, stopped.until_unix_ms).unwrap()),
            Event::Step(step) if step.state() == v1::UpgradeState::Gating => {
                let removed = std::process::Command::new("docker").args(["rm", &old]).output().unwrap();
                drop(removed);
            }
            Event::Step(_) => {}
            Event::Finished(finished) => last = Some(finished),
        }
    }
    let finished = last.unwrap();
    assert!(finished.rolled_back, "{finished:?}");
    assert_ne!(host.inspect(&name, "{{.Id}}"), old);
    let facts = host.inspect(&name, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}} {{.Config.Image}}");
    assert_eq!(facts, format!("running unless-stopped {}", host.scene.image().await));
    assert_eq!(std::fs::read_to_string(data.join("precious")).unwrap(), "as it was");
    let left =
        host.scene.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name={name}")]);
    assert_eq!(left, name);
}

/// The Engine makes the new container after all, when its answer is waited for
/// no longer: it goes, and with it the volume that was made for it alone.
#[tokio::test]
async fn a_container_that_came_too_late_is_removed() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("3", &["HEALTHCHECK --interval=1s --retries=1 CMD [\"/bin/busybox\", \"false\"]"]);
    let image = image.await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, options()).await.rolled_back);
    let mut record = upgrades.context.records().values().next().unwrap().clone();
    let (volume, late) = {
        let recreation = record.members.last_mut().unwrap().recreation.as_mut().unwrap();
        recreation.new_id.clear();
        recreation.own_volumes.clear();
        (format!("{}:/data", host.scene.name("data")), recreation.temporary_name.clone())
    };
    upgrades.context.store.save(&record).unwrap();
    // Another agent finds it so.
    let upgrades = successor(&host);
    upgrades.context.remove_orphans(upgrades.context.clocks.now()).await;
    host.scene.docker(&["create", "--name", &late, "-v", &volume, "-v", "/extra", &image, "/bin/busybox"]);
    let format = "{{range .Mounts}}{{if eq .Destination \"/extra\"}}{{.Name}}{{end}}{{end}}";
    let extra = host.inspect(&late, format);
    upgrades.context.remove_orphans(upgrades.context.clocks.now()).await;
    let left =
        host.scene.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name={name}")]);
    assert_eq!(left, name);
    assert_eq!(host.scene.docker(&["volume", "ls", "-q", "--filter", &format!("name={extra}")]), "");
    assert!(data.exists());
    upgrades.context.remove_orphans(upgrades.context.clocks.now()).await;
    assert_eq!(host.inspect(&name, "{{.State.Status}}"), "running");
}

/// What is written until everything is quiesced is in the data a snapshot is taken of.
/// Who asked and never proceeds gets everything as it was; who does gets it back.
#[tokio::test]
async fn a_rollback_waits_stopped_for_the_snapshot_and_resumes_without_it() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, data) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    assert!(upgrade(&upgrades, &name, &image, Options { stopped_seconds: 5, ..options() }).await.ok);
    let new = host.inspect(&name, "{{.Id}}");
    // Somebody starts the kept one, as `docker compose start` would.
    host.scene.docker(&["start", &old]);
    let abandoned = JobId::generate();
    let mut events = Box::pin(upgrades.roll_back(&name, abandoned, true).unwrap());
    let (mut rested, mut last) = (false, None);
    while let Some(event) = events.next().await {
        match event.event.unwrap() {
            Event::Stopped(stopped) => {
                assert_eq!(stopped.sources.len(), 1);
                for id in [&new, &old] {
                    assert_eq!(
                        host.inspect(id, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"),
                        "exited no"
                    );
                }
                assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::AwaitingRollbackSnapshot);
                rested = true;
            }
            Event::Step(_) => {}
            Event::Finished(finished) => last = Some(finished),
        }
    }
    let finished = last.unwrap();
    assert!(rested && !finished.rolled_back, "{finished:?}");
    assert_eq!(finished.error_code, "abandoned");
    assert_eq!(upgrades.list(&name, None)[0].state(), v1::UpgradeState::Committed);
    let state = "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(host.inspect(&new, state), "running unless-stopped");
    assert_eq!(host.inspect(&old, state), "running no");
    // This time it proceeds, with the new version's own files as they were at the stop.
    std::fs::write(data.join("since"), "written since").unwrap();
    let undo = JobId::generate();
    let mut events = Box::pin(upgrades.roll_back(&name, undo, true).unwrap());
    let mut seen = None;
    while let Some(event) = events.next().await {
        match event.event.unwrap() {
            Event::Stopped(stopped) => {
                seen = std::fs::read_to_string(data.join("since")).ok();
                let until = stopped.until_unix_ms;
                assert!(!upgrades.proceed(JobId::generate(), 0, until).unwrap());
                assert!(!upgrades.proceed(undo, 0, until - 1).unwrap());
                assert!(upgrades.proceed(undo, 0, until).unwrap());
            }
            Event::Step(_) => {}
            Event::Finished(finished) => assert!(finished.rolled_back, "{finished:?}"),
        }
    }
    assert_eq!(seen.as_deref(), Some("written since"));
    assert!(!data.join("since").exists());
    assert_eq!(host.inspect(&name, "{{.Id}}"), old);
    assert_eq!(host.inspect(&name, state), "running unless-stopped");
}

/// An agent that dies with everything quiesced for a rollback: the next one sets
/// it going again, and the upgrade stays.
#[tokio::test]
async fn what_a_dead_agent_left_stopped_for_a_rollback_runs_again() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let upgrades = host.upgrades();
    // The dead one lives on in this process: it must not come back to it.
    assert!(upgrade(&upgrades, &name, &image, Options { stopped_seconds: 600, ..options() }).await.ok);
    let new = host.inspect(&name, "{{.Id}}");
    let undo = JobId::generate();
    let mut events = Box::pin(upgrades.roll_back(&name, undo, true).unwrap());
    let first = loop {
        if let Event::Stopped(stopped) = events.next().await.unwrap().event.unwrap() {
            break stopped.until_unix_ms;
        }
    };
    // Its successor finds the record and nobody at work on it.
    let successor = successor(&host);
    assert_eq!(successor.recover(Duration::from_secs(120)).await, Vec::<String>::new());
    let state = "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(host.inspect(&new, state), "running unless-stopped");
    assert_eq!(successor.list(&name, None)[0].state(), v1::UpgradeState::Committed);
    // And it can be undone then, by the same job.
    let mut events = Box::pin(successor.roll_back(&name, undo, true).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        match event.event.unwrap() {
            Event::Stopped(stopped) => {
                // The snapshot of the first stop has not what was written since.
                assert!(!successor.proceed(undo, 0, first).unwrap());
                assert!(successor.proceed(undo, 0, stopped.until_unix_ms).unwrap());
            }
            Event::Step(_) => {}
            Event::Finished(finished) => last = Some(finished),
        }
    }
    assert!(last.unwrap().rolled_back);
    assert_eq!(host.inspect(&name, state), "running unless-stopped");
}

/// In the grace period somebody stops a dependent: it is not started by the
/// rollback. The volume the new image declared may hold days of data: it stays.
#[tokio::test]
async fn a_rollback_leaves_alone_what_was_stopped_and_keeps_what_only_the_new_one_used() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["VOLUME /extra"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let side = host.scene.name("side");
    let mount = format!("{}:/data", host.scene.name("data"));
    let sleep =
        ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while true; do /bin/busybox sleep 0.1; done"];
    let run = ["run", "-d", "--name", &side, "--network", "none", "-v", &mount, &host.scene.image().await];
    host.scene.docker(&[run.as_slice(), sleep.as_slice()].concat());
    let upgrades = host.upgrades();
    let finished = upgrade(&upgrades, &name, &image, options()).await;
    assert!(finished.ok, "{finished:?}");
    let format = "{{range .Mounts}}{{if eq .Destination \"/extra\"}}{{.Name}}{{end}}{{end}}";
    let extra = host.inspect(&name, format);
    host.scene.docker(&["stop", &side]);
    host.scene.docker(&["update", "--restart", "on-failure", &side]);
    let mut events = Box::pin(upgrades.roll_back(&name, JobId::generate(), false).unwrap());
    let (mut steps, mut last) = (Vec::new(), None);
    while let Some(event) = events.next().await {
        match event.event.unwrap() {
            Event::Step(step) => steps.push(step.text),
            Event::Finished(finished) => last = Some(finished),
            Event::Stopped(_) => panic!("nobody asked to wait"),
        }
    }
    assert!(last.unwrap().rolled_back, "{steps:?}");
    assert_eq!(
        host.inspect(&side, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"),
        "exited on-failure"
    );
    assert!(steps.iter().any(|text| text.contains("kept") && text.contains(&extra)), "{steps:?}");
    assert_eq!(host.scene.docker(&["volume", "ls", "-q", "--filter", &format!("name={extra}")]), extra);
    host.scene.docker(&["volume", "rm", &extra]);
}

/// What names the old container by its id, and does not run, is recreated: it
/// could never be started again when the old one is gone.
#[tokio::test]
async fn a_stopped_dependent_can_be_started_after_the_grace_period() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let side = host.scene.name("side");
    let network = format!("container:{name}");
    host.scene.docker(&[
        "create",
        "--name",
        &side,
        "--network",
        &network,
        &host.scene.image().await,
        "/bin/busybox",
        "true",
    ]);
    let before = host.inspect(&side, "{{.Id}}");
    let upgrades = host.upgrades();
    let finished = upgrade(&upgrades, &name, &image, options()).await;
    assert!(finished.ok, "{finished:?}");
    upgrades.commit(&name).await.unwrap();
    assert_ne!(host.inspect(&side, "{{.Id}}"), before);
    assert_eq!(host.inspect(&side, "{{.State.Status}}"), "created");
    host.scene.docker(&["start", &side]);
    let network = host.inspect(&side, "{{.HostConfig.NetworkMode}}");
    assert!(network.ends_with(&host.inspect(&name, "{{.Id}}")), "{network}");
    let left =
        host.scene.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name={side}")]);
    assert_eq!(left, side);
}

//! Upgrades on the Engine of this machine, run as the controller does.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_proto::ids::InstanceId;

use super::*;
use crate::engine::testing::Scene;
use crate::journal::Journal;
use crate::upgrade::UpgradeEvent as Event;
use crate::upgrade::record::Options;

mod grace;

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

/// Plans and runs; gives the job and what it tells.
async fn started(
    upgrades: &Upgrades,
    container: &str,
    image: &str,
    options: Options,
) -> (JobId, impl Stream<Item = Event> + Unpin + use<>) {
    let (container, image) = (container.to_owned(), image.to_owned());
    let plan = PlanRequest { container, image, options, ..Default::default() };
    let planned = upgrades.plan(&plan).await.unwrap();
    assert!(planned.summary.runnable, "{:?}", planned.summary);
    let job = JobId::generate();
    let fingerprint = planned.summary.fingerprint;
    let request = RunRequest { job, generation: 1, plan, fingerprint };
    (job, Box::pin(upgrades.run(request).unwrap().unwrap()))
}

/// How it ended, where nothing has to be done meanwhile.
async fn ended(events: impl Stream<Item = Event>) -> Finished {
    let last = events.fold(None, async |_, event| Some(event)).await;
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    *finished
}

/// The whole of a rollback that takes no snapshot.
async fn rolled_back(upgrades: &Upgrades, name: &str) -> Finished {
    ended(upgrades.roll_back(name, JobId::generate(), false).unwrap()).await
}

/// Plans, runs, lets it proceed; gives how it ended.
async fn upgrade(upgrades: &Upgrades, container: &str, image: &str, options: Options) -> Finished {
    let (job, mut events) = started(upgrades, container, image, options).await;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(180), events.next()).await.unwrap().unwrap();
        match event {
            Event::Stopped(stopped) => assert!(upgrades.proceed(job, 1, stopped.until_unix_ms).unwrap()),
            Event::Finished(finished) => return *finished,
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
    let finished = rolled_back(&upgrades, &name).await;
    assert!(finished.rolled_back, "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
    assert_eq!(host.inspect(&name, "{{.HostConfig.RestartPolicy.Name}}"), "unless-stopped");
    // Started once at first, once more by the rollback, and not by the new one.
    await_log(&data, "started\nstarted\n").await;
    assert_eq!(std::fs::read_dir(data.parent().unwrap()).unwrap().count(), 1, "a clone is left");
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
    assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::RolledBack);
}

/// A backup that quiesces the same containers would resume what has to stay
/// stopped while the data goes back.
#[tokio::test]
async fn no_other_job_quiesces_containers_while_an_upgrade_goes_back() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let upgrades = host.upgrades();
    let options = Options { stopped_seconds: 1, ..options() };
    let (_, mut events) = started(&upgrades, &name, &image, options).await;
    let lock = &upgrades.context.quiesce_lock;
    let mut goes_back = 0;
    while let Some(event) = events.next().await {
        if matches!(&event, Event::Step(step) if step.phase == Phase::RollingBack) {
            assert!(lock.try_lock().is_err(), "a job could quiesce containers: {event:?}");
            goes_back += 1;
        }
    }
    assert!(goes_back > 0);
    let free = tokio::time::timeout(Duration::from_secs(10), lock.lock()).await;
    assert!(free.is_ok(), "the lock goes with the end of the upgrade");
}

#[tokio::test]
async fn nobody_who_proceeds_means_going_back() {
    let Some(host) = Host::open().await else { return };
    let image = host.image("2", &["ENV VERSION=2"]).await;
    let (name, _) = host.writer(&host.scene.image().await).await;
    let old = host.inspect(&name, "{{.Id}}");
    let upgrades = host.upgrades();
    let options = Options { stopped_seconds: 1, ..options() };
    let (_, events) = started(&upgrades, &name, &image, options).await;
    let finished = ended(events).await;
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
    let options = Options { stopped_seconds: 5, ..options() };
    let (_, mut events) = started(&upgrades, &name, &image, options).await;
    let mut last = None;
    let placeholder = data.join(".holdfast-not-empty");
    while let Some(event) = events.next().await {
        match event {
            Event::Stopped(_) => {
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
            event => last = Some(event),
        }
    }
    let Some(Event::Finished(finished)) = last else { panic!("{last:?}") };
    assert_eq!((finished.error_code.as_str(), finished.rolled_back), ("abandoned", true), "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{old} running"));
    assert!(!placeholder.exists(), "it goes as soon as it can");
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
    let (job, mut events) = started(&upgrades, &name, &image, options()).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Stopped(stopped) => assert!(upgrades.proceed(job, 1, stopped.until_unix_ms).unwrap()),
            Event::Step(step) if step.phase == Phase::Gating => {
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

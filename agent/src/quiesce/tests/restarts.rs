//! Containers that restart, or end slowly, while they are quiesced:
//! what ran before runs in the end.

use std::process::Command;

use support::disk::Mounted;
use support::tree::run_on;

use super::*;

const BOTH: [QuiesceMode; 2] = [QuiesceMode::Pause, QuiesceMode::Stop];

impl Bench {
    /// Kills a container's process as the kernel would; returns once its
    /// restart policy has started it again.
    async fn crash(&self, name: &str) {
        let before = self.look(name).await;
        let pid = rustix::process::Pid::from_raw(i32::try_from(before.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until(async || {
            let now = self.look(name).await;
            now.state == ContainerState::Running && now.started_at != before.started_at
        })
        .await;
    }

    /// Quiesced with nothing in it yet: for a container that is quiesced
    /// later than it was planned for.
    async fn nothing_yet(&self, mode: QuiesceMode) -> Quiesced {
        let place = Place::Volume { name: self.scene.name("nobodys"), path: "/nonexistent".into() };
        let request = Request { places: vec![place], ..self.request(mode) };
        self.quiescer.quiesce(&request, &Cancel::new()).await.unwrap()
    }

    /// A container that, told to stop, says so in `told` and ends once there is
    /// a file `go`. Its volume's directory comes with it.
    async fn obstinate(&self, suffix: &str) -> (String, std::path::PathBuf) {
        self.obstinate_with(suffix, &[]).await
    }

    async fn obstinate_with(&self, suffix: &str, more: &[&str]) -> (String, std::path::PathBuf) {
        let script = "trap ': > /data/told; while [ ! -e /data/go ]; do /bin/busybox sleep 0.05; done; exit 0' TERM; \
                      : > /data/ready; while true; do /bin/busybox sleep 0.05; done";
        let volume = format!("{}:/data", self.scene.name("data"));
        let (name, image) = (self.scene.name(suffix), self.scene.image().await);
        let settings = ["run", "-d", "--name", &name, "--network", "none", "--stop-timeout", "90"];
        let rest = ["-v", &volume, &image, "/bin/busybox", "sh", "-c", script];
        self.scene.docker(&[&settings[..], more, &rest[..]].concat());
        let data =
            self.scene.engine.inspect_volume(&self.scene.volume_name("data")).await.unwrap().mountpoint;
        until(async || data.join("ready").exists()).await;
        (name, data)
    }

    /// A container that restarted between the plan and the act.
    async fn quiesced_after_restart(&self, mode: QuiesceMode) -> (String, Quiesced) {
        let name = self.sleeper(mode.as_str(), &["--restart", "always"]).await;
        let planned = self.look(&name).await;
        let quiesced = self.nothing_yet(mode).await;
        self.crash(&name).await;
        quiesced.shared.quiesce_one(&planned, &self.request(mode), &Cancel::new()).await.unwrap();
        (name, quiesced)
    }

    async fn is_running(&self, name: &str) -> bool {
        self.look(name).await.state == ContainerState::Running
    }
}

fn assert_resumed(reports: &[QuiesceReport]) {
    let well = |report: &QuiesceReport| report.resumed && report.problem.is_empty();
    assert!(reports.iter().all(well), "{reports:?}");
}

#[tokio::test]
async fn h02_a_container_that_restarted_since_the_plan_resumes() {
    let Some(bench) = Bench::open().await else { return };
    for mode in BOTH {
        let (name, quiesced) = bench.quiesced_after_restart(mode).await;
        assert!(!bench.is_running(&name).await);
        assert_eq!(quiesced.disturbances().await.unwrap(), Vec::<String>::new(), "it restarted before that");
        let reports = quiesced.resume().await;
        assert_eq!(reports.len(), 1);
        assert_resumed(&reports);
        assert!(bench.is_running(&name).await);
        assert!(bench.recovery.journal().is_empty());
        bench.scene.docker(&["rm", "-f", &name]);
    }
}

#[tokio::test]
async fn h02_the_next_agent_resumes_what_restarted_since_the_plan() {
    let Some(bench) = Bench::open().await else { return };
    for mode in BOTH {
        let (name, quiesced) = bench.quiesced_after_restart(mode).await;
        let (_state, successor) = bench.successor();
        assert!(successor.carry_out_all(Duration::from_secs(180)).await.is_empty());
        assert!(bench.is_running(&name).await, "{mode:?}");
        quiesced.resume().await;
        bench.scene.docker(&["rm", "-f", &name]);
    }
}

/// The journal tells what was seen after the pause: a pause of a later run of
/// the container is not the dead agent's, however soon it came.
#[tokio::test]
async fn h02_the_next_agent_leaves_alone_what_somebody_else_restarted_and_paused() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("user", &[]).await;
    let quiesced = bench.quiesce(QuiesceMode::Pause).await;
    let (_state, successor) = bench.successor();
    for arguments in [&["unpause"][..], &["restart", "-t", "0"], &["pause"]] {
        bench.scene.docker(&[arguments, &[name.as_str()]].concat());
    }
    assert!(successor.carry_out_all(Duration::from_secs(180)).await.is_empty());
    assert_eq!(bench.look(&name).await.state, ContainerState::Paused);
    bench.scene.docker(&["unpause", &name]);
    quiesced.resume().await;
}

// Each ends only once the other has been told to: one after the other, the
// first would be killed when its time is over.
#[tokio::test]
async fn containers_that_do_not_depend_on_each_other_stop_at_the_same_time() {
    let Some(bench) = Bench::open().await else { return };
    let (volume, image) = (format!("{}:/data", bench.scene.name("data")), bench.scene.image().await);
    let script = "trap ': > /data/told-$0; \
                  while ! [ -e /data/told-a -a -e /data/told-b ]; do /bin/busybox sleep 0.05; done; exit 0' TERM; \
                  : > /data/ready-$0; while true; do /bin/busybox sleep 0.05; done";
    let mut names = Vec::new();
    for suffix in ["a", "b"] {
        let name = bench.scene.name(suffix);
        let settings = ["run", "-d", "--name", &name, "--network", "none", "--stop-timeout", "60"];
        let command = ["-v", &volume, &image, "/bin/busybox", "sh", "-c", script, suffix];
        bench.scene.docker(&[&settings[..], &command[..]].concat());
        names.push(name);
    }
    let data = bench.scene.engine.inspect_volume(&bench.scene.volume_name("data")).await.unwrap().mountpoint;
    until(async || data.join("ready-a").exists() && data.join("ready-b").exists()).await;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    for name in &names {
        let container = bench.look(name).await;
        assert_eq!((container.state, container.exit_code), (ContainerState::Exited, 0), "{name}");
    }
    let reports = quiesced.resume().await;
    assert_eq!(reports.len(), 2);
    assert_resumed(&reports);
}

// The first takes its time to stop; meanwhile the second, which it depends on,
// crashes and restarts.
#[tokio::test]
async fn h02_a_container_that_restarts_while_another_one_stops_resumes() {
    let Some(bench) = Bench::open().await else { return };
    let database = bench.sleeper("b-db", &["--restart", "always"]).await;
    let (web, data) = bench.obstinate_with("a-web", &["--volumes-from", &database]).await;
    let (quiescer, request) = (bench.quiescer.clone(), bench.request(QuiesceMode::Stop));
    let request = Request { max_downtime: Duration::from_secs(600), ..request };
    let quiescing = tokio::spawn(async move { quiescer.quiesce(&request, &Cancel::new()).await });
    until(async || data.join("told").exists()).await;
    bench.crash(&database).await;
    fs::write(data.join("go"), "").unwrap();
    let quiesced = quiescing.await.unwrap().unwrap_or_else(|not| panic!("{}", not.error));
    for name in [&web, &database] {
        assert_eq!(bench.look(name).await.state, ContainerState::Exited);
    }
    assert_eq!(quiesced.disturbances().await.unwrap(), Vec::<String>::new());
    let reports = quiesced.resume().await;
    assert_eq!(reports.len(), 2);
    assert_resumed(&reports);
    for name in [&web, &database] {
        assert!(bench.is_running(name).await, "{name}");
    }
}

#[tokio::test]
async fn h02_what_ended_before_it_was_quiesced_is_neither_stopped_nor_started() {
    let Some(bench) = Bench::open().await else { return };
    for mode in BOTH {
        let name = bench.sleeper(mode.as_str(), &[]).await;
        let planned = bench.look(&name).await;
        let quiesced = bench.nothing_yet(mode).await;
        bench.scene.docker(&["kill", &name]);
        let request = bench.request(mode);
        quiesced.shared.quiesce_one(&planned, &request, &Cancel::new()).await.unwrap();
        assert!(bench.recovery.journal().is_empty());
        assert_eq!(quiesced.resume().await, Vec::new());
        assert_eq!(bench.look(&name).await.state, ContainerState::Exited);
    }
}

#[tokio::test]
async fn h02_what_somebody_started_and_what_ended_again_after_our_stop_runs_in_the_end() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    bench.scene.docker(&["start", &name]);
    bench.scene.docker(&["kill", &name]);
    let disturbed = quiesced.disturbances().await.unwrap();
    assert!(disturbed.iter().any(|problem| problem.contains(&name)), "{disturbed:?}");
    assert_resumed(&quiesced.resume().await);
    assert!(bench.is_running(&name).await);
}

#[tokio::test]
async fn h02_a_job_cancelled_in_the_middle_of_a_stop_starts_the_container_once_it_has_ended() {
    let Some(bench) = Bench::open().await else { return };
    let (name, data) = bench.obstinate("web").await;
    let before = bench.look(&name).await.started_at;
    let (quiescer, request, cancel) =
        (bench.quiescer.clone(), bench.request(QuiesceMode::Stop), Cancel::new());
    let quiescing = tokio::spawn({
        let cancel = cancel.clone();
        async move { quiescer.quiesce(&request, &cancel).await }
    });
    until(async || data.join("told").exists()).await;
    cancel.cancel(CancelReason::Asked);
    fs::write(data.join("go"), "").unwrap();
    let not = quiescing.await.unwrap().expect_err("it is cancelled");
    assert_eq!(not.error.code(), holdfast_proto::ErrorCode::Cancelled);
    assert_eq!(not.reports.len(), 1);
    assert_resumed(&not.reports);
    let after = bench.look(&name).await;
    assert_eq!(after.state, ContainerState::Running);
    assert_ne!(after.started_at, before, "the stop ended it before");
}

#[tokio::test]
async fn h02_the_next_agent_starts_what_restarted_and_was_still_stopping_when_the_agent_died() {
    let Some(bench) = Bench::open().await else { return };
    let (name, data) = bench.obstinate("web").await;
    bench.scene.docker(&["update", "--restart", "always", &name]);
    let before = bench.look(&name).await;
    // As if the container had crashed after the agent's look and before its stop.
    fs::remove_file(data.join("ready")).unwrap();
    bench.crash(&name).await;
    until(async || data.join("ready").exists()).await;
    let entry = QuiescedContainer {
        job: JobId::generate(),
        container: before.id.clone(),
        name: name.clone(),
        started_at: before.started_at,
        stop_timeout_seconds: 90,
        written_unix_ms: crate::clocks::now_unix_ms(),
        confirmed: false,
    };
    bench.recovery.journal().record(CleanupAction::Start(entry)).unwrap();
    let (_state, successor) = bench.successor();
    let stopping = tokio::spawn({
        let (engine, container) = (bench.scene.engine.clone(), bench.look(&name).await);
        async move { engine.stop_container(&container, None).await }
    });
    until(async || data.join("told").exists()).await;
    // A first look of the next agent: it runs, under another start time.
    assert_eq!(successor.carry_out_all(Duration::ZERO).await.len(), 1, "it may still be stopping");
    fs::write(data.join("go"), "").unwrap();
    stopping.await.unwrap().unwrap();
    assert!(successor.carry_out_all(Duration::from_secs(180)).await.is_empty());
    assert!(bench.is_running(&name).await);
}

/// A file system that can be frozen: what writes to it then is in
/// uninterruptible sleep, and no signal ends it.
struct Frozen(Mounted);

impl Frozen {
    /// None where no filesystem can be mounted.
    fn mounted() -> Option<Self> {
        Mounted::new("ext4", "").map(Self)
    }

    fn freeze(&self) {
        run_on("fsfreeze", &["-f"], self.0.path());
    }

    fn thaw(&self) {
        run_on("fsfreeze", &["-u"], self.0.path());
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Also where it is thawed already; what is frozen cannot be unmounted.
        let _ = Command::new("fsfreeze").arg("-u").arg(self.0.path()).output();
    }
}

fn is_in_uninterruptible_sleep(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("State:\tD"))
}

#[tokio::test]
async fn h02_a_container_no_signal_ends_is_started_when_it_ends_at_last() {
    let Some(bench) = Bench::open().await else { return };
    let Some(disk) = Frozen::mounted() else { return };
    let mount = format!("{}:/data", disk.0.path().display());
    let (name, image) = (bench.scene.name("db"), bench.scene.image().await);
    let script = "while true; do echo x >> /data/log; /bin/busybox sleep 0.02; done";
    let settings = ["run", "-d", "--name", &name, "--network", "none", "--stop-timeout", "1"];
    let rest = ["-v", &mount, &image, "/bin/busybox", "sh", "-c", script];
    bench.scene.docker(&[&settings[..], &rest[..]].concat());
    let before = bench.look(&name).await;
    disk.freeze();
    until(async || is_in_uninterruptible_sleep(before.pid)).await;
    let working = tokio::spawn(bench.recovery.clone().run());
    let (quiescer, cancel) = (bench.quiescer.clone(), Cancel::new());
    let place = Place::Directory { path: disk.0.path().to_owned() };
    let request = Request { places: vec![place], ..bench.request(QuiesceMode::Stop) };
    let quiescing = tokio::spawn({
        let cancel = cancel.clone();
        async move { quiescer.quiesce(&request, &cancel).await }
    });
    until(async || !bench.recovery.journal().is_empty()).await;
    // No proof: it makes the end come later than the stop timeout and a few
    // seconds, and before the Engine itself gives up.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cancel.cancel(CancelReason::Asked);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(bench.look(&name).await.started_at, before.started_at);
    disk.thaw();
    until(async || bench.look(&name).await.started_at != before.started_at).await;
    assert!(bench.is_running(&name).await);
    let not = quiescing.await.unwrap().expect_err("it is cancelled");
    assert_resumed(&not.reports);
    until(async || bench.recovery.journal().is_empty()).await;
    working.abort();
    bench.scene.docker(&["rm", "-f", &name]);
}

#[tokio::test]
async fn d03_a_container_that_is_gone_before_the_act_holds_up_nothing() {
    let Some(bench) = Bench::open().await else { return };
    for mode in BOTH {
        let name = bench.sleeper(mode.as_str(), &["--rm"]).await;
        let planned = bench.look(&name).await;
        let quiesced = bench.nothing_yet(mode).await;
        bench.scene.docker(&["rm", "-f", &name]);
        quiesced.shared.quiesce_one(&planned, &bench.request(mode), &Cancel::new()).await.unwrap();
        assert_eq!(quiesced.disturbances().await.unwrap(), Vec::<String>::new());
        assert!(quiesced.resume().await.is_empty(), "nothing was quiesced");
        assert!(bench.recovery.journal().is_empty());
    }
}

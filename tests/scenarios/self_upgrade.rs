//! U09: the container an agent runs in is upgraded by that very agent, which is
//! stopped half-way. Run at the agent's socket as a controller does: a
//! stream that breaks is opened again with the same job.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::command::run;
use e2e::deaths::Deaths;
use e2e::docker::{Engine, IMAGE};
use e2e::failpoints;
use e2e::{binaries, figure, require_engine, upgrades, wait};
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use holdfast_proto::v1::upgrade_event::Event;
use holdfast_proto::v1::{
    ListUpgradesRequest, PlanUpgradeRequest, RollBackUpgradeRequest, RunUpgradeRequest, Upgrade,
    UpgradeEvent, UpgradeFinished, UpgradeOptions, UpgradePlan, UpgradeState,
};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const NAME: &str = "agent";
const FIRST: &str = "agent:1";
const SECOND: &str = "agent:2";
/// Ends with exit code 1 at once.
const DIES: &str = "agent:dies";
/// Runs steadily and is no agent.
const IDLES: &str = "agent:idles";

const POLICY_SET: &str = "agent.upgrade.policy-set";

/// Where the agent, and from the second on the helper, is killed; and whether
/// the upgrade goes forward after that.
const HANDED_OVER: [(&str, bool); 9] = [
    ("agent.upgrade.handed-over", false),
    (POLICY_SET, false),
    ("agent.upgrade.quiesce", false),
    ("agent.upgrade.old-renamed", false),
    ("agent.upgrade.switch", false),
    ("agent.upgrade.start", false),
    ("agent.upgrade.verify", false),
    ("agent.upgrade.commit", true),
    ("agent.upgrade.keep", true),
];

/// An agent in a container of a private Engine.
struct Contained {
    engine: Engine,
    runtime: Runtime,
}

type Client = ContainerServiceClient<Channel>;

impl Contained {
    fn start() -> Self {
        let engine = Engine::start();
        build_images(&engine);
        Self { engine, runtime: Runtime::new().expect("a runtime") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.engine.dir().join(name)
    }

    /// A fresh agent, in place of the one before.
    fn run_agent(&self, more: &[&str]) {
        for one in upgrades::family(&self.engine, NAME) {
            self.engine.docker(["rm", "-f", &one.name]);
        }
        for dir in ["state", "run"] {
            let _ = std::fs::remove_dir_all(self.at(dir));
            std::fs::create_dir_all(self.at(dir)).expect("made");
        }
        std::fs::write(self.at("state").join("config.toml"), "allow = [\"backup\", \"container\"]\n")
            .expect("written");
        let mount = |from: &str, to: &str| format!("{}:{to}", self.at(from).display());
        let mut command = self.engine.command(["run", "-d", "--name", NAME, "--restart", "always"]);
        command.args(["--network", "none", "--cap-add", "SYS_ADMIN", "-e", "HOLDFAST_LOG=info"]);
        command.args([
            "-v",
            &mount("docker.sock", "/var/run/docker.sock"),
            "-v",
            &mount("run", "/run/holdfast"),
        ]);
        command.args(["-v", &mount("state", "/var/lib/holdfast-agent")]).args(more).arg(FIRST);
        run(&mut command);
        self.await_answer();
    }

    async fn client(&self) -> Result<Client, Status> {
        let socket = self.at("run").join("agent.sock");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent").connect_with_connector(connector).await;
        channel.map(ContainerServiceClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    fn list(&self, job: &str) -> Result<Vec<Upgrade>, Status> {
        self.runtime.block_on(async {
            let request = ListUpgradesRequest { job_id: job.to_owned(), ..Default::default() };
            let mut stream = self.client().await?.list_upgrades(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(upgrade) = stream.message().await? {
                all.push(upgrade);
            }
            Ok(all)
        })
    }

    fn await_answer(&self) {
        wait::until("the agent to answer", 60, || self.list("").map_err(|status| (status, self.logs())));
    }

    fn plan(&self, image: &str) -> UpgradePlan {
        self.runtime.block_on(async {
            let request =
                PlanUpgradeRequest { container: NAME.into(), image: image.into(), ..Default::default() };
            self.client().await.unwrap().plan_upgrade(request).await.expect("a plan").into_inner()
        })
    }

    /// Plans, runs and awaits the end of the upgrade; also how often the stream broke.
    fn upgrade(&self, image: &str, options: UpgradeOptions) -> (UpgradeFinished, usize) {
        self.hear_out(&self.begin(image, options))
    }

    fn begin(&self, image: &str, options: UpgradeOptions) -> RunUpgradeRequest {
        let plan = self.plan(image);
        assert!(plan.runnable, "{plan:?}");
        assert!(plan.sources.is_empty(), "its own state would be exchanged: {plan:?}");
        assert!(plan.warnings.iter().any(|line| line.contains("helper container")), "{:?}", plan.warnings);
        RunUpgradeRequest {
            job_id: JobId::generate().to_string(),
            generation: 1,
            container: NAME.into(),
            image: image.into(),
            fingerprint: plan.fingerprint,
            options: Some(options),
        }
    }

    fn hear_out(&self, request: &RunUpgradeRequest) -> (UpgradeFinished, usize) {
        let (mut breaks, mut begun) = (0, false);
        let finished = self.until_finished(|| {
            // Whoever comes later has to know it: else it would be run twice.
            if begun {
                breaks += 1;
                let known = self.list(&request.job_id)?;
                assert_eq!(known.len(), 1, "the upgrade was forgotten");
            }
            begun = true;
            Ok(request.clone())
        });
        (finished, breaks)
    }

    fn until_finished(&self, mut next: impl FnMut() -> Result<RunUpgradeRequest, Status>) -> UpgradeFinished {
        let deadline = Instant::now() + Duration::from_secs(400);
        let mut last = String::new();
        while Instant::now() < deadline {
            let heard = next().and_then(|request| {
                self.runtime.block_on(async {
                    finished_of(self.client().await?.run_upgrade(request).await?.into_inner()).await
                })
            });
            match heard {
                Ok(Some(finished)) => return finished,
                Ok(None) => last = "the stream ended".to_owned(),
                Err(status) => last = status.to_string(),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!(
            "the upgrade did not end ({last}): {:#?}\n{}",
            upgrades::family(&self.engine, NAME),
            self.logs()
        );
    }

    /// Waits until the record says so, as whichever agent runs tells it.
    fn await_state(&self, job: &str, wanted: UpgradeState) -> Upgrade {
        wait::until(&format!("the upgrade to be {}", wanted.as_str_name()), 120, || {
            let listed = self.list(job).map_err(|status| status.to_string())?;
            let found = listed.into_iter().next().ok_or_else(|| "unknown".to_owned())?;
            if found.state() == wanted { Ok(found) } else { Err(format!("{found:?}\n{}", self.logs())) }
        })
    }

    fn logs(&self) -> String {
        let family = match upgrades::try_family(&self.engine, NAME) {
            Ok(family) => family,
            Err(failure) => return failure,
        };
        let log = |one: &upgrades::Relative| {
            let output =
                self.engine.command(["logs", "--tail", "15", &one.name]).output().expect("docker runs");
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("--- {} ({}, {})\n{out}{err}", one.name, one.image, one.state)
        };
        family.iter().map(log).collect()
    }

    /// The helper goes, and just one agent runs: of that image, and restarted
    /// by the Engine as ever.
    #[track_caller]
    fn one_agent(&self, image: &str) -> String {
        wait::until("the helper to go", 30, || {
            let family = upgrades::try_family(&self.engine, NAME).map_err(|error| (Vec::new(), error))?;
            let left = family.iter().any(|one| one.name.contains("helper") || one.name.contains("new"));
            if left { Err((family, self.logs())) } else { Ok(()) }
        });
        self.await_answer();
        let agent = upgrades::the_one_that_runs(&self.engine, NAME);
        assert_eq!(agent.image, image);
        let policy = &self.engine.inspect(NAME)["HostConfig"]["RestartPolicy"]["Name"];
        assert_eq!(policy, "always");
        wait::until("the helper's lock to go", 30, || {
            let records = std::fs::read_dir(self.at("state").join("upgrades"));
            let paths = records.into_iter().flatten().map(|entry| entry.expect("listed").path());
            let locks: Vec<PathBuf> =
                paths.filter(|path| path.extension().is_some_and(|end| end == "lock")).collect();
            if locks.is_empty() { Ok(()) } else { Err(locks) }
        });
        agent.id
    }

    fn instance(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.at("state")).expect("the state directory");
        let file = files
            .map(|entry| entry.expect("listed").path())
            .find(|path| path.to_string_lossy().contains("instance"));
        std::fs::read(file.expect("an instance")).expect("read")
    }
}

async fn finished_of(mut stream: tonic::Streaming<UpgradeEvent>) -> Result<Option<UpgradeFinished>, Status> {
    while let Some(event) = stream.message().await? {
        if let Some(Event::Finished(finished)) = event.event {
            return Ok(Some(finished));
        }
    }
    Ok(None)
}

fn options() -> UpgradeOptions {
    UpgradeOptions { health_timeout_seconds: 60, steady_seconds: 1, ..Default::default() }
}

/// The built agent with the libraries it needs, over the image every Engine has.
fn build_images(engine: &Engine) {
    let context = tempfile::TempDir::new_in(engine.dir()).expect("build context");
    let root = context.path().join("root");
    let add = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("in a folder")).expect("made");
        std::fs::copy(from, to).expect("copied");
    };
    let agent = binaries::path("holdfast-agent");
    add(&agent, "/usr/bin/holdfast-agent");
    for word in run(Command::new("ldd").arg(&agent)).split_whitespace().filter(|word| word.starts_with('/')) {
        add(Path::new(word), word);
    }
    let first = format!(
        "FROM {IMAGE}\nCOPY root/ /\nVOLUME /var/lib/holdfast-agent\n\
         ENTRYPOINT [\"/usr/bin/holdfast-agent\"]\nCMD [\"run\"]\n"
    );
    std::fs::write(context.path().join("Dockerfile"), first).expect("written");
    let mut command = engine.command(["build", "-q", "--network", "none", "-t", FIRST]);
    run(command.arg(context.path()).env("DOCKER_BUILDKIT", "0"));
    for (image, lines) in [
        (SECOND, "ENV AGENT_VERSION=2"),
        (DIES, "ENTRYPOINT [\"/bin/sh\", \"-c\", \"exit 1\"]"),
        (IDLES, "STOPSIGNAL SIGKILL\nENTRYPOINT [\"/bin/sh\", \"-c\", \"exec sleep 100000\"]"),
    ] {
        engine.build_image(&format!("FROM {FIRST}\n{lines}\n"), &[], image);
    }
}

#[test]
fn u09_an_agent_replaces_itself_and_comes_back_from_what_is_no_good() {
    require_engine!();
    let host = Contained::start();
    host.run_agent(&[]);
    let (first, instance) = (host.one_agent(FIRST), host.instance());

    for (bad, code) in [(DIES, "exited"), (IDLES, "no-agent")] {
        let quick = UpgradeOptions { health_timeout_seconds: 5, ..options() };
        let (finished, breaks) = host.upgrade(bad, quick);
        assert!(!finished.ok && finished.rolled_back, "{bad}: {finished:?}");
        assert_eq!(finished.error_code, code, "{bad}: {}", finished.error);
        assert!(breaks > 0, "the agent was never stopped");
        assert_eq!(host.one_agent(FIRST), first);
        assert_eq!(upgrades::family(&host.engine, NAME).len(), 1);
        figure!("{bad}: down {} ms: {}", finished.downtime_ms, finished.error);
    }

    let (finished, breaks) = host.upgrade(SECOND, options());
    assert!(finished.ok, "{finished:?}\n{}", host.logs());
    assert!(breaks > 0, "the agent was never stopped");
    figure!("upgraded, down {} ms", finished.downtime_ms);
    let upgrade = finished.upgrade.expect("the record");
    assert_eq!(upgrade.state(), UpgradeState::Committed);
    assert_ne!(host.one_agent(SECOND), first);
    assert_eq!(host.instance(), instance);
    let kept = host.engine.inspect(&first);
    assert_eq!(kept["State"]["Status"], "exited");
    assert_eq!(kept["HostConfig"]["RestartPolicy"]["Name"], "no");

    // And back: the new one cannot undo itself either.
    let job = JobId::generate().to_string();
    let deadline = Instant::now() + Duration::from_secs(400);
    let finished = loop {
        assert!(Instant::now() < deadline, "the rollback did not end\n{}", host.logs());
        let request =
            RollBackUpgradeRequest { upgrade: upgrade.job_id.clone(), job_id: job.clone(), wait: false };
        let heard = host.runtime.block_on(async {
            finished_of(host.client().await?.roll_back_upgrade(request).await?.into_inner()).await
        });
        if let Ok(Some(finished)) = heard {
            break finished;
        }
        // As a controller does: what is rolled back is not asked for again.
        let listed = host.list(&upgrade.job_id).unwrap_or_default();
        if listed.first().is_some_and(|found| found.state() == UpgradeState::RolledBack) {
            break UpgradeFinished { rolled_back: true, ..Default::default() };
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(finished.rolled_back, "{finished:?}");
    assert_eq!(host.one_agent(FIRST), first);
    assert_eq!(host.await_state(&upgrade.job_id, UpgradeState::RolledBack).error_code, "asked");
    assert_eq!(upgrades::family(&host.engine, NAME).len(), 1);
}

#[test]
fn u09_without_the_engines_socket_or_its_state_on_a_mount_it_is_refused() {
    require_engine!();
    let host = Contained::start();
    host.run_agent(&[]);
    // The same agent, its socket somewhere in its own file system.
    host.engine.docker(["rm", "-f", NAME]);
    let run_dir = format!("{}:/run/holdfast", host.at("run").display());
    let dir = format!("{}:/host", host.engine.dir().display());
    let setup = "mkdir -p /var/lib/holdfast-agent && echo 'allow = [\"container\"]' > /var/lib/holdfast-agent/config.toml && exec holdfast-agent run";
    run(host.engine.command(["run", "-d", "--rm", "--name", NAME, "--network", "none"]).args([
        "-v",
        &run_dir,
        "-v",
        &dir,
        "--tmpfs",
        "/var/lib/holdfast-agent",
        "-e",
        "DOCKER_HOST=unix:///host/docker.sock",
        "-e",
        "PATH=/bin:/usr/bin",
        "--entrypoint",
        "/bin/sh",
        FIRST,
        "-c",
        setup,
    ]));
    host.await_answer();
    let plan = host.plan(SECOND);
    assert!(!plan.runnable);
    let refused = |text: &str| plan.refusals.iter().any(|refusal| refusal.contains(text));
    assert!(refused("its state directory") && refused("--rm"), "{:#?}", plan.refusals);
    assert!(!refused("the Engine's socket"), "{:#?}", plan.refusals);
}

/// Whatever kills the helper, or the agent between its mark and the helper:
/// just one agent is left, and the record says which.
#[test]
fn u09_a_killed_helper_is_started_again_and_leaves_one_agent() {
    require_engine!();
    let host = Contained::start();
    for (point, forward) in HANDED_OVER {
        let name = format!("{}={point}", failpoints::VARIABLE);
        // As first process of its own namespace it could not kill itself.
        host.run_agent(&["-e", &name, "--pid", "host"]);
        let deaths = Deaths::watch(&host.engine);
        let (finished, breaks) = host.upgrade(SECOND, options());
        deaths.assert_one_at(point);
        assert_eq!(finished.ok, forward, "{point}: {finished:?}\n{}", host.logs());
        // Of these only the first kills the agent itself; all stop it.
        assert!(breaks > 0 || point == POLICY_SET, "{point}: no stream broke");
        host.one_agent(if forward { SECOND } else { FIRST });
        figure!("killed at {point}: {}", if forward { "went forward" } else { "went back" });
    }
    figure!("{} kills, 0 violations", HANDED_OVER.len());
}

/// In the middle of the gate the Engine crashes; another time somebody removes
/// the helper. The new agent must not take itself back.
#[test]
fn u09_neither_a_crashed_engine_nor_a_removed_helper_leaves_a_host_without_agent() {
    require_engine!();
    let mut host = Contained::start();
    let forever = UpgradeOptions { steady_seconds: 3600, health_timeout_seconds: 3600, ..Default::default() };
    for crash in [false, true] {
        host.run_agent(&[]);
        let first = host.one_agent(FIRST);
        let request = host.begin(SECOND, forever.clone());
        let opened = host
            .runtime
            .block_on(async { host.client().await.unwrap().run_upgrade(request.clone()).await.map(drop) });
        opened.expect("it begins");
        let gating = host.await_state(&request.job_id, UpgradeState::Gating);
        assert_eq!(upgrades::family(&host.engine, NAME).len(), 3, "old, new and helper");
        if crash {
            host.engine.crash_and_restart();
        } else {
            let family = upgrades::family(&host.engine, NAME);
            let helper = family.iter().find(|one| one.name.contains("helper")).expect("a helper");
            host.engine.docker(["rm", "-f", &helper.name]);
        }
        let (finished, _) = host.hear_out(&request);
        assert!(finished.rolled_back, "{finished:?}");
        // A helper that outlived the Engine saw it go.
        let code = finished.error_code.as_str();
        assert!(code == "interrupted" || (crash && code == "engine-unreachable"), "{finished:?}");
        assert_eq!(host.one_agent(FIRST), first);
        assert_ne!(gating.new_container_id, first);
        assert_eq!(upgrades::family(&host.engine, NAME).len(), 1);
    }
}

//! Plans of real containers.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;

use super::*;
use crate::engine::testing::{SOCKET, Scene};
use crate::upgrade::handover::Own;

mod data;

/// Containers of images that this test makes.
struct Bench {
    scene: Scene,
    context: PlanContext,
    images: RefCell<Vec<String>>,
}

impl Bench {
    async fn open(allow: &[&str]) -> Option<Self> {
        let scene = Scene::open().await?;
        let allow = ["backup", "restore", "container"].iter().chain(allow).copied();
        let context = PlanContext {
            engine: scene.engine.clone(),
            allow: Allow::parse(allow).unwrap(),
            // Nothing is kept there: each plan looks anew.
            specs: Specs::new(&std::env::temp_dir().join(scene.name("state")), scene.engine.clone()),
            own: None,
        };
        Some(Self { scene, context, images: RefCell::default() })
    }

    /// An image with a static shell, a file and these settings.
    async fn image(&self, tag: &str, changes: &[&str]) -> String {
        let mut root = tar::Builder::new(Vec::new());
        root.append_path_with_name("/bin/busybox", "bin/busybox").unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        root.append_data(&mut header, "etc/motd", &b"hi"[..]).unwrap();
        let root = Bytes::from(root.into_inner().unwrap());
        let mut all = vec!["ENV PATH=/bin", "CMD [\"/bin/busybox\", \"sleep\", \"86400\"]"];
        all.extend(changes);
        let repository = self.scene.name("app");
        self.scene.engine.import_image(&repository, tag, root, &all).await.unwrap();
        let image = format!("{repository}:{tag}");
        // By id: its name may go to another one.
        let id = self.scene.docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
        self.images.borrow_mut().push(id);
        image
    }

    /// `docker run -d` or `docker create`, without a network unless one is given.
    fn start(&self, verb: &[&str], suffix: &str, arguments: &[&str], image: &str) -> String {
        let name = self.scene.name(suffix);
        let mut all = verb.to_vec();
        all.extend(["--name", &name]);
        if !arguments.iter().any(|argument| matches!(*argument, "--network" | "-p")) {
            all.extend(["--network", "none"]);
        }
        all.extend(arguments);
        all.push(image);
        self.scene.docker(&all);
        name
    }

    fn run(&self, suffix: &str, arguments: &[&str], image: &str) -> String {
        self.start(&["run", "-d"], suffix, arguments, image)
    }

    fn sh(&self, container: &str, script: &str) {
        self.scene.docker(&["exec", container, "/bin/busybox", "sh", "-c", script]);
    }

    async fn plan(&self, container: &str, image: &str) -> Planned {
        self.plan_allowing(container, image, &[]).await
    }

    async fn plan_allowing(&self, container: &str, image: &str, allow_loss: &[&str]) -> Planned {
        let allow_loss = allow_loss.iter().map(|&word| word.to_owned()).collect();
        let request = PlanRequest {
            container: container.to_owned(),
            image: image.to_owned(),
            pull: false,
            options: Options { allow_loss, ..Default::default() },
        };
        plan(&self.context, &request).await.unwrap()
    }

    async fn refused(&self, container: &str, image: &str, pull: bool) -> PlanError {
        let (container, image) = (container.to_owned(), image.to_owned());
        let request = PlanRequest { container, image, pull, options: Options::default() };
        plan(&self.context, &request).await.unwrap_err()
    }

    fn is_running(&self, container: &str) -> bool {
        self.scene.docker(&["inspect", "--format", "{{.State.Running}}", container]) == "true"
    }

    fn data(&self, volume: &str) -> PathBuf {
        self.scene.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", volume]).into()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Images are in use as long as the containers are there; those that
        // lost their name to another one nobody else removes.
        let docker = |arguments: &[&str]| Command::new("docker").args(arguments).output();
        let own = format!("name={}", self.scene.name(""));
        let listed = docker(&["ps", "-aq", "--filter", &own]).map(|output| output.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&listed).split_whitespace() {
            drop(docker(&["rm", "-fv", id]));
        }
        for image in self.images.borrow().iter() {
            drop(docker(&["image", "rm", "-f", image]));
        }
    }
}

fn losses(planned: &Planned) -> Vec<&str> {
    planned.summary.losses.iter().map(|one| one.loss.name.as_str()).collect()
}

fn stops(planned: &Planned) -> Vec<&str> {
    planned.stops.iter().map(|one| one.name.as_str()).collect()
}

#[tokio::test]
async fn a_plan_says_what_stays_changes_and_stops_and_changes_nothing_itself() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let health = "HEALTHCHECK --interval=1s CMD /bin/busybox true";
    let old = bench.image("1", &["ENV VERSION=1", "ENV SAME=x"]).await;
    let new = bench.image("2", &["ENV VERSION=2", "ENV SAME=y", health]).await;
    let volume = bench.scene.name("v");
    let mount = format!("{volume}:/data");
    let arguments = ["-v", &mount, "-e", "SAME=mine", "--restart", "unless-stopped", "--memory", "64m"];
    let db = bench.run("db", &[&arguments[..], &["--stop-timeout", "2"]].concat(), &old);
    fs::write(bench.data(&volume).join("rows"), vec![7; 100_000]).unwrap();
    let writer = bench.run("cron", &["-v", &mount], &old);
    let api = bench.run("api", &["--network", &format!("container:{db}")], &old);
    let reader = bench.run("reader", &["-v", &format!("{mount}:ro")], &old);
    let own = format!("name={}", bench.scene.name(""));
    let shown = ["ps", "-a", "--format", "{{.ID}} {{.Names}} {{.State}}", "--filter", &own];
    let listed = || bench.scene.docker(&shown);
    let (before, tree) = (listed(), names_in(&bench.data(&volume)));

    let planned = bench.plan(&db, &new).await;
    let summary = &planned.summary;
    assert!(summary.runnable && summary.running, "{summary:?}");
    assert_eq!((planned.old.image.as_str(), planned.to_image.as_str()), (old.as_str(), new.as_str()));
    assert_ne!(planned.old.image_id, planned.to_image_id);
    assert_eq!(summary.to_digest, "");
    let changes: Vec<_> = summary
        .changes
        .iter()
        .map(|change| format!("{}: {} → {}", change.what, change.from, change.to))
        .collect();
    assert_eq!(
        changes,
        ["env VERSION: 1 → 2", "healthcheck:  → /bin/busybox true", "healthcheck interval:  → 1s"]
    );
    for stays in ["1 volume", "network none", "1 env", "restart unless-stopped", "memory 64 MiB"] {
        assert!(summary.stays.iter().any(|word| word == stays), "{stays} in {:?}", summary.stays);
    }
    let stopped = stops(&planned);
    assert_eq!(stopped.len(), 3, "{stopped:?}");
    assert_eq!(stopped.last(), Some(&db.as_str()));
    assert!(stopped.contains(&writer.as_str()) && stopped.contains(&api.as_str()));
    assert_eq!(summary.stops, stopped);
    assert!(summary.warnings.iter().any(|warning| warning.contains(&reader)), "{:?}", summary.warnings);
    assert_eq!(summary.expected_downtime_seconds, 2 + 10 + 10 + 1 + 2);
    assert_eq!(summary.health, "image healthcheck, 2 min");
    let [source] = &planned.sources[..] else { panic!("{:?}", planned.sources) };
    assert_eq!((source.name.to_string(), source.path.clone()), (volume.clone(), bench.data(&volume)));
    assert_eq!(source.target, "/data");
    assert!((100_000..200_000).contains(&source.size_bytes), "{source:?}");
    assert!(source.free_bytes > 0);
    assert_eq!(planned.spec.name, db);

    assert_eq!(listed(), before);
    assert_eq!(names_in(&bench.data(&volume)), tree);
    assert_eq!(names_in(bench.data(&volume).parent().unwrap()), ["_data"]);
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_fingerprint_stays_with_the_world_and_changes_with_it() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let (old, new) = (bench.image("1", &[]).await, bench.image("2", &["ENV VERSION=2"]).await);
    let volume = bench.scene.name("v");
    let mount = format!("{volume}:/data");
    let db = bench.run("db", &["-v", &mount, "--stop-timeout", "0"], &old);
    let of =
        async |image: &str, allow: &[&str]| bench.plan_allowing(&db, image, allow).await.summary.fingerprint;
    let first = of(&new, &[]).await;
    // Sizes and what is allowed are not the world.
    fs::write(bench.data(&volume).join("rows"), vec![7; 100_000]).unwrap();
    assert_eq!(of(&new, &["tmpfs"]).await, first);
    let mut seen = vec![first.clone(), of(&old, &[]).await];
    bench.sh(&db, "echo x > /notes");
    seen.push(of(&new, &[]).await);
    bench.sh(&db, "rm /notes");
    assert_eq!(of(&new, &[]).await, first);
    let other = bench.run("other", &["-v", &mount, "--stop-timeout", "0"], &old);
    seen.push(of(&new, &[]).await);
    bench.scene.docker(&["rm", "-f", &other]);
    assert_eq!(of(&new, &[]).await, first);
    // The snapshot before an upgrade may stop and start it.
    bench.scene.docker(&["restart", &db]);
    assert_eq!(of(&new, &[]).await, first);
    bench.scene.docker(&["update", "--restart", "always", &db]);
    seen.push(of(&new, &[]).await);
    bench.image("2", &["ENV VERSION=3"]).await;
    seen.push(of(&new, &[]).await);
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "each change of the world is another fingerprint");
}

#[tokio::test]
async fn u09_what_cannot_be_upgraded_is_refused_and_goes_on() {
    let Some(mut bench) = Bench::open(&[]).await else { return };
    let (old, new) = (bench.image("1", &[]).await, bench.image("2", &[]).await);
    let swarm = bench.run("swarm", &["--label", "com.docker.swarm.service.id=x"], &old);
    let once = bench.run("once", &["--rm"], &old);
    let paused = bench.run("paused", &[], &old);
    bench.scene.docker(&["pause", &paused]);
    let plain = bench.run("plain", &[], &old);
    for (name, word) in [(&swarm, "Swarm"), (&once, "--rm"), (&paused, "docker unpause")] {
        let planned = bench.plan_allowing(name, &new, &["writable-layer"]).await;
        assert!(!planned.summary.runnable);
        assert_eq!(planned.summary.refusals.len(), 1, "{:?}", planned.summary.refusals);
        assert!(planned.summary.refusals[0].contains(word), "{:?}", planned.summary.refusals);
    }
    assert!(bench.is_running(&swarm) && bench.is_running(&once));
    bench.scene.docker(&["unpause", &paused]);

    // An agent whose helper could not reach the Engine cannot hand over.
    let id = bench.plan(&plain, &new).await.old.id;
    let (state_dir, docker_socket) = ("/var/lib/holdfast-agent".into(), SOCKET.into());
    bench.context.own = Some(Own { id, state_dir, docker_socket });
    let planned = bench.plan(&plain, &new).await;
    assert!(!planned.summary.refusals.is_empty(), "{:?}", planned.summary);
    assert!(planned.summary.refusals[0].contains("socket"), "{:?}", planned.summary.refusals);
    bench.context.own = None;
    bench.start(&["create"], "plain.holdfast-old-abc123", &[], &old);
    let planned = bench.plan(&plain, &new).await;
    assert!(planned.summary.refusals[0].contains("upgrade commit"), "{:?}", planned.summary.refusals);
}

#[tokio::test]
async fn u01_an_image_that_cannot_be_had_stops_nothing() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let old = bench.image("1", &[]).await;
    let db = bench.run("db", &[], &old);
    for (image, pull) in [("hf-none.invalid/app:9", false), (old.as_str(), true)] {
        let error = bench.refused(&db, image, pull).await;
        assert!(matches!(&error, PlanError::Image { image: named, .. } if named == image), "{error:?}");
        assert!(error.to_string().contains(image) && error.to_string().contains("nothing was stopped"));
    }
    let id = format!("sha256:{}", "3f".repeat(32));
    assert!(matches!(bench.refused(&db, &id, false).await, PlanError::ImageById { .. }));
    let own_id = bench.plan(&db, "").await.to_image_id;
    assert!(matches!(bench.refused(&db, &own_id, true).await, PlanError::ImageById { .. }));
    let error = bench.refused(&bench.scene.name("bd"), &old, false).await;
    assert!(error.to_string().contains(&format!("did you mean `{db}`")), "{error}");
    assert!(bench.is_running(&db));
}

#[tokio::test]
async fn the_same_image_is_only_mentioned_and_compose_is_told() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let (old, new) = (bench.image("1", &[]).await, bench.image("2", &["ENV VERSION=2"]).await);
    let labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=db"];
    let db = bench.run("db", &labels, &old);
    let planned = bench.plan(&db, "").await;
    assert!(planned.summary.runnable && planned.summary.changes.is_empty());
    assert!(planned.summary.warnings.iter().any(|warning| warning.contains("runs that image already")));
    assert!(!planned.summary.warnings.iter().any(|warning| warning.contains("compose")));
    let planned = bench.plan(&db, &new).await;
    assert!(planned.summary.warnings.iter().any(|warning| warning.contains("service `db`")));
    // Under the same reference, compose goes along.
    bench.scene.docker(&["tag", &new, &old]);
    let planned = bench.plan(&db, "").await;
    assert_eq!(planned.to_image, old);
    assert_ne!(planned.to_image_id, planned.old.image_id);
    assert!(planned.summary.warnings.is_empty(), "{:?}", planned.summary.warnings);
}

#[tokio::test]
async fn u08_a_port_that_another_container_holds_is_refused() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let old = bench.image("1", &[]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = format!("127.0.0.1:{free}:80");
    let web = bench.start(&["create"], "web", &["-p", &publish], &old);
    assert!(bench.plan(&web, &old).await.summary.refusals.is_empty());
    let holder = bench.run("holder", &["-p", &publish], &old);
    let planned = bench.plan(&web, &old).await;
    let [refusal] = &planned.summary.refusals[..] else { panic!("{:?}", planned.summary.refusals) };
    assert!(refusal.contains(&format!("port {free}/tcp")) && refusal.contains(&holder), "{refusal}");
    assert!(bench.plan(&holder, &old).await.summary.refusals.is_empty(), "it holds the port itself");
}

#[tokio::test]
async fn nothing_stops_for_a_container_that_does_not_run() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let old = bench.image("1", &[]).await;
    let mount = format!("{}:/data", bench.scene.name("v"));
    let idle = bench.start(&["create"], "idle", &["-v", &mount], &old);
    let reading = format!("{mount}:ro");
    bench.run("reader", &["-v", &reading], &old);
    let planned = bench.plan(&idle, &old).await;
    assert!(!planned.summary.running && planned.summary.runnable, "{:?}", planned.summary);
    assert_eq!(stops(&planned), [idle.as_str()]);
    assert!(planned.summary.stops.is_empty());
    assert_eq!(planned.summary.expected_downtime_seconds, 0);
    let other = bench.run("other", &["-v", &mount], &old);
    let planned = bench.plan(&idle, &old).await;
    assert!(!planned.summary.runnable);
    assert!(
        planned.summary.refusals[0].contains(&format!("docker stop {other}")),
        "{:?}",
        planned.summary.refusals
    );
}

//! What is kept of a committed upgrade: for how long, and rollbacks on request.

use super::*;
use crate::clocks::Moment;

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
    assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::Committed);
    assert_eq!(host.inspect(&old, "{{.State.Status}}"), "exited");
    upgrades.context.end_grace(now).await;
    // As does the agent that comes after the reboot.
    let upgrades = successor(&host);
    upgrades.context.end_grace(Moment { uptime_ms: now.uptime_ms + 60_000, ..ahead }).await;
    std::fs::write(data.join("precious"), "rewritten").unwrap();
    let finished = rolled_back(&upgrades, &name).await;
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
        assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::Committed, "{not_yet:?}");
    }
    upgrades.context.end_grace(later(3_700_000, 3_700_000)).await;
    assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::Finished);
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
    let finished = rolled_back(&upgrades, &name).await;
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
    let finished = rolled_back(&upgrades, &name).await;
    assert_eq!((finished.rolled_back, finished.error_code.as_str()), (false, "old-gone"), "{finished:?}");
    assert_eq!(host.inspect(&name, "{{.Id}} {{.State.Status}}"), format!("{new} running"));
    assert_eq!(files(&data), before);
    let committed = upgrades.commit(&name).await.unwrap();
    assert_eq!(committed.phase(), Phase::Finished);
    assert_eq!(files(&data), before);
    assert_eq!(std::fs::read_dir(data.parent().unwrap()).unwrap().count(), 1, "a clone is left");
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
        match event {
            Event::Stopped(stopped) => {
                assert_eq!(stopped.sources.len(), 1);
                for id in [&new, &old] {
                    assert_eq!(
                        host.inspect(id, "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}"),
                        "exited no"
                    );
                }
                assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::AwaitingRollbackSnapshot);
                rested = true;
            }
            Event::Step(_) => {}
            Event::Finished(finished) => last = Some(finished),
        }
    }
    let finished = last.unwrap();
    assert!(rested && !finished.rolled_back, "{finished:?}");
    assert_eq!(finished.error_code, "abandoned");
    assert_eq!(upgrades.list(&name, None)[0].phase(), Phase::Committed);
    let state = "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(host.inspect(&new, state), "running unless-stopped");
    assert_eq!(host.inspect(&old, state), "running no");
    // This time it proceeds, with the new version's own files as they were at the stop.
    std::fs::write(data.join("since"), "written since").unwrap();
    let undo = JobId::generate();
    let mut events = Box::pin(upgrades.roll_back(&name, undo, true).unwrap());
    let mut seen = None;
    while let Some(event) = events.next().await {
        match event {
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
        if let Event::Stopped(stopped) = events.next().await.unwrap() {
            break stopped.until_unix_ms;
        }
    };
    // Its successor finds the record and nobody at work on it.
    let successor = successor(&host);
    assert_eq!(successor.recover(Duration::from_secs(120)).await, Vec::<String>::new());
    let state = "{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}";
    assert_eq!(host.inspect(&new, state), "running unless-stopped");
    assert_eq!(successor.list(&name, None)[0].phase(), Phase::Committed);
    // And it can be undone then, by the same job.
    let mut events = Box::pin(successor.roll_back(&name, undo, true).unwrap());
    let mut last = None;
    while let Some(event) = events.next().await {
        match event {
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
        match event {
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

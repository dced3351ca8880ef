//! Data that an upgrade would lose or could not put back.

use super::*;

#[tokio::test]
async fn u07_a_volume_that_comes_over_old_data_blocks_and_an_unrelated_one_does_not() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let old = bench.image("17", &["VOLUME /var/lib/postgresql/data"]).await;
    let above = bench.image("18", &["VOLUME /var/lib/postgresql"]).await;
    let moved = bench.image("moved", &["VOLUME /srv/pg"]).await;
    let added = bench.image("added", &["VOLUME /var/lib/postgresql/data", "VOLUME /cache"]).await;
    // One that nobody named: the upgrade has to carry it.
    let db = bench.run("db", &[], &old);
    let target = "volume:/var/lib/postgresql/data";
    for image in [&above, &moved] {
        let planned = bench.plan(&db, image).await;
        assert_eq!(losses(&planned), [target]);
        assert!(!planned.summary.runnable);
    }
    assert!(bench.plan_allowing(&db, &above, &["volume"]).await.summary.runnable);
    assert!(bench.plan_allowing(&db, &above, &[target]).await.summary.runnable);
    assert!(!bench.plan_allowing(&db, &above, &["writable-layer"]).await.summary.runnable);
    let planned = bench.plan(&db, &added).await;
    assert!(planned.summary.runnable && losses(&planned).is_empty());
    assert_eq!(planned.summary.changes[0].what, "volume /cache");
    assert_eq!(planned.sources.len(), 1, "the anonymous volume is a source");
    bench.sh(&db, "mkdir /cache && echo x > /cache/file");
    assert_eq!(losses(&bench.plan(&db, &added).await), ["volume:/cache", "writable-layer"]);
}

#[tokio::test]
async fn files_in_the_writable_layer_are_named_running_or_not() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let (old, new) = (bench.image("1", &[]).await, bench.image("2", &[]).await);
    let db = bench.run("db", &["-v", "/data", "--tmpfs", "/memory", "--stop-timeout", "0"], &old);
    bench.sh(&db, "mkdir -p /tmp/empty /run && echo 1 > /run/app.pid && echo x > /data/file");
    bench.sh(&db, "echo 1 > /tmp/.s.PGSQL.5432.lock && : > /tmp/ready && mkfifo /tmp/fifo");
    let planned = bench.plan(&db, &new).await;
    assert!(losses(&planned).is_empty(), "{:?}", planned.summary.losses);
    let stays = planned.summary.stays.join("\n");
    assert!(stays.contains("3 files not kept, such as /run/app.pid: under /run"), "{stays}");
    bench.sh(&db, "echo 12345 > /tmp/history && rm /etc/motd && ln -s /tmp /link");
    for running in [true, false] {
        if !running {
            bench.scene.docker(&["stop", &db]);
        }
        let planned = bench.plan(&db, &new).await;
        assert_eq!(losses(&planned), ["writable-layer"], "running: {running}");
        let text = &planned.summary.losses[0].loss.text;
        assert!(text.contains("/tmp/history (6 B)") && text.contains("/etc/motd (deleted)"), "{text}");
        assert!(text.contains("2 files, 6 B, and 1 deletion"), "{text}");
        assert!(!planned.summary.runnable);
        assert!(bench.plan_allowing(&db, &new, &["writable-layer"]).await.summary.runnable);

        // Where the storage driver has no such directory, the Engine is asked.
        let mut inspected = bench.scene.engine.inspect_container_json(&db).await.unwrap();
        let by_layer = writable_layer::look(&bench.scene.engine, &planned.old, &inspected).await.unwrap();
        inspected["GraphDriver"] = Value::Null;
        let by_engine = writable_layer::look(&bench.scene.engine, &planned.old, &inspected).await.unwrap();
        assert_eq!(by_engine, by_layer);
    }
}

#[tokio::test]
async fn files_in_memory_are_a_loss_while_the_container_runs() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let (old, new) = (bench.image("1", &[]).await, bench.image("2", &[]).await);
    let web = bench.run(
        "web",
        &["--tmpfs", "/scratch", "--mount", "type=tmpfs,dst=/more", "--stop-timeout", "0"],
        &old,
    );
    // What only names the old process, or is no file, is nothing.
    bench.sh(&web, "mkdir /scratch/d && echo 1 > /scratch/app.pid && mkfifo /more/fifo");
    assert!(losses(&bench.plan(&web, &new).await).is_empty());
    bench.sh(&web, "echo 123 > /scratch/d/file");
    let planned = bench.plan(&web, &new).await;
    assert_eq!(losses(&planned), ["tmpfs:/scratch"]);
    let text = &planned.summary.losses[0].loss.text;
    assert!(text.contains("1 file (4 B)") && text.contains("/scratch/d/file"), "{text}");
    assert!(bench.plan_allowing(&web, &new, &["tmpfs"]).await.summary.runnable);
    bench.scene.docker(&["stop", &web]);
    assert!(losses(&bench.plan(&web, &new).await).is_empty());
}

#[tokio::test]
async fn a_database_of_another_major_version_blocks() {
    let Some(bench) = Bench::open(&[]).await else { return };
    let old = bench.image("1", &["ENV PG_MAJOR=16"]).await;
    let same = bench.image("2", &["ENV PG_MAJOR=16", "ENV PG_VERSION=16.4"]).await;
    let newer = bench.image("3", &["ENV PG_MAJOR=17"]).await;
    let volume = bench.scene.name("v");
    let db = bench.run("db", &["-v", &format!("{volume}:/var/lib/postgresql")], &old);
    bench.sh(&db, "mkdir -p /var/lib/postgresql/data/base/1 && echo 16 > /var/lib/postgresql/data/PG_VERSION && echo 16 > /var/lib/postgresql/data/base/1/PG_VERSION");
    let planned = bench.plan(&db, &newer).await;
    assert_eq!(losses(&planned), ["database-version"]);
    let text = &planned.summary.losses[0].loss.text;
    assert!(
        text.contains("PostgreSQL 16") && text.contains("PostgreSQL 17") && text.contains(&volume),
        "{text}"
    );
    assert!(bench.plan_allowing(&db, &newer, &["database-version"]).await.summary.runnable);
    let planned = bench.plan(&db, &same).await;
    assert!(planned.summary.runnable);
    assert!(planned.summary.stays.iter().any(|word| word.starts_with("PostgreSQL 16, as the data")));
}

#[tokio::test]
async fn data_nobody_could_put_back_is_a_loss_by_name() {
    let Some(directories) = Scene::open().await.map(|scene| scene.directory("host")) else { return };
    let at = |name: &str| directories.join(name).display().to_string();
    for name in ["allowed", "other", "device"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("file"), "x").unwrap();
    let Some(bench) = Bench::open(&[at("allowed").as_str()]).await else { return };
    let old = bench.image("1", &[]).await;
    let bound = bench.scene.name("bound");
    let device = format!("device={}", at("device"));
    bench.scene.docker(&[
        "volume",
        "create",
        "--opt",
        "type=none",
        "--opt",
        "o=bind",
        "--opt",
        &device,
        &bound,
    ]);
    let mounts = [
        format!("{}:/allowed", at("allowed")),
        format!("{}:/other", at("other")),
        format!("{}:/settings:ro", at("other")),
        format!("{}:/file", at("file")),
        format!("{bound}:/bound"),
        "/var/run/docker.sock:/docker.sock".to_owned(),
    ];
    let arguments: Vec<&str> = mounts.iter().flat_map(|mount| ["-v", mount.as_str()]).collect();
    let db = bench.run("db", &arguments, &old);
    bench.sh(&db, "echo 16 > /bound/PG_VERSION");
    let planned = bench.plan(&db, &old).await;
    let [source] = &planned.sources[..] else { panic!("{:?}", planned.sources) };
    assert_eq!(source.name.to_string(), at("allowed"));
    let expected = [
        format!("unprotected-volume:{bound}"),
        format!("bind:{}", at("file")),
        format!("bind:{}", at("other")),
    ];
    assert_eq!(losses(&planned), expected);
    assert!(
        planned.summary.warnings.iter().any(|text| text.contains("PostgreSQL 16")),
        "{:?}",
        planned.summary.warnings
    );
    assert!(bench.plan_allowing(&db, &old, &["unprotected-volume", "bind"]).await.summary.runnable);
    drop(bench);
    fs::remove_dir_all(directories).unwrap();
}

/// A small filesystem in memory.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Self {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at);
        assert!(command.status().unwrap().success());
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

#[tokio::test]
async fn no_room_for_a_clone_is_refused_before_anything_stops() {
    let Some(bench) = Bench::open(&["/"]).await else { return };
    let old = bench.image("1", &[]).await;
    let small = Small::mount(bench.scene.directory("small"), "160m");
    let data = small.0.join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("rows"), vec![7; 20 << 20]).unwrap();
    let db = bench.run("db", &["-v", &format!("{}:/data", data.display()), "--stop-timeout", "0"], &old);
    let planned = bench.plan(&db, &old).await;
    assert!(planned.summary.runnable, "{:?}", planned.summary);
    fs::write(data.join("more"), vec![7; 60 << 20]).unwrap();
    let refused = bench.plan(&db, &old).await;
    assert!(!refused.summary.runnable && bench.is_running(&db));
    let [refusal] = &refused.summary.refusals[..] else { panic!("{:?}", refused.summary.refusals) };
    assert!(
        refusal.contains("no room to clone") && refusal.contains(&data.display().to_string()),
        "{refusal}"
    );
    let fingerprint = refused.summary.fingerprint.clone();
    fs::write(data.join("more"), vec![7; 61 << 20]).unwrap();
    assert_eq!(bench.plan(&db, &old).await.summary.fingerprint, fingerprint, "sizes are not in it");
    bench.scene.docker(&["rm", "-f", &db]);
}

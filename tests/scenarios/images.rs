//! The images that tests of upgrades stand on do what they say.

use e2e::app_images::{self, App};
use e2e::docker::Engine;
use e2e::upgrades::wait_health;
use e2e::{postgres_image, require_engine, require_postgres};

#[test]
fn versions_of_the_small_server_behave_as_they_are_named() {
    require_engine!();
    let engine = Engine::start();
    app_images::build(&engine, &App::ALL);
    let run = |name: &str, app: App| {
        let data = format!("{name}-data:/data");
        engine.docker(["run", "-d", "--name", name, "-v", &data, app.image()]);
    };
    let rows = |name: &str| {
        let rows = engine.volume_path(&format!("{name}-data")).join("rows");
        let mut texts: Vec<String> = std::fs::read_dir(rows)
            .unwrap()
            .map(|row| std::fs::read_to_string(row.unwrap().path()).unwrap())
            .collect();
        texts.sort();
        texts
    };
    for name in ["migrates", "corrupts", "crashes"] {
        run(name, App::V1);
        wait_health(&engine, name, "healthy");
        assert_eq!((rows(name).len(), rows(name)[0].as_str()), (50, "row 10\n"));
        engine.docker(["rm", "-f", name]);
    }
    run("migrates", App::Migrates);
    wait_health(&engine, "migrates", "healthy");
    assert_eq!((rows("migrates").len(), rows("migrates")[0].as_str()), (50, "2 row 10\n"));
    run("corrupts", App::Corrupts);
    wait_health(&engine, "corrupts", "unhealthy");
    assert_eq!((rows("corrupts").len(), rows("corrupts")[0].as_str()), (45, "ruined row 10\n"));
    run("crashes", App::CrashLoops);
    assert_eq!(engine.docker(["wait", "crashes"]), "3");
    assert_eq!(rows("crashes")[0], "looped row 10\n");
    run("sick", App::NeverHealthy);
    wait_health(&engine, "sick", "unhealthy");
    run("other", App::OtherDefaults);
    wait_health(&engine, "other", "healthy");
    engine.docker(["stop", "other"]);
    assert!(engine.docker(["logs", "other"]).contains("ended by INT"));
    run("moved", App::MovesVolume);
    let mounts = engine.inspect("moved")["Mounts"].as_array().unwrap().len();
    assert_eq!(mounts, 2, "its own volume and the one it was given");
}

#[test]
fn the_postgresql_image_keeps_its_rows_across_builds() {
    require_engine!();
    require_postgres!();
    let engine = Engine::start();
    postgres_image::build(&engine, &[postgres_image::SECOND, postgres_image::RUINS]);
    let run = |name: &str, image: &str| {
        let data = format!("pg:{}", postgres_image::DATA);
        engine.docker(["run", "-d", "--name", name, "-v", &data, image]);
    };
    let sql = |container: &str, text: &str| {
        engine.docker(["exec", container, "psql", "-U", "postgres", "-qAtc", text])
    };
    run("first", postgres_image::FIRST);
    wait_health(&engine, "first", "healthy");
    sql("first", "create table t (n int); insert into t values (7)");
    assert_eq!(engine.docker(["exec", "first", "id", "-un"]), "postgres");
    engine.docker(["stop", "first"]);
    run("second", postgres_image::SECOND);
    wait_health(&engine, "second", "healthy");
    assert_eq!(sql("second", "select n from t"), "7");
    engine.docker(["stop", "second"]);
    run("ruins", postgres_image::RUINS);
    wait_health(&engine, "ruins", "unhealthy");
    assert!(!engine.volume_path("pg").join("global").exists());
}

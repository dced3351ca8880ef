//! A real PostgreSQL as an image, made of the files of the machine's own
//! packages: no registry is asked.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::docker::Engine;

/// The build a container starts with.
pub const FIRST: &str = "postgres-test:a";
/// Another build of the same version: more in it, another label.
pub const SECOND: &str = "postgres-test:b";
/// Ruins the data it finds and never accepts a connection.
pub const RUINS: &str = "postgres-test:ruins";
/// Says it is of the next major version, whose data directories differ.
pub const NEXT_MAJOR: &str = "postgres-test:next";

/// Where the data lies, a volume of every build.
pub const DATA: &str = "/var/lib/postgresql/data";

const START: &str = r#"#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb -D "$PGDATA" -U postgres -A trust --locale=C -E UTF8 --no-sync
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
"#;

const RUIN: &str = r#"#!/bin/sh
for file in "$PGDATA"/base/*/*; do echo ruined > "$file"; done
rm -rf "$PGDATA/global" "$PGDATA/pg_wal"
exec sleep 100000
"#;

/// Ends the test early, and has it counted as skipped, where PostgreSQL is not
/// installed.
#[macro_export]
macro_rules! require_postgres {
    () => {
        if $crate::postgres_image::installed().is_none() {
            $crate::record::skipped("PostgreSQL is not installed");
            return;
        }
    };
}

/// The newest major version that this machine has, and its folder.
pub fn installed() -> Option<(u32, PathBuf)> {
    let folders = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    folders
        .filter_map(|folder| {
            let folder = folder.ok()?.path();
            let major = folder.file_name()?.to_str()?.parse().ok()?;
            folder.join("bin/postgres").is_file().then_some((major, folder))
        })
        .max()
}

/// Makes the builds on an Engine.
pub fn build(engine: &Engine, images: &[&str]) {
    let (major, folder) = installed().expect("asked for by `require_postgres`");
    let root = engine.dir().join("postgres");
    fill(&root, major, &folder);
    let tar = engine.dir().join("postgres.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    engine.docker(["import", &tar.display().to_string(), "postgres-test:files"]);
    let first = format!(
        "FROM postgres-test:files\nENV PATH={}/bin:/bin PG_MAJOR={major} PGDATA={DATA}\nVOLUME {DATA}\n\
         USER postgres\nSTOPSIGNAL SIGINT\nEXPOSE 5432\nCMD [\"/start\"]\n\
         HEALTHCHECK --interval=500ms --timeout=10s --retries=60 CMD pg_isready -q -U postgres\n",
        folder.display()
    );
    engine.build_image(&first, &[], FIRST);
    for image in images {
        let next = format!("FROM {FIRST}\nENV PG_MAJOR={}\n", major + 1);
        match *image {
            SECOND => engine.build_image(
                &format!("FROM {FIRST}\nENV BUILD=b\nLABEL build=b\nCOPY note /note\n"),
                &[("note", "the second build\n")],
                SECOND,
            ),
            RUINS => {
                let file = format!(
                    "FROM {FIRST}\nCOPY start /start\n\
                     HEALTHCHECK --interval=500ms --timeout=10s --retries=5 CMD pg_isready -q -U postgres\n"
                );
                engine.build_image(&file, &[("start", RUIN)], RUINS);
            }
            NEXT_MAJOR => engine.build_image(&next, &[], NEXT_MAJOR),
            _ => {}
        }
    }
    let _ = std::fs::remove_file(tar);
    let _ = std::fs::remove_dir_all(root);
}

/// Puts the server, its clients and what they are linked with below `root`.
fn fill(root: &Path, major: u32, folder: &Path) {
    let share = PathBuf::from(format!("/usr/share/postgresql/{major}"));
    for tool in ["postgres", "initdb", "psql", "pg_isready", "pg_controldata"] {
        copy(&folder.join("bin").join(tool), root);
    }
    for library in ["plpgsql.so", "dict_snowball.so"] {
        copy(&folder.join("lib").join(library), root);
    }
    copy(&share, root);
    // Shared libraries at the places the loader looks for them.
    let linked = ["postgres", "psql"].iter().flat_map(|tool| libraries(&folder.join("bin").join(tool)));
    for library in linked.collect::<BTreeSet<_>>() {
        copy(&library, root);
    }
    let busybox = run(Command::new("sh").args(["-c", "command -v busybox"]));
    std::fs::create_dir_all(root.join("bin")).expect("folder made");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("busybox copied");
    for applet in ["sh", "ls", "cat", "sleep", "rm", "id"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link made");
    }
    std::fs::write(root.join("start"), START).expect("script written");
    std::fs::set_permissions(root.join("start"), Permissions::from_mode(0o755)).expect("mode set");
    std::fs::create_dir_all(root.join("etc")).expect("folder made");
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
    )
    .expect("users written");
    std::fs::write(root.join("etc/group"), "root:x:0:\npostgres:x:999:\n").expect("groups written");
    std::fs::create_dir_all(root.join("tmp")).expect("folder made");
    std::fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).expect("mode set");
    for owned in [&DATA[1..], "var/run/postgresql"] {
        std::fs::create_dir_all(root.join(owned)).expect("folder made");
        std::os::unix::fs::chown(root.join(owned), Some(999), Some(999)).expect("owner set");
    }
    std::fs::set_permissions(root.join(&DATA[1..]), Permissions::from_mode(0o700)).expect("mode set");
}

/// Copies a file or folder to the same path below `root`, links followed.
fn copy(path: &Path, root: &Path) {
    let target = root.join(path.strip_prefix("/").expect("an absolute path"));
    std::fs::create_dir_all(target.parent().expect("below the root")).expect("folder made");
    run(Command::new("cp").arg("-rL").arg(path).arg(&target));
}

/// What the loader would load for a program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    run(Command::new("ldd").arg(program))
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
        .collect()
}

//! A private Engine on which `deploy/compose.yaml` runs as on a machine of its
//! own, with an image made of the binaries under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::command::run;
use crate::docker::{Engine, IMAGE};
use crate::{binaries, failpoints};

const BINARIES: [&str; 3] = ["holdfast", "holdfast-agent", "holdfast-controller"];

/// The Engine, and where compose finds what the machine has elsewhere.
pub struct Contained {
    pub engine: Engine,
}

// === impl Contained ===

impl Contained {
    /// Starts one with the images that `deploy/Dockerfile` is made of. What it
    /// mounts is seen in containers, as on a machine that systemd started.
    pub fn start() -> Self {
        let engine = Engine::start();
        let data = engine.dir().join("data");
        run(Command::new("mount").arg("--bind").arg(&data).arg(&data));
        run(Command::new("mount").arg("--make-shared").arg(&data));
        std::fs::create_dir(engine.dir().join("run")).expect("made");
        make_base(&engine);
        Self { engine }
    }

    /// A shell in the workspace's folder for commands of the procedure.
    pub fn shell(&self, script: &str) -> Command {
        let dir = self.engine.dir();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(failpoints::root());
        command.env("DOCKER_HOST", self.engine.host()).env("DOCKER_BUILDKIT", "0");
        command.env("DOCKER_DATA_ROOT", dir.join("data")).env("DOCKER_SOCKET", dir.join("docker.sock"));
        command.env("HOLDFAST_RUN", dir.join("run")).env("COMPOSE_PROJECT_NAME", "holdfast");
        command
    }

    /// A folder for files of a test.
    pub fn dir(&self) -> &Path {
        self.engine.dir()
    }
}

/// The commands of a document: the text of each block marked `sh`, in order.
pub fn commands(document: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in document.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// `debian:bookworm-slim` has here what the binaries need of it and a shell,
/// `holdfast-build` the binaries where `deploy/build.Dockerfile` puts them.
fn make_base(engine: &Engine) {
    let context = TempDir::new_in(engine.dir()).expect("build context");
    let add = |from: &Path, to: PathBuf| {
        std::fs::create_dir_all(to.parent().expect("in a folder")).expect("made");
        std::fs::copy(from, to).expect("copied");
    };
    let (base, out) = (context.path().join("base"), context.path().join("out"));
    for name in BINARIES {
        let binary = binaries::path(name);
        for word in run(Command::new("ldd").arg(&binary)).split_whitespace().filter(|w| w.starts_with('/')) {
            add(Path::new(word), base.join(word.trim_start_matches('/')));
        }
        std::fs::create_dir_all(out.join("bin")).expect("made");
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(out.join("bin").join(name)).arg(binary));
    }
    add(Path::new("/etc/ssl/certs/ca-certificates.crt"), out.join("certs/ca-certificates.crt"));
    std::fs::create_dir_all(out.join("state/holdfast-controller")).expect("made");
    // As that image has it; the shell of the tests is in `/bin`.
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (image, lines) in [
        ("debian:bookworm-slim", format!("COPY base/ /\n{path}")),
        ("holdfast-build", "COPY out/ /out/".to_owned()),
    ] {
        std::fs::write(context.path().join("Dockerfile"), format!("FROM {IMAGE}\n{lines}\n"))
            .expect("written");
        let mut command = engine.command(["build", "-q", "--network", "none", "-t", image]);
        run(command.arg(context.path()).env("DOCKER_BUILDKIT", "0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_of_commands_are_taken() {
        let document = "text\n```sh\na\nb\n```\n```console\n$ c\n```\nmore\n```sh\nd\n```\n";
        assert_eq!(commands(document), ["a\nb\n", "d\n"]);
    }
}

//! The demo's application: a container that keeps writing to a volume, made
//! with the `docker` command as anybody would, from a static busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{CliError, Result};

/// Its names are its own, so that nothing of the machine's is touched.
pub(super) struct App {
    docker_host: String,
    image: String,
    pub(super) container: String,
    pub(super) volume: String,
}

const SCRIPT: &str = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); head -c 90000 /dev/urandom | od > /logs/access-$i.log; done; \
                      while true; do date >> /logs/current.log; sleep 0.2; done";

impl App {
    pub(super) fn new(docker_host: &str) -> Result<Self> {
        let id = std::process::id();
        let app = Self {
            docker_host: docker_host.to_owned(),
            image: format!("holdfast-demo-{id}:1"),
            container: format!("web-demo-{id}"),
            volume: format!("web_logs_demo_{id}"),
        };
        app.engine_version()?;
        Ok(app)
    }

    fn docker(&self, args: &[&str]) -> Result<String> {
        let output =
            Command::new("docker").args(["-H", &self.docker_host]).args(args).output().map_err(|error| {
                CliError::io("the `docker` command", &error)
                    .hint("install it (Debian: apt-get install docker.io)")
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(CliError::failed(format!("docker {}: {}", args.first().unwrap_or(&""), said.trim())))
    }

    pub(super) fn engine_version(&self) -> Result<String> {
        self.docker(&["version", "--format", "{{.Server.Version}}"])
    }

    /// Imports the image and runs the container until it has something to lose.
    pub(super) fn start(&self, dir: &Path) -> Result<()> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.ok_or_else(|| {
            CliError::failed("the demo's container needs a static busybox")
                .hint("apt-get install busybox-static")
        })?;
        let tar = dir.join("image.tar");
        write_image(Path::new(busybox), &tar)
            .map_err(|error| CliError::io(&tar.display().to_string(), &error))?;
        self.docker(&["import", "--change", "ENV PATH=/bin", &tar.display().to_string(), &self.image])?;
        let mount = format!("{}:/logs", self.volume);
        self.docker(&[
            "run",
            "-d",
            "--name",
            &self.container,
            "-v",
            &mount,
            &self.image,
            "sh",
            "-c",
            SCRIPT,
        ])?;
        let last = self.data()?.join("current.log");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !last.exists() {
            if std::time::Instant::now() > deadline {
                return Err(CliError::failed("the demo's container writes nothing"));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    fn data(&self) -> Result<PathBuf> {
        self.docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &self.volume]).map(PathBuf::from)
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.docker(&["pause", &self.container]).map(drop)
    }

    pub(super) fn copy_to(&self, reference: &Path) -> Result<()> {
        tool(Command::new("cp").arg("-a").arg(self.data()?).arg(reference)).map(drop)
    }

    pub(super) fn destroy(&self) -> Result<()> {
        self.docker(&["rm", "-f", &self.container])?;
        self.docker(&["volume", "rm", &self.volume]).map(drop)
    }

    /// Fails with the first difference; gives the name of the tool that found none.
    pub(super) fn compare_with(&self, reference: &Path) -> Result<&'static str> {
        let data = self.data()?;
        let rsync = Command::new("rsync")
            // A window of -1 compares times to the nanosecond; without -n it would copy.
            .args(["-naHAXS", "--checksum", "--modify-window=-1", "--delete", "--itemize-changes"])
            .arg(format!("{}/", reference.display()))
            .arg(format!("{}/", data.display()))
            .output();
        let (name, said) = match rsync {
            // One that fails says nothing of the trees, which is no "equal".
            Ok(output) if !output.status.success() => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(CliError::failed(format!("rsync could not compare: {why}")));
            }
            Ok(output) => ("rsync --checksum", String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(_) => ("diff -r", tool(Command::new("diff").arg("-r").arg(reference).arg(&data))?),
        };
        if said.trim().is_empty() {
            Ok(name)
        } else {
            Err(CliError::failed(format!("{name} found differences:")).more(said.lines().map(str::to_owned)))
        }
    }
}

impl Drop for App {
    /// Takes away all it made, also after Ctrl-C; what is gone already is no matter.
    fn drop(&mut self) {
        let _ = self.docker(&["rm", "-f", &self.container]);
        let _ = self.docker(&["volume", "rm", "-f", &self.volume]);
        let _ = self.docker(&["image", "rm", "-f", &self.image]);
    }
}

fn tool(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| CliError::io(&name, &error))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(CliError::failed(format!("{name} failed: {}", said.trim())))
    }
}

/// A root file system of busybox and its names.
fn write_image(busybox: &Path, tar: &Path) -> std::io::Result<()> {
    let mut image = tar::Builder::new(std::fs::File::create(tar)?);
    image.append_path_with_name(busybox, "bin/busybox")?;
    for applet in ["sh", "cat", "date", "head", "od", "sleep"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        image.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    image.into_inner()?.sync_all()
}

//! Keeping volumes mounted that the Engine mounts only while a container uses
//! them.
//!
//! Their data is an empty directory, or nothing at all, at other times, so
//! reading what the Engine reports would make an empty snapshot and call it a
//! success. A holder is a container that does nothing but use the volume; while
//! it runs, the agent works on the mount at its path on the host. It also keeps
//! the volume from being removed meanwhile.
//!
//! Order: the action that removes the container is on disk before the container is
//! created, and is completed after it is gone. So whatever dies in between, the next
//! recovery knows its name; for a container that was never created the action is done by
//! finding nothing to remove.
//!
//! The container's one program is assembled here, byte by byte, because it
//! must be static, runs without a shell or a library, and the agent itself need
//! not be a static program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::ids::{InstanceId, JobId};
use tokio::sync::oneshot;

use crate::engine::{Engine, EngineError, HolderSpec, Volume, VolumeName};
use crate::failpoint::failpoint;
use crate::journal::{ActionId, CleanupAction, Journal, JournalError};
use crate::mountinfo;

const REPOSITORY: &str = "holdfast-holder";
/// Raised whenever the program or the image around it changes.
const TAG: &str = "1";
const PROGRAM: &str = "hold";
const TARGET: &str = "/volume";

/// Makes holders for one agent on one Engine.
#[derive(Debug, Clone)]
pub struct Holders {
    engine: Engine,
    journal: Arc<Journal>,
    instance: InstanceId,
}

/// A volume that is mounted until this is released. Dropping it removes the
/// container too, but says nothing of failure; the journal lists its removal either way.
#[derive(Debug)]
pub struct HolderGuard {
    held: Option<Held>,
    path: PathBuf,
}

#[derive(Debug)]
struct Held {
    holders: Holders,
    name: String,
    action: ActionId,
}

#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error("volume `{volume}` cannot be held mounted")]
    Engine {
        volume: VolumeName,
        #[source]
        source: EngineError,
    },
    #[error("the container `{container}` that held a volume mounted cannot be removed")]
    Remove {
        container: String,
        #[source]
        source: EngineError,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "volume `{volume}` is mounted by the Engine at {}, but that is not visible to this agent: run it on the host itself, or mount the Engine's data root into it at the same path with propagation rslave",
        .path.display()
    )]
    Invisible { volume: VolumeName, path: PathBuf },
    #[error(
        "volume `{volume}` has driver `{driver}`, and its data at {} cannot be compared with what a container sees there: this agent runs in a container without the host's processes; make it anew with `--pid host`, in compose.yaml `pid: host`",
        .path.display()
    )]
    NotCompared { volume: VolumeName, driver: String, path: PathBuf },
    #[error("no holder program is known for the processor architecture `{0}`")]
    Architecture(&'static str),
}

impl Holders {
    pub fn new(engine: Engine, journal: Arc<Journal>, instance: InstanceId) -> Self {
        Self { engine, journal, instance }
    }

    /// Mounts a volume and keeps it mounted. A caller that is gone before the
    /// answer leaves nothing behind: the work is done in a task that removes
    /// what nobody waits for.
    ///
    /// # Errors
    /// When the volume cannot be mounted (the driver's words are in the
    /// source), or its mount is not visible here.
    pub async fn hold(&self, volume: &Volume, name: &VolumeName) -> Result<HolderGuard, HolderError> {
        let (sender, receiver) = oneshot::channel();
        let (holders, driver, name) = (self.clone(), volume.driver.clone(), name.clone());
        tokio::spawn(async move {
            // An unwanted guard removes its container when it is dropped here.
            drop(sender.send(holders.hold_now(&name, &driver).await));
        });
        receiver.await.expect("the task answers unless it panics")
    }

    /// Removes holders of this agent that no action names: an Engine that was
    /// restored from a copy may have some.
    ///
    /// # Errors
    /// When the Engine cannot be asked or cannot remove one.
    pub async fn sweep(&self) -> Result<usize, EngineError> {
        let recorded: Vec<String> = self
            .journal
            .actions()
            .into_iter()
            .filter_map(|(_, action)| match action {
                CleanupAction::RemoveContainer { name } => Some(name),
                _ => None,
            })
            .collect();
        let mut removed = 0;
        for (id, name) in self.engine.list_holders(&self.instance.to_string()).await? {
            if !recorded.contains(&name) {
                self.engine.remove_container(&id).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn hold_now(self, volume: &VolumeName, driver: &str) -> Result<HolderGuard, HolderError> {
        self.provide_image(volume).await?;
        // Only the letters of a fresh random id: the name is nobody else's.
        let name = format!("holdfast-holder-{}", JobId::generate().to_string().to_lowercase());
        // In the journal by its name before it is asked for: dying before the answer,
        // nobody would know its id.
        let action = self.record(&name).await?;
        let mut guard = HolderGuard {
            held: Some(Held { holders: self.clone(), name: name.clone(), action }),
            path: PathBuf::new(),
        };
        match self.start(&name, volume, driver).await {
            Ok(path) => {
                guard.path = path;
                Ok(guard)
            }
            Err(error) => {
                if let Err(cleanup) = guard.release().await {
                    tracing::warn!(error = %cleanup, container.name = name, "a holder container stays behind; the journal lists its removal");
                }
                Err(error)
            }
        }
    }

    async fn start(&self, name: &str, volume: &VolumeName, driver: &str) -> Result<PathBuf, HolderError> {
        let failed = |source| HolderError::Engine { volume: volume.clone(), source };
        let (image, instance) = (format!("{REPOSITORY}:{TAG}"), self.instance.to_string());
        let spec = HolderSpec { name, image: &image, instance: &instance, volume, target: TARGET };
        let id = self.engine.create_holder(&spec).await.map_err(failed)?;
        failpoint("agent.holder.created");
        self.engine.start_container(&id).await.map_err(failed)?;
        let container = self.engine.inspect_container(&id).await.map_err(failed)?;
        let mount = container.mounts.iter().find(|mount| mount.target == TARGET);
        let path = PathBuf::from(mount.map(|mount| mount.host_path.clone()).unwrap_or_default());
        let (volume, driver) = (volume.clone(), driver.to_owned());
        match compare(&path, container.pid) {
            View::Same => Ok(path),
            // The local driver mounts there, so a mount is the volume's.
            View::NotCompared if driver == "local" && mountinfo::is_mount_point(&path) => Ok(path),
            View::NotCompared if driver != "local" => Err(HolderError::NotCompared { volume, driver, path }),
            View::Different | View::NotCompared => Err(HolderError::Invisible { volume, path }),
        }
    }

    async fn provide_image(&self, volume: &VolumeName) -> Result<(), HolderError> {
        let failed = |source| HolderError::Engine { volume: volume.clone(), source };
        let image = format!("{REPOSITORY}:{TAG}");
        if self.engine.has_image(&image).await.map_err(failed)? {
            return Ok(());
        }
        let root = image_root()?;
        let command = format!("ENTRYPOINT [\"/{PROGRAM}\"]");
        self.engine.import_image(REPOSITORY, TAG, root, &[&command]).await.map_err(failed)
    }

    async fn record(&self, name: &str) -> Result<ActionId, JournalError> {
        let (journal, name) = (self.journal.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || journal.record(CleanupAction::RemoveContainer { name }))
            .await
            .expect("recording an action does not panic")
    }
}

impl Held {
    async fn remove(self) -> Result<(), HolderError> {
        let Self { holders, name, action } = self;
        // By its name, and one that is gone is success: a guard that failed half way and
        // the recovery worker may both come here.
        let removed = holders.engine.remove_container(&name).await;
        removed.map_err(|source| HolderError::Remove { container: name, source })?;
        let journal = holders.journal.clone();
        tokio::task::spawn_blocking(move || journal.complete(action))
            .await
            .expect("completing does not panic")?;
        Ok(())
    }
}

impl HolderGuard {
    /// Where the volume is mounted on the host while this is held.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the container and completes the action. Finishes also when the
    /// caller goes away.
    ///
    /// # Errors
    /// When the container cannot be removed; the journal lists its removal still.
    pub async fn release(mut self) -> Result<(), HolderError> {
        let Some(held) = self.held.take() else { return Ok(()) };
        tokio::spawn(held.remove()).await.expect("removing a holder does not panic")
    }
}

impl Drop for HolderGuard {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and its next start reads the journal.
        let (Some(held), Ok(runtime)) = (self.held.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = held.remove().await {
                tracing::warn!(%error, "a holder container stays behind; the journal lists its removal");
            }
        });
    }
}

/// What this process sees at the path where the Engine mounted a volume.
enum View {
    /// The directory that the holder sees.
    Same,
    /// Another one, or none.
    Different,
    /// The holder's view cannot be looked at: its process is not seen here.
    NotCompared,
}

fn compare(path: &Path, holder_pid: i64) -> View {
    let Ok(here) = rustix::fs::stat(path) else { return View::Different };
    // The same device and inode are the same directory, whatever mounts lie between.
    let inside = PathBuf::from(format!("/proc/{holder_pid}/root{TARGET}"));
    match rustix::fs::stat(&inside) {
        Ok(there) if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) => View::Same,
        Ok(_) => View::Different,
        Err(_) => View::NotCompared,
    }
}

fn image_root() -> Result<Bytes, HolderError> {
    let architecture = std::env::consts::ARCH;
    let program = program(architecture).ok_or(HolderError::Architecture(architecture))?;
    let mut root = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    let mut directory = tar::Header::new_ustar();
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_size(0);
    directory.set_mode(0o755);
    let written = root
        .append_data(&mut header, PROGRAM, program.as_slice())
        .and_then(|()| root.append_data(&mut directory, &TARGET[1..], std::io::empty()))
        .and_then(|()| root.into_inner());
    Ok(written.expect("writing to memory does not fail").into())
}

/// A static ELF program that sleeps until it is killed.
fn program(architecture: &str) -> Option<Vec<u8>> {
    /// Where the one segment is loaded; any page above the lowest ones.
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, code): (u16, &[u8]) = match architecture {
        "x86_64" => (
            62,
            &[
                0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
                0x0f, 0x05, //                   syscall
                0xeb, 0xf7, //                   jmp to the mov
            ],
        ),
        // There is no pause there: ppoll on nothing, without a timeout.
        "aarch64" => (
            183,
            &[
                0x00, 0x00, 0x80, 0xd2, // mov x0, 0 (no descriptors)
                0x01, 0x00, 0x80, 0xd2, // mov x1, 0 (how many)
                0x02, 0x00, 0x80, 0xd2, // mov x2, 0 (no timeout)
                0x03, 0x00, 0x80, 0xd2, // mov x3, 0 (no signal mask)
                0x04, 0x00, 0x80, 0xd2, // mov x4, 0 (its size)
                0x28, 0x09, 0x80, 0xd2, // mov x8, 73 (ppoll)
                0x01, 0x00, 0x00, 0xd4, // svc 0
                0xf9, 0xff, 0xff, 0x17, // b to the first mov
            ],
        ),
        _ => return None,
    };
    let size = HEADERS + code.len() as u64;
    let mut elf = Vec::new();
    // File header: 64 bit, little endian, version 1, System V.
    elf.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend(2u16.to_le_bytes()); // executable
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    elf.extend((BASE + HEADERS).to_le_bytes()); // entry: right after the headers
    elf.extend(64u64.to_le_bytes()); // program header follows this one
    elf.extend(0u64.to_le_bytes()); // no sections
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes()); // sizes and counts of the headers
    }
    // Program header: load the whole file, read and execute.
    elf.extend(1u32.to_le_bytes());
    elf.extend(5u32.to_le_bytes());
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    Some(elf)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_runs_until_it_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hold");
        let Some(program) = program(std::env::consts::ARCH) else { return };
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().expect("the kernel takes it for a program");
        // It has to be asleep in its call, and to be there still when killed.
        let stat = PathBuf::from(format!("/proc/{}/stat", child.id()));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !fs::read_to_string(&stat).unwrap().contains("(hold) S") {
            assert!(std::time::Instant::now() < deadline, "it never slept");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn both_architectures_have_a_well_formed_program() {
        for (architecture, length) in [("x86_64", 129), ("aarch64", 152)] {
            let program = program(architecture).unwrap();
            assert_eq!((program.len(), &program[..4]), (length, b"\x7fELF".as_slice()), "{architecture}");
        }
        assert!(program("vax").is_none());
    }
}

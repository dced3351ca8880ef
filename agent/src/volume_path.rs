//! Where a volume's data is, for as long as somebody works on it.
//!
//! Volumes of the local driver are directories at the path the Engine reports.
//! Those with a device or a filesystem type are mounted there only while a
//! container uses them, and a plugin's may be anywhere or nowhere: these are
//! reached through a holder, even where some container uses them just now,
//! because it may stop at any moment. What cannot be reached is refused by name;
//! nothing here ever answers with an empty directory that is not the volume.
//!
//! The root directory is held open meanwhile, which is also what tells the
//! volume from another one made under its name: no new directory can have its
//! inode. The Engine's time of creation would not do: on API 1.41 it is the time
//! of the last change in the root directory, and moves as containers write.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::engine::{Engine, EngineError, Volume, VolumeName};
use crate::holder::{HolderError, HolderGuard, Holders};

/// As a directory, and through no link.
const ROOT_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a volume's data is got at, from its settings alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReachPlan {
    /// At the path the Engine reports.
    Direct,
    /// Through a holder, for this reason.
    Holder(String),
    /// Not at all, for this reason.
    Refused(String),
}

/// A volume whose data is at [`path`](Self::path) until this is released.
#[derive(Debug)]
pub(crate) struct ReachedVolume {
    volume: Volume,
    name: VolumeName,
    path: PathBuf,
    root: OwnedFd,
    holder: Option<HolderGuard>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Holder(#[from] HolderError),
    #[error("the data of volume `{volume}` cannot be reached: {reason}")]
    Refused { volume: VolumeName, reason: String },
    #[error("the data of volume `{volume}` at {} cannot be opened", .path.display())]
    Open {
        volume: VolumeName,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("volume `{volume}` was removed and recreated under its name meanwhile")]
    Replaced { volume: VolumeName },
}

/// Decides how to get at a volume's data.
pub(crate) fn plan_reach(volume: &Volume) -> ReachPlan {
    if volume.driver != "local" {
        return ReachPlan::Holder(format!(
            "driver `{}` may mount it only while a container uses it",
            volume.driver
        ));
    }
    let option = |key: &str| volume.options.get(key).filter(|value| !value.is_empty());
    if option("type").is_some_and(|kind| kind == "tmpfs" || kind == "ramfs") {
        return ReachPlan::Refused("it lives in memory and is gone when its last container stops".to_owned());
    }
    // `size` and `o` alone set a quota and mount nothing.
    match (option("type"), option("device")) {
        (None, None) => ReachPlan::Direct,
        (kind, _) => {
            let kind = kind.map_or("its device", String::as_str);
            ReachPlan::Holder(format!("the Engine mounts it (`{kind}`) only while a container uses it"))
        }
    }
}

/// Gets at a volume's data and keeps it reachable.
///
/// # Errors
/// `Refused` with the reason when the data cannot be reached, and every other
/// failure on the way. Never an empty directory in the volume's place.
pub(crate) async fn resolve(
    engine: &Engine,
    holders: &Holders,
    name: &VolumeName,
) -> Result<ReachedVolume, ReachError> {
    let volume = engine.inspect_volume(name).await?;
    let (path, holder) = match plan_reach(&volume) {
        ReachPlan::Refused(reason) => return Err(ReachError::Refused { volume: name.clone(), reason }),
        ReachPlan::Direct => (volume.mountpoint.clone(), None),
        ReachPlan::Holder(_) => {
            let guard = holders.hold(&volume, name).await?;
            (guard.path().to_owned(), Some(guard))
        }
    };
    match open_root(name, &path) {
        Ok(root) => Ok(ReachedVolume { volume, name: name.clone(), path, root, holder }),
        Err(error) => {
            if let Err(cleanup) = release(holder).await {
                tracing::warn!(error = %cleanup, volume.name = %name, "a holder container stays behind");
            }
            Err(error)
        }
    }
}

impl ReachedVolume {
    pub(crate) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Where the data is on this host.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is mounted from elsewhere, so that the Engine does not remove
    /// its content with it.
    pub(crate) fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Opens the root of the data once more, as a directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open_root(&self) -> Result<OwnedFd, ReachError> {
        let failed = |error: Errno| self.failed(error);
        rustix::fs::openat(&self.root, ".", ROOT_FLAGS, Mode::empty()).map_err(failed)
    }

    /// Asks whether the name still means the volume that was opened.
    ///
    /// # Errors
    /// `Replaced` when it does not; `NotFound` of the Engine when it is gone.
    pub(crate) async fn check_identity(&self, engine: &Engine) -> Result<(), ReachError> {
        let volume = engine.inspect_volume(&self.name).await?;
        let opened = rustix::fs::fstat(&self.root).map_err(|error| self.failed(error))?;
        let same_place = self.holder.is_some() || volume.mountpoint == self.volume.mountpoint;
        match rustix::fs::lstat(&self.path) {
            Ok(found) if same_place && (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino) => {
                Ok(())
            }
            Ok(_) | Err(Errno::NOENT) => Err(ReachError::Replaced { volume: self.name.clone() }),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Lets go of the volume.
    ///
    /// # Errors
    /// When a holder cannot be removed; the journal lists its removal then.
    pub(crate) async fn release(self) -> Result<(), HolderError> {
        // Before the holder goes: an open directory keeps its mount busy.
        drop(self.root);
        release(self.holder).await
    }

    fn failed(&self, error: Errno) -> ReachError {
        ReachError::Open { volume: self.name.clone(), path: self.path.clone(), source: error.into() }
    }
}

async fn release(holder: Option<HolderGuard>) -> Result<(), HolderError> {
    match holder {
        Some(guard) => guard.release().await,
        None => Ok(()),
    }
}

fn open_root(name: &VolumeName, path: &Path) -> Result<OwnedFd, ReachError> {
    rustix::fs::open(path, ROOT_FLAGS, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => ReachError::Refused {
            volume: name.clone(),
            reason: format!(
                "{} does not exist here; where the agent runs in a container, the Engine's data root must be mounted into it at the same path",
                path.display()
            ),
        },
        other => ReachError::Open { volume: name.clone(), path: path.to_owned(), source: other.into() },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use holdfast_proto::ids::InstanceId;

    use super::*;
    use crate::engine::NewVolume;
    use crate::engine::testing::Scene;
    use crate::journal::Journal;

    fn volume(driver: &str, options: &[(&str, &str)]) -> Volume {
        Volume {
            name: "v".to_owned(),
            driver: driver.to_owned(),
            mountpoint: "/x".into(),
            labels: BTreeMap::new(),
            options: options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            scope: "local".to_owned(),
            created_at: String::new(),
        }
    }

    #[test]
    fn only_plain_directories_are_reached_at_the_reported_path() {
        let plan = |driver, options| plan_reach(&volume(driver, options));
        assert_eq!(plan("local", &[]), ReachPlan::Direct);
        assert_eq!(plan("local", &[("o", "size=10g")]), ReachPlan::Direct);
        for options in [
            &[("type", "nfs"), ("o", "addr=10.0.0.1"), ("device", ":/export")][..],
            &[("type", "cifs"), ("device", "//s/share")],
            &[("type", "none"), ("o", "bind"), ("device", "/srv")],
            &[("device", "/dev/sdb1")],
        ] {
            assert!(matches!(plan("local", options), ReachPlan::Holder(_)), "{options:?}");
        }
        assert!(
            matches!(plan("vieux/sshfs:latest", &[]), ReachPlan::Holder(reason) if reason.contains("vieux/sshfs"))
        );
        assert!(matches!(plan("local", &[("type", "tmpfs"), ("device", "tmpfs")]), ReachPlan::Refused(_)));
    }

    struct Bench {
        scene: Scene,
        journal: Arc<Journal>,
        holders: Holders,
        _state: tempfile::TempDir,
    }

    async fn bench() -> Option<Bench> {
        let scene = Scene::open().await?;
        let state = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(state.path(), Duration::ZERO).unwrap());
        let holders = Holders::new(scene.engine.clone(), journal.clone(), InstanceId::generate());
        Some(Bench { scene, journal, holders, _state: state })
    }

    async fn bound_volume(scene: &Scene, directory: &Path) -> VolumeName {
        let name = scene.volume_name("bound");
        let options = [("type", "none"), ("o", "bind"), ("device", directory.to_str().unwrap())];
        let wanted = NewVolume {
            name: name.clone(),
            driver: "local".to_owned(),
            options: options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            labels: BTreeMap::from([(scene.label(), "1".to_owned())]),
        };
        scene.engine.create_volume(&wanted).await.unwrap();
        name
    }

    #[tokio::test]
    async fn d06_a_volume_mounted_only_in_use_is_reached_through_a_holder() {
        let Some(bench) = bench().await else { return };
        let engine = &bench.scene.engine;
        let directory = bench.scene.directory("device");
        fs::write(directory.join("precious"), "data").unwrap();
        let name = bound_volume(&bench.scene, &directory).await;
        let idle = engine.inspect_volume(&name).await.unwrap().mountpoint;
        assert_eq!(fs::read_dir(&idle).unwrap().count(), 0, "the Engine shows an empty directory");

        let reached = resolve(engine, &bench.holders, &name).await.unwrap();
        assert_eq!(fs::read_to_string(reached.path().join("precious")).unwrap(), "data");
        let root = reached.open_root().unwrap();
        assert!(rustix::fs::statat(&root, "precious", rustix::fs::AtFlags::empty()).is_ok());
        fs::write(reached.path().join("restored"), "too").unwrap();
        assert_eq!(fs::read_to_string(directory.join("restored")).unwrap(), "too", "it can be restored into");
        assert!(engine.volume_users(&name).await.unwrap().is_empty(), "a holder is nobody's container");
        assert_eq!(bench.journal.actions().len(), 1);
        reached.check_identity(engine).await.unwrap();
        assert_eq!(bench.holders.sweep().await.unwrap(), 0, "one that the journal lists is not swept");
        assert!(engine.remove_volume(&name).await.is_err(), "it cannot be removed meanwhile");

        drop(root);
        reached.release().await.unwrap();
        assert!(bench.journal.is_empty());
        assert_eq!(fs::read_dir(&idle).unwrap().count(), 0);
        engine.remove_volume(&name).await.unwrap();
    }

    #[tokio::test]
    async fn a_volume_whose_device_is_gone_is_refused_and_leaves_no_holder() {
        let Some(bench) = bench().await else { return };
        let name = bound_volume(&bench.scene, Path::new("/nonexistent/device")).await;
        let error = resolve(&bench.scene.engine, &bench.holders, &name).await.unwrap_err();
        let ReachError::Holder(HolderError::Engine { source, .. }) = &error else { panic!("{error}") };
        assert!(source.to_string().contains("/nonexistent/device"), "{source}");
        assert!(bench.journal.is_empty());
        bench.scene.engine.remove_volume(&name).await.expect("no container uses it");
    }

    #[tokio::test]
    async fn a_holder_nobody_owes_is_swept_and_a_dropped_one_goes_by_itself() {
        let Some(bench) = bench().await else { return };
        let engine = &bench.scene.engine;
        let name = bound_volume(&bench.scene, &bench.scene.directory("device")).await;
        let reached = resolve(engine, &bench.holders, &name).await.unwrap();
        for (id, _) in bench.journal.actions() {
            bench.journal.complete(id).unwrap();
        }
        assert_eq!(bench.holders.sweep().await.unwrap(), 1);
        reached.release().await.expect("what is gone is released");

        drop(resolve(engine, &bench.holders, &name).await.unwrap());
        let gone = tokio::time::timeout(Duration::from_secs(60), async {
            while !bench.journal.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        gone.await.expect("the container is removed");
        engine.remove_volume(&name).await.unwrap();
    }

    #[tokio::test]
    async fn d05_a_volume_recreated_under_its_name_is_noticed() {
        let Some(bench) = bench().await else { return };
        let engine = &bench.scene.engine;
        let wanted = NewVolume {
            name: bench.scene.volume_name("v"),
            driver: "local".to_owned(),
            options: BTreeMap::new(),
            labels: BTreeMap::from([(bench.scene.label(), "1".to_owned())]),
        };
        engine.create_volume(&wanted).await.unwrap();
        let reached = resolve(engine, &bench.holders, &wanted.name).await.unwrap();
        // Written to, a volume is still itself, whatever time the Engine reports.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        fs::write(reached.path().join("new"), "x").unwrap();
        reached.check_identity(engine).await.unwrap();
        engine.remove_volume(&wanted.name).await.unwrap();
        engine.create_volume(&wanted).await.unwrap();
        let error = reached.check_identity(engine).await.unwrap_err();
        assert!(matches!(error, ReachError::Replaced { .. }), "{error}");
        engine.remove_volume(&wanted.name).await.unwrap();
        let gone = reached.check_identity(engine).await.unwrap_err();
        assert!(matches!(gone, ReachError::Engine(error) if error.is_not_found()));
    }
}

//! The writable data of a container: what is snapshotted, cloned and put back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_archive::text::causes;
use holdfast_proto::ids::JobId;

use crate::allow::Allow;
use crate::clone::{CloneError, Means, Room, room};
use crate::engine::{Mount, MountKind, Volume};
use crate::quiesce::Place;
use crate::snapshot::SourceName;
use crate::upgrade::guards::Loss;
use crate::upgrade::guards::binds::{self, Bind};
use crate::upgrade::guards::volumes::short;
use crate::upgrade::record::SourceKind;
use crate::volume_path::{ReachPlan, plan_reach};

use super::PlanError;
use super::refusals::Refusal;

/// Writable data of the container, and how it is cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSource {
    pub name: SourceName,
    /// Where it is on this host.
    pub path: PathBuf,
    /// Where the container has it.
    pub target: String,
    pub size_bytes: u64,
    pub free_bytes: u64,
    pub means: Means,
}

impl PlannedSource {
    /// Where containers would write to it.
    pub fn place(&self) -> Place {
        match &self.name {
            SourceName::Volume(name) => Place::Volume { name: name.clone(), path: self.path.clone() },
            SourceName::Directory(path) => Place::Directory { path: path.clone() },
        }
    }

    pub fn kind(&self) -> SourceKind {
        match self.name {
            SourceName::Volume(_) => SourceKind::Volume,
            SourceName::Directory(_) => SourceKind::Directory,
        }
    }
}

/// What the mounts of a container come to.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) sources: Vec<PlannedSource>,
    pub(super) losses: Vec<Loss>,
    pub(super) refusals: Vec<Refusal>,
}

/// A source before anybody looked whether it can be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    name: SourceName,
    path: PathBuf,
    target: String,
}

/// Finds the sources among a container's mounts, looks at each and measures
/// it. `volumes` are those of the host, by name.
///
/// # Errors
/// When a source's tree cannot be walked.
pub(super) async fn find(
    mounts: &[Mount],
    volumes: &BTreeMap<String, Volume>,
    allow: &Allow,
    data_root: &Path,
) -> Result<Sources, PlanError> {
    let (mounts, volumes, allow) = (mounts.to_vec(), volumes.clone(), allow.clone());
    let data_root = data_root.to_owned();
    let stop = StopOnDrop::default();
    let stopped = stop.0.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let (candidates, mut losses) = choose(&mounts, &volumes, &allow, &data_root);
        let (mut sources, mut rooms) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match room(&candidate.path, JobId::generate(), &stopped) {
                Ok(room) => {
                    rooms.push((filesystem(&candidate.path), candidate.name.to_string(), room));
                    sources.push(candidate.measured(&room));
                }
                Err(error) if is_of_the_place(&error) => losses.push(unprotected(&candidate, &error)),
                Err(error) => {
                    return Err(PlanError::Measure { name: candidate.name.to_string(), source: error });
                }
            }
        }
        Ok(Sources { sources, losses, refusals: too_full(rooms) })
    });
    looked.await.expect("looking at sources does not panic")
}

/// Ends a walk nobody waits for.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether data cannot be cloned where it is, whatever room there is.
fn is_of_the_place(error: &CloneError) -> bool {
    matches!(
        error,
        CloneError::NotADirectory { .. }
            | CloneError::MountPoint { .. }
            | CloneError::MountInside { .. }
            | CloneError::NoExchange { .. }
            | CloneError::Immutable { .. }
            | CloneError::Quota { .. }
    )
}

fn unprotected(candidate: &Candidate, error: &CloneError) -> Loss {
    let (kind, named) = match &candidate.name {
        SourceName::Volume(name) => ("unprotected-volume", format!("volume `{}`", short(name))),
        SourceName::Directory(path) => ("bind", format!("`{}`", path.display())),
    };
    let text = format!(
        "{named} cannot be cloned, so a rollback leaves what the new version wrote there: {}",
        causes(error)
    );
    Loss::new(format!("{kind}:{}", candidate.name), text)
}

impl Candidate {
    fn measured(self, room: &Room) -> PlannedSource {
        let Self { name, path, target } = self;
        let (size_bytes, free_bytes, means) = (room.size_bytes, room.free_bytes, room.means);
        PlannedSource { name, path, target, size_bytes, free_bytes, means }
    }
}

/// The device number of a place; what cannot be looked at was refused before.
fn filesystem(path: &Path) -> u64 {
    // 0 where it cannot be asked: such places are added up, which asks for more room, not less.
    rustix::fs::stat(path).map_or(0, |found| found.st_dev)
}

/// Clones of one upgrade share what their filesystem has free.
fn too_full(rooms: Vec<(u64, String, Room)>) -> Vec<Refusal> {
    let mut filesystems: BTreeMap<u64, (Vec<String>, Room)> = BTreeMap::new();
    for (device, name, room) in rooms {
        match filesystems.get_mut(&device) {
            None => drop(filesystems.insert(device, (vec![name], room))),
            Some((names, sum)) => {
                names.push(name);
                sum.needed_bytes = sum.needed_bytes.saturating_add(room.needed_bytes);
                sum.needed_inodes = sum.needed_inodes.saturating_add(room.needed_inodes);
                // They were measured one after the other: the least that was seen counts.
                sum.free_bytes = sum.free_bytes.min(room.free_bytes);
                sum.free_inodes = sum.free_inodes.min(room.free_inodes);
            }
        }
    }
    let refused = filesystems.into_values().filter_map(|(names, room)| {
        let why = room.refusal()?;
        let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", short(name))).collect();
        let text = format!("there is no room to clone {}: {why}; make room there", quoted.join(" and "));
        Some(Refusal::new("no-room", names.join(" "), text))
    });
    refused.collect()
}

/// The writable data among mounts, without what lies inside other data of the
/// same container, and what of it nobody could put back. Blocks.
fn choose(
    mounts: &[Mount],
    volumes: &BTreeMap<String, Volume>,
    allow: &Allow,
    data_root: &Path,
) -> (Vec<Candidate>, Vec<Loss>) {
    let (mut candidates, mut losses): (Vec<Candidate>, Vec<Loss>) = (Vec::new(), Vec::new());
    for mount in mounts.iter().filter(|mount| !mount.read_only) {
        let found = match mount.kind {
            MountKind::Volume => volume(mount, volumes.get(&mount.source)),
            MountKind::Bind => match binds::judge(Path::new(&mount.host_path), allow, data_root) {
                Bind::NoData => continue,
                Bind::Source(real) => Ok((SourceName::Directory(real.clone()), real)),
                Bind::Unprotected(text) => Err(Loss::new(format!("bind:{}", mount.host_path), text)),
            },
            MountKind::Tmpfs | MountKind::Other => continue,
        };
        match found {
            Ok((name, path)) => candidates.push(Candidate { name, path, target: mount.target.clone() }),
            Err(loss) => losses.push(loss),
        }
    }
    // The outer one first, and of two names for one place the volume.
    let is_directory = |one: &Candidate| matches!(one.name, SourceName::Directory(_));
    candidates.sort_by(|left, right| {
        (&left.path, is_directory(left), &left.target).cmp(&(&right.path, is_directory(right), &right.target))
    });
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        // What lies inside another source is snapshotted and cloned with it.
        if !kept.iter().any(|outer| candidate.path.starts_with(&outer.path)) {
            kept.push(candidate);
        }
    }
    // By target: the plan, and its fingerprint, must not depend on the Engine's order.
    kept.sort_by(|left, right| left.target.cmp(&right.target));
    losses.dedup();
    (kept, losses)
}

/// Where a volume's data is, if it is there whether a container runs or not.
fn volume(mount: &Mount, volume: Option<&Volume>) -> Result<(SourceName, PathBuf), Loss> {
    let name = &mount.source;
    let why = match volume.map(|volume| (volume, plan_reach(volume))) {
        Some((volume, ReachPlan::Direct)) => {
            return Ok((SourceName::Volume(name.clone()), volume.mountpoint.clone()));
        }
        Some((_, ReachPlan::Holder(why) | ReachPlan::Refused(why))) => why,
        None => "the Engine does not list it".to_owned(),
    };
    let text = format!(
        "volume `{}` at {} cannot be cloned, so a rollback leaves what the new version wrote there: {why}",
        short(name),
        mount.target
    );
    Err(Loss::new(format!("unprotected-volume:{name}"), text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::engine::fake;

    fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
        fake::mount(kind, source, source, target)
    }

    /// Name, path and options.
    type Made<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    fn volumes(all: &[Made<'_>]) -> BTreeMap<String, Volume> {
        let volume = |&(name, path, options): &Made<'_>| Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: path.into(),
            labels: BTreeMap::new(),
            options: options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            scope: "local".to_owned(),
            created_at: String::new(),
        };
        all.iter().map(|one| (one.0.to_owned(), volume(one))).collect()
    }

    #[test]
    fn each_place_is_a_source_once_under_its_outermost_name() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name).display().to_string();
        fs::create_dir_all(at("srv/inner")).unwrap();
        fs::create_dir_all(at("v/_data/sub")).unwrap();
        let allow = Allow::parse([base.to_str().unwrap()]).unwrap();
        let volumes =
            volumes(&[("v", &at("v/_data"), &[]), ("nfs", "/x", &[("type", "nfs"), ("device", ":/export")])]);
        let mounts = [
            mount(MountKind::Volume, "v", "/data"),
            mount(MountKind::Volume, "v", "/again"),
            mount(MountKind::Volume, "nfs", "/nfs"),
            mount(MountKind::Bind, &at("v/_data/sub"), "/bound"),
            mount(MountKind::Bind, &at("v/_data"), "/whole"),
            mount(MountKind::Bind, &at("srv/inner"), "/inner"),
            mount(MountKind::Bind, &at("srv"), "/srv"),
            mount(MountKind::Bind, "/etc", "/etc-of-host"),
            Mount { read_only: true, ..mount(MountKind::Bind, "/usr", "/usr") },
            mount(MountKind::Tmpfs, "", "/run"),
        ];
        let (sources, losses) = choose(&mounts, &volumes, &allow, Path::new("/var/lib/docker"));
        let found: Vec<_> = sources.iter().map(|one| (one.name.to_string(), one.target.as_str())).collect();
        assert_eq!(found, [("v".to_owned(), "/again"), (at("srv"), "/srv")]);
        let lost: Vec<_> = losses.iter().map(|loss| loss.name.as_str()).collect();
        assert_eq!(lost, ["unprotected-volume:nfs", "bind:/etc"]);
    }

    #[test]
    fn clones_on_one_filesystem_need_room_together() {
        let room = |needed_bytes| Room {
            means: Means::Copy,
            size_bytes: needed_bytes,
            needed_bytes,
            free_bytes: 10 << 30,
            needed_inodes: 1,
            free_inodes: None,
        };
        let full = |sizes: &[(u64, u64)]| {
            let rooms = sizes.iter().map(|&(device, size)| (device, format!("v{size}"), room(size)));
            too_full(rooms.collect()).len()
        };
        assert_eq!(full(&[(1, 6 << 30)]), 0);
        assert_eq!(full(&[(1, 6 << 30), (1, 7 << 30)]), 1);
        assert_eq!(full(&[(1, 6 << 30), (2, 7 << 30)]), 0);
        assert_eq!(full(&[(1, 11 << 30), (2, 11 << 30)]), 2);
    }
}

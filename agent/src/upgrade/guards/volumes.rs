//! Volumes of the new image that would come between the container and its old
//! data. Pure.
//!
//! What is mounted stays mounted where it was. But an image that declares a
//! volume above or below that place gets a fresh, empty one there, and its
//! program looks for its data in it; so does one that moved its declaration.
//! The container would come up well, with nothing in it.

use std::path::{Path, PathBuf};

use crate::engine::{Mount, MountKind};

use super::Loss;
use crate::upgrade::image::ImageFacts;

/// Compares what is mounted with what the images declare. `written` are the
/// files in the container's writable layer.
pub(crate) fn find(mounts: &[Mount], old: &ImageFacts, new: &ImageFacts, written: &[PathBuf]) -> Vec<Loss> {
    let mounted = |path: &str| mounts.iter().any(|mount| Path::new(&mount.target) == Path::new(path));
    let fresh: Vec<&str> = new.volumes.iter().map(String::as_str).filter(|path| !mounted(path)).collect();
    let mut losses = Vec::new();
    for mount in mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Volume | MountKind::Bind)) {
        if let Some(text) = covered(mount, &fresh).or_else(|| moved(mount, old, new, &fresh)) {
            losses.push(Loss::new(format!("volume:{}", mount.target), text));
        }
    }
    for &path in &fresh {
        if let Some(first) = written.iter().find(|file| file.starts_with(path)) {
            let text = format!(
                "the new image declares a volume at {path}, which starts with what the image has; what the container wrote there would be gone, such as {}",
                first.display().to_string().escape_debug()
            );
            losses.push(Loss::new(format!("volume:{path}"), text));
        }
    }
    losses
}

/// A fresh volume above or below old data.
fn covered(mount: &Mount, fresh: &[&str]) -> Option<String> {
    let target = Path::new(&mount.target);
    let data = named(mount);
    // What cannot be written holds settings: a volume around it hides nothing.
    let above = |path: &&&str| !mount.read_only && target.starts_with(path);
    if let Some(path) = fresh.iter().find(above) {
        return Some(format!(
            "the new image declares a volume at {path}, above {} where {data} is mounted: it may look for its data in the fresh one and find none; mount {data} at {path} in a new container, as the image's notes say",
            mount.target
        ));
    }
    let path = fresh.iter().find(|path| Path::new(path).starts_with(target))?;
    Some(format!(
        "the new image declares a volume at {path}, inside {} where {data} is mounted: a fresh one would hide what {data} has there",
        mount.target
    ))
}

/// The old image kept its data where this is mounted; the new one elsewhere.
fn moved(mount: &Mount, old: &ImageFacts, new: &ImageFacts, fresh: &[&str]) -> Option<String> {
    let declared = |image: &ImageFacts| image.volumes.iter().any(|path| *path == mount.target);
    if mount.read_only || !declared(old) || declared(new) {
        return None;
    }
    let path = fresh.iter().find(|path| !old.volumes.contains(**path))?;
    Some(format!(
        "the new image declares its volume at {path} and no longer at {}, where {} is mounted: it would start with a fresh, empty one",
        mount.target,
        named(mount)
    ))
}

fn named(mount: &Mount) -> String {
    match mount.kind {
        MountKind::Volume => format!("volume `{}`", short(&mount.source)),
        _ => format!("`{}`", mount.source.escape_debug()),
    }
}

/// The Engine's own names are 64 digits long.
pub(crate) fn short(name: &str) -> &str {
    let random = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if random { &name[..12] } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;

    fn mount(kind: MountKind, target: &str, read_only: bool) -> Mount {
        Mount { read_only, ..fake::mount(kind, "pgdata", "", target) }
    }

    fn image(volumes: &[&str]) -> ImageFacts {
        ImageFacts { volumes: volumes.iter().map(|&path| path.to_owned()).collect(), ..Default::default() }
    }

    fn names(mounts: &[Mount], old: &[&str], new: &[&str], written: &[&str]) -> Vec<String> {
        let written: Vec<PathBuf> = written.iter().map(PathBuf::from).collect();
        let losses = find(mounts, &image(old), &image(new), &written);
        losses.into_iter().map(|loss| loss.name).collect()
    }

    #[test]
    fn u07_a_volume_declared_above_or_below_old_data_is_a_loss() {
        let data = [mount(MountKind::Volume, "/var/lib/postgresql/data", false)];
        let old = &["/var/lib/postgresql/data"];
        // As postgres 18 did it.
        assert_eq!(names(&data, old, &["/var/lib/postgresql"], &[]), ["volume:/var/lib/postgresql/data"]);
        assert!(names(&data, old, old, &[]).is_empty());
        assert!(names(&data, old, &[], &[]).is_empty(), "the volume stays mounted");
        let up = [mount(MountKind::Volume, "/var/lib/postgresql", false)];
        assert_eq!(names(&up, &[], old, &[]), ["volume:/var/lib/postgresql"]);
        let bind = [mount(MountKind::Bind, "/var/lib/postgresql/data", false)];
        assert_eq!(names(&bind, &[], &["/var/lib/postgresql"], &[]).len(), 1);
        let beside = [mount(MountKind::Volume, "/var/lib/postgres", false)];
        assert!(names(&beside, &[], &["/var/lib/postgresql"], &[]).is_empty());
    }

    #[test]
    fn u07_a_volume_that_moved_is_a_loss_and_one_that_was_added_is_none() {
        let data = [mount(MountKind::Volume, "/data", false)];
        assert_eq!(names(&data, &["/data"], &["/srv/data"], &[]), ["volume:/data"]);
        assert!(names(&data, &["/data"], &["/data", "/cache"], &[]).is_empty());
        assert!(names(&data, &[], &["/cache"], &[]).is_empty());
        let both = [mount(MountKind::Volume, "/data", false), mount(MountKind::Volume, "/srv/data", false)];
        assert!(names(&both, &["/data"], &["/srv/data"], &[]).is_empty(), "it is mounted there too");
    }

    #[test]
    fn settings_that_are_mounted_read_only_may_lie_below_a_new_volume() {
        let settings = [mount(MountKind::Bind, "/etc/nginx/nginx.conf", true)];
        assert!(names(&settings, &[], &["/etc/nginx"], &[]).is_empty());
        let folder = [mount(MountKind::Bind, "/etc/nginx", true)];
        assert_eq!(names(&folder, &[], &["/etc/nginx/certs"], &[]), ["volume:/etc/nginx"]);
        let memory = [mount(MountKind::Tmpfs, "/run/app", false)];
        assert!(names(&memory, &[], &["/run"], &[]).is_empty());
    }

    #[test]
    fn files_written_where_a_volume_comes_are_a_loss() {
        let written = ["/cache/a", "/cachet"];
        assert_eq!(names(&[], &[], &["/cache"], &written), ["volume:/cache"]);
        assert!(names(&[], &[], &["/other"], &written).is_empty());
    }
}

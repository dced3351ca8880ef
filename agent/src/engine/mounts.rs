//! Mounts of containers, as the Engine lists and inspects them.

use std::collections::HashMap;

use bollard::models::{HostConfig, MountPoint};

/// One mount of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Volume name, host path of a bind, empty for tmpfs.
    pub source: String,
    pub target: String,
    /// Where the Engine mounts it from on the host; empty for tmpfs.
    pub host_path: String,
    pub read_only: bool,
    /// Empty where it has no meaning.
    pub propagation: String,
    /// Of a volume.
    pub driver: String,
    /// Limit of a tmpfs, where one was set.
    pub size_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    Volume,
    Bind,
    Tmpfs,
    Other,
}

impl From<MountPoint> for Mount {
    fn from(mount: MountPoint) -> Self {
        let MountPoint { typ, name, source, destination, driver, mode: _, rw, propagation } = mount;
        let kind = match typ.as_deref() {
            Some("volume") => MountKind::Volume,
            Some("bind") => MountKind::Bind,
            Some("tmpfs") => MountKind::Tmpfs,
            _ => MountKind::Other,
        };
        let host_path = source.unwrap_or_default();
        Self {
            kind,
            source: if kind == MountKind::Volume { name.unwrap_or_default() } else { host_path.clone() },
            target: destination.unwrap_or_default(),
            host_path,
            read_only: !rw.unwrap_or(true),
            propagation: propagation.unwrap_or_default(),
            driver: driver.unwrap_or_default(),
            size_bytes: None,
        }
    }
}

/// The Engine reports a tmpfs made with `--tmpfs` only in the container's
/// settings, and the size of one made with `--mount` only there too.
pub(super) fn all_mounts(points: Vec<MountPoint>, host: &HostConfig) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = points.into_iter().map(Mount::from).collect();
    for spec in host.mounts.iter().flatten() {
        let size = spec.tmpfs_options.as_ref().and_then(|options| options.size_bytes);
        let at = mounts.iter_mut().find(|mount| Some(&mount.target) == spec.target.as_ref());
        if let Some(mount) = at {
            mount.size_bytes = size.and_then(|size| u64::try_from(size).ok()).filter(|&size| size > 0);
        }
    }
    for (target, options) in host.tmpfs.iter().flat_map(HashMap::iter) {
        // Engines that do report it do so without its size.
        mounts.retain(|mount| mount.kind != MountKind::Tmpfs || mount.target != *target);
        mounts.push(Mount {
            kind: MountKind::Tmpfs,
            source: String::new(),
            target: target.clone(),
            host_path: String::new(),
            read_only: options.split(',').any(|option| option == "ro"),
            propagation: String::new(),
            driver: String::new(),
            size_bytes: tmpfs_size(options),
        });
    }
    sorted(mounts)
}

pub(super) fn sorted(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by(|left, right| (&left.target, &left.source).cmp(&(&right.target, &right.source)));
    mounts
}

/// The limit in bytes among mount options such as `rw,size=64m,mode=1777`. A
/// share of the memory (`size=50%`) is no number of bytes.
fn tmpfs_size(options: &str) -> Option<u64> {
    // The kernel takes the last of two.
    let text = options.split(',').rev().find_map(|option| option.trim().strip_prefix("size="))?;
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use bollard::models::{Mount as MountSpec, MountTmpfsOptions};

    use super::*;

    #[test]
    fn sizes_of_tmpfs_are_read_with_their_unit() {
        assert_eq!(tmpfs_size("rw,size=1m,mode=1777"), Some(1 << 20));
        assert_eq!(tmpfs_size("size=64K"), Some(64 << 10));
        assert_eq!(tmpfs_size("size=2g"), Some(2 << 30));
        assert_eq!(tmpfs_size("size=4096"), Some(4096));
        assert_eq!(tmpfs_size("size=1m,size=2m"), Some(2 << 20));
        for options in ["", "mode=755", "size=", "size=50%", "size=m", "size=99999999999g"] {
            assert_eq!(tmpfs_size(options), None, "{options}");
        }
    }

    #[test]
    fn both_ways_to_ask_for_a_tmpfs_are_listed_with_their_size() {
        let by_mount = MountPoint {
            typ: Some("tmpfs".to_owned()),
            destination: Some("/b".to_owned()),
            rw: Some(true),
            ..Default::default()
        };
        let host = HostConfig {
            tmpfs: Some(HashMap::from([("/a".to_owned(), "ro,size=1m".to_owned())])),
            mounts: Some(vec![MountSpec {
                target: Some("/b".to_owned()),
                tmpfs_options: Some(MountTmpfsOptions { size_bytes: Some(2048), ..Default::default() }),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let mounts = all_mounts(vec![by_mount], &host);
        let facts: Vec<_> =
            mounts.iter().map(|mount| (mount.target.as_str(), mount.size_bytes, mount.read_only)).collect();
        assert_eq!(facts, [("/a", Some(1 << 20), true), ("/b", Some(2048), false)]);
        assert!(mounts.iter().all(|mount| mount.kind == MountKind::Tmpfs));
    }
}

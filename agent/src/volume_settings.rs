//! Whether this host lets a volume be made with the settings asked for.
//!
//! A volume of the local driver is a directory of Docker's own. Other drivers,
//! and options with a device or a type, lead elsewhere: to any directory, disk
//! or network the host can reach, as root. Whoever may make such a volume and
//! restore into it, or back it up, is root on the host. So that takes what
//! being root takes here, the right `container`; a bind of a directory that
//! the host allows by its path needs no more than that path.
//!
//! Volumes that are there already are none of this: a person on the host made
//! them.

use std::path::{Component, Path};

use crate::allow::{Allow, Right};
use crate::allowed_directory::AllowedDirectory;
use crate::engine::NewVolume;

/// What a bind may have in `o` besides `bind`. `rbind` is not among it: it
/// would show what is mounted below.
const BIND_FLAGS: [&str; 8] = ["bind", "ro", "rw", "nosuid", "nodev", "noexec", "noatime", "relatime"];

/// A volume this host does not let anybody make through the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volume `{name}` is not made: {why}")]
pub struct VolumeNotAllowed {
    name: String,
    why: String,
}

/// Refuses settings that lead to a place the host does not allow. A bind's
/// directory comes back, so that what the Engine mounts can be compared with
/// it. Opens that directory.
///
/// # Errors
/// Names the setting and what would have to be allowed.
pub(crate) fn check(allow: &Allow, wanted: &NewVolume) -> Result<Option<AllowedDirectory>, VolumeNotAllowed> {
    let Some(setting) = leads_elsewhere(wanted) else { return Ok(None) };
    if allow.check(Right::Container).is_ok() {
        return Ok(None);
    }
    let refused = |why: String| VolumeNotAllowed { name: wanted.name.to_string(), why };
    let Some(device) = bound_directory(wanted) else {
        return Err(refused(format!(
            "{setting} leads elsewhere than Docker's own volume directory, and this host does not allow {}",
            Right::Container
        )));
    };
    let directory = AllowedDirectory::open(allow, device).map_err(|error| {
        let shown = device.display().to_string();
        refused(format!(
            "its option `device` leads to `{}`, and without {} that must be a directory inside an allowed path: {error}",
            shown.escape_debug(),
            Right::Container
        ))
    })?;
    // The Engine follows links by itself, later: it is told of none.
    if directory.path() != device {
        return Err(refused(format!(
            "its option `device` leads over a link to `{}`: give that path itself",
            directory.path().display().to_string().escape_debug()
        )));
    }
    Ok(Some(directory))
}

/// The setting because of which the data would lie outside Docker's own
/// directory. What is not known to be harmless is not.
fn leads_elsewhere(wanted: &NewVolume) -> Option<String> {
    if wanted.driver != "local" {
        return Some(format!("its driver `{}`", wanted.driver.escape_debug()));
    }
    let option = wanted.options.iter().find(|(key, value)| match key.as_str() {
        "size" => false,
        "o" => value.split(',').any(|flag| !flag.is_empty() && !flag.starts_with("size=")),
        _ => !value.is_empty(),
    });
    // Its value may be a secret of a network file system.
    option.map(|(key, _)| format!("its option `{}`", key.escape_debug()))
}

/// The directory of a plain bind; none for everything else.
fn bound_directory(wanted: &NewVolume) -> Option<&Path> {
    let option = |key: &str| wanted.options.get(key).map(String::as_str).unwrap_or_default();
    let known = wanted.options.keys().all(|key| matches!(key.as_str(), "type" | "o" | "device"));
    let flags: Vec<&str> = option("o").split(',').collect();
    let is_bind = wanted.driver == "local"
        && known
        && matches!(option("type"), "" | "none" | "bind")
        && flags.contains(&"bind")
        && flags.iter().all(|flag| BIND_FLAGS.contains(flag));
    let device = Path::new(option("device"));
    let is_plain = device.is_absolute()
        && device.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (is_bind && is_plain).then_some(device)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn volume(driver: &str, options: &[(&str, &str)]) -> NewVolume {
        NewVolume {
            name: "data".parse().unwrap(),
            driver: driver.to_owned(),
            options: options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
            labels: BTreeMap::new(),
        }
    }

    fn bind(device: &str) -> NewVolume {
        volume("local", &[("type", "none"), ("o", "bind"), ("device", device)])
    }

    #[test]
    fn v02_what_leads_elsewhere_needs_the_right_to_containers() {
        let default = Allow::default();
        let all = Allow::parse(["restore", "container"]).unwrap();
        for (wanted, named) in [
            (volume("vieux/sshfs", &[("sshcmd", "x"), ("password", "hidden")]), "driver `vieux/sshfs`"),
            (volume("", &[]), "driver ``"),
            (volume("local:latest", &[]), "driver `local:latest`"),
            (
                volume("local", &[("type", "nfs"), ("o", "addr=nas,password=hidden"), ("device", ":/x")]),
                "option",
            ),
            (volume("local", &[("type", "tmpfs"), ("device", "tmpfs")]), "option"),
            (volume("local", &[("device", "/dev/sda1"), ("type", "ext4")]), "option `device`"),
            (volume("local", &[("o", "bind")]), "option `o`"),
            (volume("local", &[("type", "none"), ("o", "rbind"), ("device", "/srv")]), "option"),
            (volume("local", &[("type", "none"), ("o", "bind,shared"), ("device", "/srv")]), "option"),
            (volume("local", &[("Device", "/etc")]), "option `Device`"),
            (bind("/etc"), "`/etc`"),
            (bind("etc"), "option `device`"),
            (bind("/srv/../etc"), "option `device`"),
        ] {
            let error = check(&default, &wanted).unwrap_err().to_string();
            assert!(error.starts_with("volume `data` is not made: "), "{error}");
            assert!(error.contains(named) && error.contains("`container`"), "{error}");
            assert!(!error.contains("hidden"), "{error}");
            assert!(check(&all, &wanted).is_ok(), "{wanted:?}");
        }
    }

    #[test]
    fn v02_docker_s_own_directory_needs_no_more_than_the_right_to_restore() {
        for options in
            [&[][..], &[("size", "1g")], &[("o", "size=1g")], &[("o", ""), ("type", ""), ("device", "")]]
        {
            assert!(check(&Allow::parse([]).unwrap(), &volume("local", options)).unwrap().is_none());
        }
    }

    #[test]
    fn v02_a_bind_inside_an_allowed_path_is_allowed_and_no_link_out_of_it() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let (inside, outside) = (base.join("allowed/inside"), base.join("outside"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, base.join("allowed/out")).unwrap();
        std::os::unix::fs::symlink(&inside, base.join("allowed/in")).unwrap();
        let allow = Allow::parse(["restore", base.join("allowed").to_str().unwrap()]).unwrap();
        let device = |path: &Path| check(&allow, &bind(path.to_str().unwrap()));
        assert_eq!(device(&inside).unwrap().expect("a bind").path(), inside);
        for path in [&outside, &base.join("allowed/out"), &base.join("allowed/none"), &base] {
            device(path).unwrap_err();
        }
        let error = device(&base.join("allowed/in")).unwrap_err().to_string();
        assert!(error.contains(inside.to_str().unwrap()) && error.contains("over a link"), "{error}");
        std::fs::write(base.join("allowed/file"), "").unwrap();
        device(&base.join("allowed/file")).unwrap_err();
    }
}

//! Mounts of a new container as `docker run` takes them: `-v`, `--mount` and
//! `--tmpfs`, all three to the one message of the wire.

use holdfast_proto::v1::container_mount::Kind;
use holdfast_proto::v1::{BindMount, ContainerMount, TmpfsMount, VolumeMount};

use super::values::size;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// `volume:/path`, `/source:/path` or `/path`, each with options after a
/// further colon. A source that starts with `/` is a directory of the host.
pub(super) fn volume(text: &str) -> Result<ContainerMount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, options) = match parts[..] {
        [path] => ("", path, ""),
        [source, path] => (source, path, ""),
        [source, path, options] => (source, path, options),
        _ => return Err("SOURCE:/path[:options] is expected; a path with a colon needs --mount".to_owned()),
    };
    if source.is_empty() && parts.len() > 1 {
        return Err("the source before the colon is empty; an anonymous volume is the path alone".to_owned());
    }
    let mut mount = ContainerMount { target: target(path)?, ..ContainerMount::default() };
    let VolumeOptions { read_only, no_copy, propagation } = VolumeOptions::parse(options)?;
    mount.read_only = read_only;
    // As Docker tells them apart: a name has no slash at its beginning.
    mount.kind = Some(if source.starts_with('/') {
        if no_copy {
            return Err("nocopy is for volumes: a directory of the host is never filled".to_owned());
        }
        Kind::Bind(BindMount { source: source.to_owned(), propagation: propagation.to_owned() })
    } else {
        if !propagation.is_empty() {
            return Err(format!("{propagation} is for directories of the host, not for volumes"));
        }
        Kind::Volume(VolumeMount { name: volume_name(source)?, no_copy })
    });
    Ok(mount)
}

/// What follows the path of `-v`.
#[derive(Default)]
struct VolumeOptions<'a> {
    read_only: bool,
    no_copy: bool,
    propagation: &'a str,
}

impl<'a> VolumeOptions<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" | "readonly" => options.read_only = true,
                "rw" => options.read_only = false,
                "nocopy" => options.no_copy = true,
                // Docker would relabel the directory for this container alone; others that use it
                // would lose it.
                "z" | "Z" => {
                    return Err(format!(
                        "option `{option}` relabels files of the host; set their label there"
                    ));
                }
                option if PROPAGATIONS.contains(&option) => options.propagation = option,
                _ => {
                    let known = PROPAGATIONS.join(", ");
                    return Err(format!("option `{option}` is none of ro, rw, nocopy, {known}"));
                }
            }
        }
        Ok(options)
    }
}

/// `type=volume,source=db_data,target=/data,readonly`.
pub(super) fn mount(text: &str) -> Result<ContainerMount, String> {
    let mut fields = Fields::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        fields.set(key.trim(), value)?;
    }
    fields.into_mount()
}

/// `/path[:size=64m,ro]`.
pub(super) fn tmpfs(text: &str) -> Result<ContainerMount, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = ContainerMount { target: target(path)?, ..ContainerMount::default() };
    let mut size_bytes = 0;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size_bytes = size(value)?,
            None if option == "ro" => mount.read_only = true,
            None if option == "rw" => mount.read_only = false,
            // The Engine mounts every tmpfs with these.
            None if matches!(option, "noexec" | "nosuid" | "nodev") => {}
            _ => {
                return Err(format!(
                    "option `{option}` is none of size=BYTES, ro, rw, noexec, nosuid, nodev"
                ));
            }
        }
    }
    mount.kind = Some(Kind::Tmpfs(TmpfsMount { size_bytes }));
    Ok(mount)
}

#[derive(Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    propagation: String,
    read_only: bool,
    no_copy: bool,
    size_bytes: u64,
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let text = || match value {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(format!("{key} needs a value")),
        };
        let flag = || match value {
            // As `docker` has it: a flag without a value is set.
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{key} is true or false, not `{other}`")),
        };
        match key {
            "type" => self.kind = text()?,
            "source" | "src" => self.source = text()?,
            "target" | "dst" | "destination" => self.target = text()?,
            "readonly" | "ro" => self.read_only = flag()?,
            "bind-propagation" => {
                self.propagation = text()?;
                if !PROPAGATIONS.contains(&self.propagation.as_str()) {
                    return Err(format!("bind-propagation is one of {}", PROPAGATIONS.join(", ")));
                }
            }
            "volume-nocopy" => self.no_copy = flag()?,
            "tmpfs-size" => self.size_bytes = size(&text()?)?,
            _ => {
                return Err(format!(
                    "`{key}` is none of type, source, target, readonly, bind-propagation, volume-nocopy, tmpfs-size"
                ));
            }
        }
        Ok(())
    }

    fn into_mount(self) -> Result<ContainerMount, String> {
        let kind = if self.kind.is_empty() { "volume" } else { self.kind.as_str() };
        // An option that another type has would be ignored without a word.
        let foreign = [
            (!self.propagation.is_empty(), "bind", "bind-propagation"),
            (self.no_copy, "volume", "volume-nocopy"),
            (self.size_bytes > 0, "tmpfs", "tmpfs-size"),
        ];
        if let Some((_, of, key)) = foreign.iter().find(|(set, of, _)| *set && *of != kind) {
            return Err(format!("{key} is for type={of}, not for type={kind}"));
        }
        let kind = match kind {
            "volume" => Kind::Volume(VolumeMount { name: volume_name(&self.source)?, no_copy: self.no_copy }),
            "bind" if self.source.starts_with('/') => {
                Kind::Bind(BindMount { source: self.source, propagation: self.propagation })
            }
            "bind" => return Err("type=bind needs an absolute source on the host".to_owned()),
            "tmpfs" if !self.source.is_empty() => return Err("type=tmpfs has no source".to_owned()),
            "tmpfs" => Kind::Tmpfs(TmpfsMount { size_bytes: self.size_bytes }),
            other => return Err(format!("type `{other}` is none of volume, bind, tmpfs")),
        };
        Ok(ContainerMount { kind: Some(kind), target: target(&self.target)?, read_only: self.read_only })
    }
}

fn target(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path in the container is missing".to_owned());
    }
    if !path.starts_with('/') || path.trim_end_matches('/').is_empty() {
        return Err(format!("`{path}` is no place in the container: an absolute path below / is expected"));
    }
    Ok(path.to_owned())
}

/// What the Engine takes for a name; empty for an anonymous volume.
fn volume_name(name: &str) -> Result<String, String> {
    let sound = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && name.bytes().next().is_none_or(|b| b.is_ascii_alphanumeric());
    if !sound {
        return Err(format!("`{name}` is neither a volume's name nor an absolute path on the host"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume_at(name: &str, target: &str, read_only: bool, no_copy: bool) -> ContainerMount {
        let kind = Some(Kind::Volume(VolumeMount { name: name.to_owned(), no_copy }));
        ContainerMount { kind, target: target.to_owned(), read_only }
    }

    fn bind_at(source: &str, target: &str, read_only: bool, propagation: &str) -> ContainerMount {
        let kind =
            Some(Kind::Bind(BindMount { source: source.to_owned(), propagation: propagation.to_owned() }));
        ContainerMount { kind, target: target.to_owned(), read_only }
    }

    fn tmpfs_at(target: &str, size_bytes: u64, read_only: bool) -> ContainerMount {
        let kind = Some(Kind::Tmpfs(TmpfsMount { size_bytes }));
        ContainerMount { kind, target: target.to_owned(), read_only }
    }

    #[test]
    fn v_follows_docker() {
        for (text, mount) in [
            ("web_logs:/var/log/nginx", volume_at("web_logs", "/var/log/nginx", false, false)),
            ("db:/data:ro", volume_at("db", "/data", true, false)),
            ("db:/data:rw,nocopy", volume_at("db", "/data", false, true)),
            ("/data", volume_at("", "/data", false, false)),
            ("/srv/x:/data", bind_at("/srv/x", "/data", false, "")),
            ("/srv/x:/data:ro,rslave", bind_at("/srv/x", "/data", true, "rslave")),
        ] {
            assert_eq!(volume(text), Ok(mount), "{text}");
        }
        for text in [
            "",
            "data",
            ":/data",
            "db:data",
            "db:/",
            "db:",
            "./x:/data",
            "a/b:/data",
            "db:/a:/b",
            "db:/d:ro:x",
            "db:/data:z",
            "db:/data:rslave",
            "/srv:/data:nocopy",
            "-db:/data",
        ] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mount_takes_the_three_types() {
        for (text, expected) in [
            ("type=volume,source=db,target=/data,readonly", volume_at("db", "/data", true, false)),
            ("src=db,dst=/data,volume-nocopy=true", volume_at("db", "/data", false, true)),
            ("type=volume,target=/data", volume_at("", "/data", false, false)),
            (
                "type=bind,src=/srv/a:b,dst=/data,ro=false,bind-propagation=rslave",
                bind_at("/srv/a:b", "/data", false, "rslave"),
            ),
            ("type=tmpfs,destination=/run,tmpfs-size=64m", tmpfs_at("/run", 64 << 20, false)),
        ] {
            assert_eq!(mount(text), Ok(expected), "{text}");
        }
        for text in [
            "type=volume,source=db",
            "type=bind,source=srv,target=/data",
            "type=bind,target=/data",
            "type=tmpfs,source=x,target=/run",
            "type=npipe,target=/data",
            "type=volume,source=db,target=/data,tmpfs-size=1m",
            "type=bind,source=/a,target=/b,volume-nocopy",
            "source=db,target=/data,consistency=cached",
            "source=db,target=/data,readonly=maybe",
            "source=,target=/data",
        ] {
            assert!(mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tmpfs_has_a_size_or_none() {
        assert_eq!(tmpfs("/run"), Ok(tmpfs_at("/run", 0, false)));
        assert_eq!(tmpfs("/run:size=64m,ro"), Ok(tmpfs_at("/run", 64 << 20, true)));
        assert_eq!(tmpfs("/run:rw,noexec,nosuid,size=65536k"), Ok(tmpfs_at("/run", 64 << 20, false)));
        for text in ["", "run", "/run:mode=1777", "/run:size=x", "/run:size="] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }
}

//! What forbids an upgrade whatever is allowed. Pure.

use std::path::Path;

use holdfast_archive::text::counted;
use serde_json::Value;

use crate::allow::{Allow, Right};
use crate::engine::{Container, ContainerState, Mount, MountKind, Role};
use crate::quiesce::is_swarm;
use crate::upgrade::handover::Own;
use crate::upgrade::image::ImageFacts;
use crate::upgrade::record::{NEW_INFIX, OLD_INFIX};

/// Why an upgrade cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Stable: what the plan's fingerprint is made of, the text holding sizes.
    pub code: &'static str,
    /// What it is about.
    pub subject: String,
    pub text: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code, subject: subject.into(), text: text.into() }
    }
}

/// What the container itself is; `is_this`: the agent's own.
pub(super) fn of_container(container: &Container, old: &ImageFacts, is_this: bool) -> Vec<Refusal> {
    let name = container.name.as_str();
    let mut refusals = Vec::new();
    let mut refuse = |code, text: String| refusals.push(Refusal::new(code, name, text));
    // The image is asked, too: a label of it can be overridden when a container is created.
    let role = container.role().or_else(|| Role::of_labels(&old.labels));
    if role == Some(Role::Controller) {
        refuse(
            "own-controller",
            format!(
                "`{name}` is a Holdfast controller, which directs upgrades and cannot be stopped by its own: on its host, fetch or build its new image and make its container anew (`docker-compose up -d controller`, with --build where the image is built there)"
            ),
        );
    }
    // The agent's own container is replaced by a helper: `of_own` says what that one needs.
    if role == Some(Role::Agent) && !is_this {
        refuse(
            "other-agent",
            format!(
                "`{name}` is a Holdfast agent, and not the one that would upgrade it: only an agent that runs in a container replaces its own; on its host, make its container anew (`docker-compose up -d agent`)"
            ),
        );
    }
    if is_swarm(container) {
        refuse(
            "swarm",
            format!("`{name}` is managed by Docker Swarm, which would undo it: use `docker service update`"),
        );
    }
    if container.auto_remove {
        refuse(
            "auto-remove",
            format!(
                "`{name}` was started with --rm: the Engine deletes it when it stops, so that there would be no way back; start it without --rm first"
            ),
        );
    }
    let state = match container.state {
        ContainerState::Paused => Some(format!("`{name}` is paused: `docker unpause {name}` first")),
        ContainerState::Restarting => Some(format!(
            "`{name}` keeps restarting: see `docker logs {name}`, then repair it or `docker stop {name}` first"
        )),
        ContainerState::Removing => Some(format!("`{name}` is being removed: wait until it is gone")),
        ContainerState::Dead => Some(format!("`{name}` is dead, its removal failed: `docker rm -f {name}`")),
        ContainerState::Created
        | ContainerState::Running
        | ContainerState::Exited
        | ContainerState::Unknown => None,
    };
    if let Some(text) = state {
        refuse("state", text);
    }
    refusals
}

/// What stands in the way of a helper that replaces the agent's own container:
/// it has the same mounts, and has to find the Engine and the record there.
pub(super) fn of_own(container: &Container, own: &Own) -> Vec<Refusal> {
    let name = container.name.as_str();
    // A socket on a read-only mount still takes connections, but the record has to be written.
    let needs =
        [(&own.docker_socket, "the Engine's socket", false), (&own.state_dir, "its state directory", true)];
    let missing =
        needs.into_iter().filter(|(path, _, writable)| !is_mounted(path, &container.mounts, *writable));
    let refused = missing.map(|(path, what, _)| {
        let text = format!(
            "`{name}` is the agent itself, and a helper container has to replace it, which would not have {what}: {} is not on a mount of `{name}`; make its container anew by hand, with that mounted",
            path.display()
        );
        Refusal::new("own-agent", path.display().to_string(), text)
    });
    refused.collect()
}

/// What is to know of an upgrade of the agent's own container.
pub(super) fn own_words(name: &str) -> String {
    format!(
        "`{name}` is the agent itself: a helper container made of its present image replaces it; the agent's state stays as it is, with no snapshot and no clone of it, and once it has begun it cannot be cancelled"
    )
}

/// Whether a path of this process, which runs in the container, is on a mount
/// that another container can have, too.
fn is_mounted(path: &Path, mounts: &[Mount], writable: bool) -> bool {
    // Both sides are resolved: /var/run is a link to /run in most images.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    let innermost = mounts
        .iter()
        .map(|mount| (real(Path::new(&mount.target)), mount))
        .filter(|(target, _)| path.starts_with(target))
        // The nearest mount decides: a tmpfs inside a bind mount hides what lies below it.
        .max_by_key(|(target, _)| target.components().count());
    innermost.is_some_and(|(_, mount)| {
        matches!(mount.kind, MountKind::Volume | MountKind::Bind) && !(writable && mount.read_only)
    })
}

/// An image this machine does not run, or not the one the container was `asked`
/// to be of. What runs already under another architecture was made so on
/// purpose.
pub(super) fn of_platform(
    reference: &str,
    asked: Option<&str>,
    old: &ImageFacts,
    new: &ImageFacts,
    machine: &str,
) -> Option<Refusal> {
    if !new.os.is_empty() && !old.os.is_empty() && new.os != old.os {
        let text = format!("image `{reference}` is for {}, and this host runs {}", new.os, old.os);
        return Some(Refusal::new("platform", reference, text));
    }
    if let Some(asked) = asked.filter(|asked| !is_for(new, asked)) {
        let text = format!(
            "image `{reference}` is here for {}, and the container was made for {asked}: fetch it for that platform with --pull",
            new.platform()
        );
        return Some(Refusal::new("platform", reference, text));
    }
    let machine = architecture(machine);
    let wanted = new.architecture.as_str();
    let runs = wanted.is_empty()
        || machine.is_empty()
        || wanted == machine
        || wanted == old.architecture
        // 64-bit processors of both families run 32-bit programs as well.
        || matches!((machine, wanted), ("amd64", "386") | ("arm64", "arm"));
    (!runs).then(|| {
        let text = format!(
            "image `{reference}` is for {}, and this host is {machine}: name an image that has {machine}, or pull it for that platform",
            new.platform()
        );
        Refusal::new("platform", reference, text)
    })
}

/// Whether an image is for "os/architecture[/variant]", as far as both say.
fn is_for(image: &ImageFacts, platform: &str) -> bool {
    let mut asked = platform.split('/');
    [&image.os, &image.architecture, &image.variant].into_iter().all(|part| {
        let asked = asked.next().unwrap_or_default();
        asked.is_empty() || part.is_empty() || asked == part
    })
}

/// As images call what the kernel calls `machine`.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" | "armhf" => "arm",
        "i386" | "i486" | "i586" | "i686" => "386",
        other => other,
    }
}

/// Names an upgrade of `name` takes while it runs and keeps afterwards.
pub(super) fn of_names<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Vec<Refusal> {
    let (new, old) = (format!("{name}{NEW_INFIX}"), format!("{name}{OLD_INFIX}"));
    let refusal = |taken: &str| {
        let text = if taken.starts_with(&new) {
            format!(
                "`{taken}` is there: another upgrade of `{name}` runs, or was left half done; see `holdfast upgrade status {name}`"
            )
        } else if taken.starts_with(&old) {
            format!(
                "`{taken}` is kept from the last upgrade of `{name}`: end its grace period with `holdfast upgrade commit {name}`, or go back with `holdfast upgrade rollback {name}`"
            )
        } else {
            return None;
        };
        Some(Refusal::new("name-taken", taken, text))
    };
    all.filter_map(refusal).collect()
}

/// What the host itself does not allow.
pub(super) fn of_rights(allow: &Allow, sources: usize, needs_exec: bool) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    // A container without writable data needs no snapshot, and so not this right.
    if sources > 0 && allow.check(Right::Backup).is_err() {
        let text = format!(
            "this host does not allow `backup`, and {} would have to be snapshotted: add it to `allow` in the agent's config.toml",
            counted(sources, "source")
        );
        refusals.push(Refusal::new("not-allowed", "backup", text));
    }
    if needs_exec && allow.check(Right::Exec).is_err() {
        let text = "this host does not allow `exec`, which a probe that runs a command needs: probe a port instead, or add `exec` to `allow` in the agent's config.toml";
        refusals.push(Refusal::new("not-allowed", "exec", text));
    }
    refusals
}

/// A port of the host that a container wants or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    address: String,
    port: u16,
    protocol: String,
}

impl HostPort {
    fn meets(&self, other: &Self) -> bool {
        // These stand for every address of the host.
        let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// The fixed ports in a map such as `PortBindings` or `NetworkSettings.Ports`.
pub(super) fn host_ports(map: &Value) -> Vec<HostPort> {
    let bindings = map.as_object().into_iter().flatten().flat_map(|(port, bindings)| {
        let protocol = port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
        bindings.as_array().into_iter().flatten().map(move |binding| (protocol, binding))
    });
    let fixed = bindings.filter_map(|(protocol, binding)| {
        Some(HostPort {
            address: binding["HostIp"].as_str().unwrap_or_default().to_owned(),
            // An empty port is one that the Engine chooses: it cannot clash.
            port: binding["HostPort"].as_str()?.parse().ok()?,
            protocol: protocol.to_owned(),
        })
    });
    fixed.collect()
}

/// Ports of the host that another running container has.
pub(super) fn of_ports(name: &str, wanted: &[HostPort], others: &[(String, Vec<HostPort>)]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for port in wanted {
        let holder = others.iter().find(|(_, held)| held.iter().any(|held| held.meets(port)));
        if let Some((holder, _)) = holder {
            let number = format!("{}/{}", port.port, port.protocol);
            let text = format!(
                "port {number} of this host, which `{name}` is set to have, is held by container `{holder}`: stop that one first, or free the port"
            );
            refusals.push(Refusal::new("port", number, text));
        }
    }
    // A port that is wanted for IPv4 and for IPv6 has given the same line twice, side by side.
    refusals.dedup();
    refusals
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::ROLE_LABEL;
    use crate::engine::fake::{container, mount};

    fn codes(container: &Container) -> Vec<&'static str> {
        let found = of_container(container, &ImageFacts::default(), false);
        found.into_iter().map(|refusal| refusal.code).collect()
    }

    #[test]
    fn what_cannot_be_upgraded_is_refused_whatever_is_allowed() {
        let plain = container("db");
        assert!(codes(&plain).is_empty());
        assert_eq!(codes(&Container { auto_remove: true, ..plain.clone() }), ["auto-remove"]);
        let label = ("com.docker.swarm.task.id".to_owned(), "x".to_owned());
        assert_eq!(codes(&Container { labels: [label].into(), ..plain.clone() }), ["swarm"]);
        let image = "registry:5000/holdfast-controller:1".to_owned();
        assert_eq!(codes(&Container { image, ..plain.clone() }), ["own-controller"]);
        let labelled = ImageFacts {
            labels: [(ROLE_LABEL.to_owned(), "controller".to_owned())].into(),
            ..ImageFacts::default()
        };
        assert_eq!(of_container(&plain, &labelled, false).len(), 1);
        let agent = Container { image: "holdfast-agent:1".to_owned(), ..plain.clone() };
        assert_eq!(codes(&agent), ["other-agent"]);
        assert!(of_container(&agent, &ImageFacts::default(), true).is_empty(), "an agent replaces itself");
        use ContainerState::{Created, Dead, Exited, Paused, Removing, Restarting};
        for state in [Paused, Restarting, Removing, Dead] {
            assert_eq!(codes(&Container { state, ..plain.clone() }), ["state"], "{state:?}");
        }
        for state in [Created, Exited] {
            assert!(codes(&Container { state, ..plain.clone() }).is_empty(), "{state:?}");
        }
    }

    #[test]
    fn the_agents_own_container_needs_mounts_that_a_helper_can_have() {
        let own = Own {
            id: "the-agent".into(),
            state_dir: "/nowhere/state/agent".into(),
            docker_socket: "/nowhere/docker.sock".into(),
        };
        let with = |mounts: &[(MountKind, &str, bool)]| {
            let mount = |&(kind, target, read_only)| Mount { read_only, ..mount(kind, "", "", target) };
            let mounts = mounts.iter().map(mount);
            let subjects = of_own(&Container { mounts: mounts.collect(), ..container("agent") }, &own);
            subjects.into_iter().map(|refusal| refusal.subject).collect::<Vec<_>>()
        };
        use MountKind::{Bind, Tmpfs, Volume};
        let (socket, state) = ("/nowhere/docker.sock", "/nowhere/state");
        assert!(with(&[(Bind, socket, true), (Volume, state, false)]).is_empty());
        assert_eq!(with(&[(Volume, state, false)]), [socket]);
        assert_eq!(with(&[(Bind, socket, false), (Volume, state, true)]), ["/nowhere/state/agent"]);
        assert_eq!(with(&[(Bind, "/nowhere", false), (Tmpfs, state, false)]), ["/nowhere/state/agent"]);
        assert_eq!(with(&[(Volume, "/elsewhere", false)]).len(), 2);
    }

    #[test]
    fn an_image_for_another_machine_is_refused_but_not_one_that_ran_here_so() {
        let image = |architecture: &str| ImageFacts {
            os: "linux".into(),
            architecture: architecture.into(),
            ..ImageFacts::default()
        };
        let refused = |old: &str, new: &str, machine: &str| {
            of_platform("x:1", None, &image(old), &image(new), machine).map(|refusal| refusal.text)
        };
        assert_eq!(refused("amd64", "amd64", "x86_64"), None);
        assert_eq!(refused("arm64", "arm64", "x86_64"), None);
        assert_eq!(refused("amd64", "386", "x86_64"), None);
        assert_eq!(refused("amd64", "", "x86_64"), None);
        let text = refused("amd64", "arm64", "x86_64").unwrap();
        assert!(text.contains("linux/arm64") && text.contains("amd64"), "{text}");
        let asked = |platform| {
            of_platform("x:1", Some(platform), &image("arm64"), &image("amd64"), "x86_64").is_some()
        };
        assert!(asked("linux/arm64") && !asked("linux/amd64") && !asked("linux/amd64/v2"));
        let windows = ImageFacts { os: "windows".into(), ..image("amd64") };
        assert!(of_platform("x:1", None, &image("amd64"), &windows, "x86_64").is_some());
    }

    #[test]
    fn names_of_another_upgrade_are_refused() {
        let all =
            ["db", "db.holdfast-old-abc123", "db2.holdfast-old-abc123", "db.holdfast-new-abc124", "db.x"];
        let refusals = of_names("db", all.into_iter());
        let subjects: Vec<_> = refusals.iter().map(|refusal| refusal.subject.as_str()).collect();
        assert_eq!(subjects, ["db.holdfast-old-abc123", "db.holdfast-new-abc124"]);
        assert!(refusals[0].text.contains("upgrade commit db"));
    }

    #[test]
    fn rights_the_upgrade_needs_are_asked_for() {
        let count = |words: &[&str], sources, exec| {
            of_rights(&Allow::parse(words.iter().copied()).unwrap(), sources, exec).len()
        };
        assert_eq!(count(&["container"], 1, true), 2);
        assert_eq!(count(&["container"], 0, false), 0);
        assert_eq!(count(&["container", "backup", "exec"], 1, true), 0);
    }

    #[test]
    fn a_port_meets_the_same_port_of_the_same_address() {
        let ports = |map: Value| host_ports(&map);
        let wanted =
            ports(json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }], "81/tcp": null }));
        let taken = |map: Value| of_ports("web", &wanted, &[("other".to_owned(), ports(map))]).len();
        assert_eq!(taken(json!({ "9/tcp": [{ "HostIp": "", "HostPort": "8080" }] })), 1);
        assert_eq!(
            taken(
                json!({ "9/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }, { "HostIp": "::", "HostPort": "8080" }] })
            ),
            1
        );
        assert_eq!(taken(json!({ "9/tcp": [{ "HostIp": "127.0.0.2", "HostPort": "8080" }] })), 0);
        assert_eq!(taken(json!({ "9/udp": [{ "HostIp": "", "HostPort": "8080" }] })), 0);
        assert_eq!(taken(json!({ "9/tcp": [{ "HostIp": "", "HostPort": "" }] })), 0);
        assert_eq!(taken(json!({})), 0);
    }
}

//! `holdfast mount`

use holdfast_proto::v1::{ContainerMounts, ListMountsRequest, Mount, MountKind};
use serde::Serialize;

use super::{Env, collect, short, within};
use crate::args::MountCommand;
use crate::error::{Exit, Result};
use crate::output::{self, Bytes, Lines, Render, Rows};

#[derive(Serialize)]
struct MountView {
    kind: &'static str,
    source: String,
    target: String,
    read_only: bool,
    propagation: String,
    driver: String,
    anonymous: bool,
    size_bytes: Option<Bytes>,
}

#[derive(Serialize)]
struct ContainerView {
    container: String,
    container_id: String,
    state: String,
    image: String,
    mounts: Vec<MountView>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct MountList(Vec<ContainerView>);

impl From<Mount> for MountView {
    fn from(mount: Mount) -> Self {
        let kind = match mount.kind() {
            MountKind::Volume => "volume",
            MountKind::Bind => "bind",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Other | MountKind::Unspecified => "other",
        };
        Self {
            kind,
            source: mount.source,
            target: mount.target,
            read_only: mount.read_only,
            propagation: mount.propagation,
            driver: mount.driver,
            anonymous: mount.anonymous,
            size_bytes: mount.size_bytes.map(Bytes),
        }
    }
}

impl From<ContainerMounts> for ContainerView {
    fn from(container: ContainerMounts) -> Self {
        Self {
            container: container.container_name,
            container_id: container.container_id,
            state: container.state,
            image: container.image,
            mounts: container.mounts.into_iter().map(MountView::from).collect(),
        }
    }
}

impl Render for MountList {
    fn lines(&self) -> Lines {
        let headings = ["CONTAINER", "STATE", "KIND", "SOURCE", "TARGET", "ACCESS", "PROPAGATION", "SIZE"];
        let mut rows = Rows::new(&headings, "no mounts").right(&[7]);
        for container in &self.0 {
            for mount in &container.mounts {
                // An anonymous volume has 64 hexadecimal digits for a name.
                let source = if mount.anonymous { short(&mount.source) } else { mount.source.clone() };
                rows.push([
                    container.container.clone(),
                    container.state.clone(),
                    mount.kind.to_owned(),
                    source,
                    mount.target.clone(),
                    if mount.read_only { "read-only" } else { "read-write" }.to_owned(),
                    mount.propagation.clone(),
                    mount.size_bytes.map_or(String::new(), |size| size.to_string()),
                ]);
            }
        }
        rows.finish()
    }
}

pub(super) async fn run(env: &Env, command: MountCommand) -> Result<Exit> {
    let MountCommand::Ls { host, containers, volume } = command;
    let request = ListMountsRequest { containers, volume: volume.unwrap_or_default() };
    let list =
        collect(env.client().await?.mounts(host.host.as_deref())?.list_mounts(within(request))).await?;
    output::emit(env.format, &MountList(list.into_iter().map(ContainerView::from).collect()));
    Ok(Exit::Done)
}

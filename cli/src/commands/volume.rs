//! `holdfast volume`

use std::collections::BTreeMap;

use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{
    CreateVolumeRequest, InspectVolumeRequest, KeptVolume, ListVolumesRequest, PruneVolumesRequest,
    PruneVolumesResponse, RemoveVolumeRequest, Volume, VolumeReach,
};
use serde::Serialize;

use super::{Env, collect, labels, short, within};
use crate::args::VolumeCommand;
use crate::client::Service;
use crate::error::{Exit, Result};
use crate::output::{self, Bytes, Details, Lines, Render, Rows, When};

type Volumes = VolumeServiceClient<Service>;

#[derive(Serialize)]
struct VolumeView {
    name: String,
    driver: String,
    mountpoint: String,
    scope: String,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    created: When,
    anonymous: bool,
    users: Vec<UserView>,
    reach: &'static str,
    reach_reason: String,
    size_bytes: Option<Bytes>,
    entries: Option<u64>,
    /// Holdfast's own and never backed up: what of it; else empty.
    own: String,
}

#[derive(Serialize)]
struct UserView {
    container: String,
    container_id: String,
    state: String,
    target: String,
    read_only: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct VolumeList(Vec<VolumeView>);

#[derive(Serialize)]
struct PruneView {
    /// False: only shown.
    removed: bool,
    volumes: Vec<VolumeView>,
    kept: Vec<KeptView>,
}

#[derive(Serialize)]
struct KeptView {
    name: String,
    reason: String,
}

impl From<Volume> for VolumeView {
    fn from(volume: Volume) -> Self {
        let reach = match volume.reach() {
            VolumeReach::Direct => "direct",
            VolumeReach::Holder => "holder",
            VolumeReach::Refused => "refused",
            VolumeReach::Unspecified => "unknown",
        };
        Self {
            name: volume.name,
            driver: volume.driver,
            mountpoint: volume.mountpoint,
            scope: volume.scope,
            labels: volume.labels.into_iter().collect(),
            options: volume.options.into_iter().collect(),
            created: When(volume.created_unix_ms),
            anonymous: volume.anonymous,
            users: volume
                .users
                .into_iter()
                .map(|user| UserView {
                    container: user.container_name,
                    container_id: user.container_id,
                    state: user.state,
                    target: user.target,
                    read_only: user.read_only,
                })
                .collect(),
            reach,
            reach_reason: volume.reach_reason,
            size_bytes: volume.size_bytes.map(Bytes),
            entries: volume.entries,
            own: volume.own,
        }
    }
}

impl From<KeptVolume> for KeptView {
    fn from(kept: KeptVolume) -> Self {
        Self { name: kept.name, reason: kept.reason }
    }
}

impl PruneView {
    fn of(answer: PruneVolumesResponse, removed: bool) -> Self {
        Self {
            removed,
            volumes: answer.volumes.into_iter().map(VolumeView::from).collect(),
            kept: answer.kept.into_iter().map(KeptView::from).collect(),
        }
    }
}

impl VolumeView {
    fn note(&self) -> String {
        match self.own.as_str() {
            "" => String::new(),
            own => format!("Holdfast's own, never backed up: {own}"),
        }
    }

    /// The 64 digits of an anonymous name say nothing to a person.
    fn short_name(&self) -> String {
        if self.anonymous { short(&self.name) } else { self.name.clone() }
    }
}

fn volume_rows(volumes: &[VolumeView], with_usage: bool) -> Lines {
    let mut headings = vec!["VOLUME", "DRIVER", "CREATED", "USED BY", "LABELS"];
    if with_usage {
        headings.insert(2, "SIZE");
    }
    let with_own = volumes.iter().any(|volume| !volume.own.is_empty());
    if with_own {
        headings.push("NOTE");
    }
    let mut rows = Rows::new(&headings, "no volumes");
    if with_usage {
        rows = rows.right(&[2]);
    }
    for volume in volumes {
        let users: Vec<&str> = volume.users.iter().map(|user| user.container.as_str()).collect();
        let mut cells = vec![
            volume.short_name(),
            volume.driver.clone(),
            volume.created.to_string(),
            users.join(", "),
            labels(&volume.labels),
        ];
        if with_usage {
            cells.insert(2, volume.size_bytes.map_or("-".to_owned(), |size| size.to_string()));
        }
        if with_own {
            cells.push(volume.note());
        }
        rows.push(cells);
    }
    rows.finish()
}

impl Render for VolumeList {
    fn lines(&self) -> Lines {
        volume_rows(&self.0, self.0.iter().any(|volume| volume.size_bytes.is_some()))
    }
}

impl Render for VolumeView {
    fn lines(&self) -> Lines {
        let users: Vec<String> = self
            .users
            .iter()
            .map(|user| {
                let access = if user.read_only { ", read-only" } else { "" };
                format!("{} at {} ({}{access})", user.container, user.target, user.state)
            })
            .collect();
        let reach = if self.reach_reason.is_empty() {
            self.reach.to_owned()
        } else {
            format!("{}: {}", self.reach, self.reach_reason)
        };
        Details::new()
            .add("name", &self.name)
            .add("driver", &self.driver)
            .add("scope", &self.scope)
            .add("created", self.created)
            .add("anonymous", if self.anonymous { "yes" } else { "" })
            .add("labels", labels(&self.labels))
            .add("options", labels(&self.options))
            .add("mountpoint", &self.mountpoint)
            .add("reach", reach)
            .add("size", self.size_bytes.map_or(String::new(), |size| size.to_string()))
            .add("entries", self.entries.map_or(String::new(), |entries| entries.to_string()))
            .list("used by", users)
            .add("note", self.note())
            .finish()
    }
}

impl Render for PruneView {
    fn lines(&self) -> Lines {
        let mut lines = if self.volumes.is_empty() {
            "nothing to prune".to_owned().into()
        } else {
            volume_rows(&self.volumes, self.volumes.iter().any(|volume| volume.size_bytes.is_some()))
        };
        for kept in &self.kept {
            lines.push(format!("kept {}: {}", kept.name, kept.reason));
        }
        if self.removed {
            lines.push(format!("{} removed", self.volumes.len()));
        }
        lines
    }
}

pub(super) async fn run(env: &Env, command: VolumeCommand) -> Result<Exit> {
    let client = env.client().await?;
    match command {
        VolumeCommand::Ls { host, names, label, driver, unused, used, usage } => {
            let request = ListVolumesRequest {
                names,
                labels: label,
                driver: driver.unwrap_or_default(),
                unused: (unused || used).then_some(unused),
                with_usage: usage,
            };
            let list = collect(client.volumes(host.host.as_deref())?.list_volumes(within(request))).await?;
            output::emit(env.format, &VolumeList(list.into_iter().map(VolumeView::from).collect()));
        }
        VolumeCommand::Inspect { host, name, usage } => {
            let request = InspectVolumeRequest { name, with_usage: usage };
            let volume =
                client.volumes(host.host.as_deref())?.inspect_volume(within(request)).await?.into_inner();
            output::emit(env.format, &VolumeView::from(volume));
        }
        VolumeCommand::Create { host, name, driver, options, label } => {
            let request = CreateVolumeRequest {
                name,
                driver,
                options: options.into_iter().collect(),
                labels: label.into_iter().collect(),
            };
            create(env, client.volumes(host.host.as_deref())?, request).await?;
        }
        VolumeCommand::Rm { host, names, yes } => {
            return remove(client.volumes(host.host.as_deref())?, names, yes).await;
        }
        VolumeCommand::Prune { host, label, named, yes, plan } => {
            let request =
                PruneVolumesRequest { labels: label, include_named: named, dry_run: true, names: Vec::new() };
            return prune(env, client.volumes(host.host.as_deref())?, request, plan, yes).await;
        }
    }
    Ok(Exit::Done)
}

async fn create(env: &Env, mut volumes: Volumes, request: CreateVolumeRequest) -> Result<()> {
    let name = request.name.clone();
    let answer = volumes.create_volume(within(request)).await?.into_inner();
    if !answer.created {
        output::note(format!("{name} was there already, with the same settings"));
    }
    output::emit(env.format, &VolumeView::from(answer.volume.unwrap_or_default()));
    Ok(())
}

async fn remove(mut volumes: Volumes, names: Vec<String>, yes: bool) -> Result<Exit> {
    if !yes {
        // What goes is shown as it is now, with its users, before anybody is asked. A name that is
        // not there ends it here.
        let mut shown = Vec::new();
        for name in &names {
            let request = InspectVolumeRequest { name: name.clone(), with_usage: false };
            shown.push(volumes.inspect_volume(within(request)).await?.into_inner().into());
        }
        output::show(&VolumeList(shown));
        let what = match names.as_slice() {
            [_] => "this volume and its data".to_owned(),
            _ => format!("these {} volumes and their data", names.len()),
        };
        if !agreed(&what)? {
            return Ok(Exit::Failed);
        }
    }
    for name in names {
        // One by one: the agent refuses each that is in use, and those before it are told as
        // removed.
        volumes.remove_volume(within(RemoveVolumeRequest { name: name.clone() })).await?;
        output::note(format!("{name} removed"));
    }
    Ok(Exit::Done)
}

/// Asks before anything is removed.
fn agreed(what: &str) -> Result<bool> {
    let agreed = output::confirm(&format!("Remove {what}?"))?;
    if !agreed {
        output::note("nothing was removed");
    }
    Ok(agreed)
}

/// Asks what would go, and removes just that once somebody has agreed.
async fn prune(
    env: &Env,
    mut volumes: Volumes,
    mut request: PruneVolumesRequest,
    plan: bool,
    yes: bool,
) -> Result<Exit> {
    let found = volumes.prune_volumes(within(request.clone())).await?.into_inner();
    let names: Vec<String> = found.volumes.iter().map(|volume| volume.name.clone()).collect();
    let shown = PruneView::of(found, false);
    if plan || names.is_empty() {
        output::emit(env.format, &shown);
        return Ok(Exit::Done);
    }
    if !yes {
        output::show(&shown);
        if !agreed(&format!("these {} volumes and their data", names.len()))? {
            return Ok(Exit::Failed);
        }
    }
    // By name: what has become unused since it was shown is not removed unseen.
    request.dry_run = false;
    request.names = names;
    let done = volumes.prune_volumes(within(request)).await?.into_inner();
    output::emit(env.format, &PruneView::of(done, true));
    Ok(Exit::Done)
}

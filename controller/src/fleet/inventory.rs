//! What volumes a host has, and what its containers bind, as it lists them.
//!
//! Only so can a volume or directory be named that no policy covers: it is in
//! no configuration anywhere. And only so is it seen that one is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::v1::mount_service_client::MountServiceClient;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{ContainerMounts, ListMountsRequest, ListVolumesRequest, MountKind, Volume};
use prost::Message as _;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::answer::unanswered;
use super::listing::Room;
use crate::catalog::binds::SeenBind;
use crate::catalog::sources::SeenVolume;
use crate::catalog::{Catalog, CatalogError};
use crate::limits::{LABELS, LIST_MESSAGE, TEXT, clip};
use crate::quota::day_of;

/// Longest name of a volume: the Engine makes a directory of it.
const NAME_BYTES: usize = 255;

/// What a label or volume takes besides its texts.
const LABEL_BYTES: usize = 100;
/// States of containers whose processes exist.
const LIVE: [&str; 3] = ["running", "paused", "restarting"];

/// Longest path of a bind mount that is kept, in bytes: the kernel's bound.
const MAX_PATH_LEN: usize = 4096;

/// Most bind mounts of one host that are kept.
const MAX_BINDS: usize = 4096;

/// Why a host's volumes are not known.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    #[error("the agent did not list its volumes and mounts: {0}")]
    Agent(Status),
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
}

/// Takes in the volumes of one host; gives their number.
///
/// # Errors
/// The host does not list them in time, or the catalogue fails.
pub async fn refresh(
    catalog: &Catalog,
    host: HostId,
    channel: Channel,
    most: Duration,
    now_ms: i64,
) -> Result<usize, InventoryError> {
    let listed =
        timeout(most, list(channel)).await.unwrap_or_else(|_| Err(unanswered("for its volumes", most)));
    let seen = told(catalog, host, "volumes", listed, now_ms).await?;
    for name in catalog.record_volumes(host, &seen, now_ms).await? {
        tracing::warn!(host.id = %host, source = name, "a retired volume is there again");
    }
    Ok(seen.len())
}

/// A host's list; one that is over a bound is none, and `status` says so.
async fn told<T>(
    catalog: &Catalog,
    host: HostId,
    what: &str,
    listed: Result<T, Status>,
    now_ms: i64,
) -> Result<T, InventoryError> {
    match listed {
        Ok(list) => Ok(list),
        Err(status) => {
            // Not taken over in part: what is missing from half a list would count as gone.
            if status.code() == Code::ResourceExhausted {
                let reason = format!("its {what} were not taken over: {}", status.message());
                catalog.alarm(host, day_of(now_ms), &reason).await?;
            }
            Err(InventoryError::Agent(status))
        }
    }
}

/// Takes in what the running containers of a host bind.
async fn look_at_binds(
    catalog: &Catalog,
    host: HostId,
    channel: Channel,
    most: Duration,
    now_ms: i64,
) -> Result<(), InventoryError> {
    let listed = timeout(most, list_mounts(channel))
        .await
        .unwrap_or_else(|_| Err(unanswered("for the mounts of its containers", most)));
    let containers = told(catalog, host, "mounts", listed, now_ms).await?;
    let Binds { kept, left_out } = binds(containers);
    catalog.record_binds(host, &kept, now_ms).await?;
    if left_out > 0 {
        // Whether these are protected is looked at by nobody.
        let reason = format!(
            "its containers mount {left_out} directories more than the {MAX_BINDS} that are looked at"
        );
        catalog.alarm(host, day_of(now_ms), &reason).await?;
    }
    Ok(())
}

async fn list_mounts(channel: Channel) -> Result<Vec<ContainerMounts>, Status> {
    let mut client = MountServiceClient::new(channel).max_decoding_message_size(LIST_MESSAGE);
    let mut stream = client.list_mounts(ListMountsRequest::default()).await?.into_inner();
    let (mut containers, mut room) = (Vec::new(), Room::default());
    while let Some(container) = stream.message().await? {
        room.take(container.encoded_len() + LABEL_BYTES * (1 + container.mounts.len()))?;
        containers.push(container);
    }
    Ok(containers)
}

/// What the running containers of a host bind, but Holdfast's own, for whose
/// sake nothing is to be protected.
struct Binds {
    /// By path.
    kept: Vec<SeenBind>,
    /// Paths beyond [`MAX_BINDS`].
    left_out: usize,
}

fn binds(containers: Vec<ContainerMounts>) -> Binds {
    let mut binds: BTreeMap<String, SeenBind> = BTreeMap::new();
    let mut left_out = BTreeSet::new();
    for container in
        containers.into_iter().filter(|container| !container.own && LIVE.contains(&container.state.as_str()))
    {
        for mount in container.mounts.into_iter().filter(|mount| mount.kind() == MountKind::Bind) {
            if mount.source.len() > MAX_PATH_LEN || !mount.source.starts_with('/') {
                continue;
            }
            if binds.len() >= MAX_BINDS && !binds.contains_key(&mount.source) {
                left_out.insert(mount.source);
                continue;
            }
            let bind = binds.entry(mount.source.clone()).or_insert_with(|| SeenBind {
                path: mount.source,
                read_only: true,
                containers: BTreeSet::new(),
            });
            // One container that writes is enough for the path to be worth a backup.
            bind.read_only &= mount.read_only;
            bind.containers.insert(container.container_name.clone());
        }
    }
    Binds { kept: binds.into_values().collect(), left_out: left_out.len() }
}

/// Only what is kept counts: a message of many empty fields takes many times
/// its bytes, and is gone before the next one comes.
async fn list(channel: Channel) -> Result<Vec<SeenVolume>, Status> {
    let mut client = VolumeServiceClient::new(channel).max_decoding_message_size(LIST_MESSAGE);
    let mut stream = client.list_volumes(ListVolumesRequest::default()).await?.into_inner();
    let (mut volumes, mut room) = (Vec::new(), Room::default());
    while let Some(volume) = stream.message().await? {
        // What is not kept takes room too: a list of nothing else would never end.
        let Some(volume) = seen(volume) else {
            room.take(LABEL_BYTES)?;
            continue;
        };
        room.take(size(&volume))?;
        volumes.push(volume);
    }
    Ok(volumes)
}

/// A volume as it is kept; `None` for a name that no volume has.
fn seen(volume: Volume) -> Option<SeenVolume> {
    let named = !volume.name.is_empty() && volume.name.len() <= NAME_BYTES;
    if !named || volume.name.chars().any(char::is_control) {
        tracing::warn!("a host lists a volume whose name is none");
        return None;
    }
    let mut driver = volume.driver;
    clip(&mut driver);
    let mut own = volume.own;
    clip(&mut own);
    let fits = |(key, value): &(String, String)| key.len() + value.len() <= TEXT;
    Some(SeenVolume {
        used: !volume.users.is_empty(),
        name: volume.name,
        driver,
        labels: volume.labels.into_iter().filter(fits).take(LABELS).collect(),
        anonymous: volume.anonymous,
        own,
    })
}

/// Bytes a volume takes while its list is taken in, about.
fn size(volume: &SeenVolume) -> usize {
    let labels = volume.labels.iter().map(|(key, value)| key.len() + value.len() + LABEL_BYTES);
    volume.name.len() + volume.driver.len() + volume.own.len() + LABEL_BYTES + labels.sum::<usize>()
}

/// Takes in the volumes of one host and what its containers bind; gives the
/// number of volumes.
///
/// # Errors
/// The host does not list them in time, or the catalogue fails.
pub async fn look_at(
    catalog: &Catalog,
    host: HostId,
    channel: Channel,
    most: Duration,
    now_ms: i64,
) -> Result<usize, InventoryError> {
    let volumes = refresh(catalog, host, channel.clone(), most, now_ms).await?;
    look_at_binds(catalog, host, channel, most, now_ms).await?;
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use holdfast_proto::v1::Mount;
    use holdfast_proto::v1::mount_service_server::{MountService, MountServiceServer};

    use super::*;
    use crate::catalog::sources::add_host;
    use crate::limits::LIST_ITEMS;

    fn listed(name: &str) -> Volume {
        Volume { name: name.to_owned(), ..Volume::default() }
    }

    #[test]
    fn v04_names_that_no_volume_has_are_left_out() {
        assert!(seen(listed("db_data")).is_some());
        for name in [String::new(), "x".repeat(256), "a\u{1b}[31mb".to_owned(), "a\nb".to_owned()] {
            assert!(seen(listed(&name)).is_none(), "{name:?}");
        }
    }

    #[test]
    fn v21_what_holdfasts_own_containers_bind_is_left_out() {
        let container = |name: &str, own| {
            let mount = holdfast_proto::v1::Mount {
                kind: MountKind::Bind.into(),
                source: format!("/srv/{name}"),
                ..Default::default()
            };
            ContainerMounts { state: "running".to_owned(), mounts: vec![mount], own, ..Default::default() }
        };
        let found = binds(vec![container("web", false), container("agent", true)]);
        assert_eq!(found.kept.iter().map(|bind| bind.path.as_str()).collect::<Vec<_>>(), ["/srv/web"]);
    }

    #[test]
    fn v04_labels_are_bounded_in_number_and_length() {
        let labels: HashMap<String, String> =
            (0..1000).map(|n| (n.to_string(), "v".repeat(if n < 900 { 1 } else { 1 << 20 }))).collect();
        let volume =
            seen(Volume { labels, driver: "d".repeat(1 << 20), ..listed("data") }).expect("a volume");
        assert_eq!((volume.labels.len(), volume.driver.len()), (LABELS, TEXT));
        assert!(volume.labels.values().all(|value| value.len() == 1));
        assert!(size(&volume) < 64 << 10);
    }

    /// A host that answers every list of mounts with these.
    #[derive(Clone)]
    struct Mounts(Vec<ContainerMounts>);

    #[tonic::async_trait]
    impl MountService for Mounts {
        type ListMountsStream = tokio_stream::Iter<std::vec::IntoIter<Result<ContainerMounts, Status>>>;

        async fn list_mounts(
            &self,
            _request: tonic::Request<ListMountsRequest>,
        ) -> Result<tonic::Response<Self::ListMountsStream>, Status> {
            let listed: Vec<_> = self.0.iter().cloned().map(Ok).collect();
            Ok(tonic::Response::new(tokio_stream::iter(listed)))
        }
    }

    async fn serve(containers: Vec<ContainerMounts>) -> Channel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let service = MountServiceServer::new(Mounts(containers));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_lazy()
    }

    /// Containers that run, each with a few directories of its own.
    fn containers(count: usize, each: usize) -> Vec<ContainerMounts> {
        let mount = |path: String| Mount { kind: MountKind::Bind.into(), source: path, ..Mount::default() };
        (0..count)
            .map(|n| ContainerMounts {
                container_name: format!("c{n}"),
                state: "running".to_owned(),
                mounts: (0..each).map(|m| mount(format!("/srv/{n}/{m}"))).collect(),
                ..ContainerMounts::default()
            })
            .collect()
    }

    async fn alarms_of(containers: Vec<ContainerMounts>) -> (usize, Vec<String>) {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let outcome =
            look_at_binds(&catalog, host, serve(containers).await, Duration::from_secs(60), 1).await;
        let alarms = catalog.alarms(0).await.expect("asked");
        assert!(outcome.is_ok() || !alarms.is_empty(), "{outcome:?}");
        let known = catalog.binds(Some(host)).await.expect("listed").len();
        (known, alarms.into_iter().map(|alarm| alarm.reason).collect())
    }

    #[tokio::test]
    async fn v04_mounts_over_a_bound_are_a_problem_in_status() {
        assert_eq!(alarms_of(containers(4, 1024)).await, (MAX_BINDS, Vec::new()));
        let (known, alarms) = alarms_of(containers(5, 1024)).await;
        assert_eq!((known, alarms.len()), (MAX_BINDS, 1));
        assert!(alarms[0].contains("1024 directories more"), "{alarms:?}");
        let (known, alarms) = alarms_of(containers(LIST_ITEMS + 1, 0)).await;
        assert_eq!((known, alarms.len()), (0, 1));
        assert!(alarms[0].contains("mounts were not taken over"), "{alarms:?}");
    }
}

//! `MountService`: what each container mounts.

use holdfast_proto::v1::mount_service_server::MountService;
use holdfast_proto::v1::{ContainerMounts, ListMountsRequest};
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use super::convert;
use crate::engine::{Container, Engine, EngineError, MountKind, VolumeName};

#[derive(Debug, Clone)]
pub(crate) struct MountApi {
    engine: Engine,
}

impl MountApi {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl MountService for MountApi {
    type ListMountsStream = Iter<std::vec::IntoIter<Result<ContainerMounts, Status>>>;

    async fn list_mounts(
        &self,
        request: Request<ListMountsRequest>,
    ) -> Result<Response<Self::ListMountsStream>, Status> {
        let ListMountsRequest { containers, volume } = request.into_inner();
        let volume = (!volume.is_empty()).then(|| volume.parse::<VolumeName>()).transpose()?;
        let found = list_mounts(&self.engine, &containers, volume.as_ref()).await?;
        let answers: Vec<_> =
            found.into_iter().map(|container| Ok(convert::container_mounts(container))).collect();
        Ok(Response::new(tokio_stream::iter(answers)))
    }
}

/// Containers with their mounts, by name: those asked for, or all but holders.
/// One that is removed meanwhile is left out unless it was asked for.
async fn list_mounts(
    engine: &Engine,
    wanted: &[String],
    volume: Option<&VolumeName>,
) -> Result<Vec<Container>, EngineError> {
    let mut containers = Vec::new();
    for id in wanted {
        containers.push(engine.inspect_container(id).await?);
    }
    if wanted.is_empty() {
        for summary in engine.list_containers().await?.into_iter().filter(|summary| !summary.is_holder()) {
            match engine.inspect_container(&summary.id).await {
                Ok(container) => containers.push(container),
                // It was removed between the list and the look.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    if let Some(volume) = volume {
        for container in &mut containers {
            container
                .mounts
                .retain(|mount| mount.kind == MountKind::Volume && mount.source == volume.as_str());
        }
        containers.retain(|container| !container.mounts.is_empty());
    }
    containers.sort_by(|left, right| (&left.name, &left.id).cmp(&(&right.name, &right.id)));
    // A container may be asked for twice, by its name and by its id.
    containers.dedup_by(|left, right| left.id == right.id);
    Ok(containers)
}

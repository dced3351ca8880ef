//! Containers that keep a volume mounted while the agent works on its data.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as MountSpec, MountType, MountVolumeOptions,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::{CHANGE_LIMIT, Engine, EngineError, VolumeName};

/// Label of a holder container; its value is the agent's instance id.
pub(crate) const HOLDER_LABEL: &str = "holdfast.holder";

/// A holder container to make.
#[derive(Debug, Clone)]
pub struct HolderSpec<'a> {
    pub name: &'a str,
    pub image: &'a str,
    pub instance: &'a str,
    pub volume: &'a VolumeName,
    /// Where the volume is mounted inside.
    pub target: &'a str,
}

impl Engine {
    /// Makes a holder container and returns its id. It has no network, no
    /// capability, no log and a read-only root. The volume is mounted read-only
    /// in the container, which says nothing about the mount on the host, and
    /// with `nocopy`, or the Engine would fill an empty volume from the image.
    ///
    /// # Errors
    /// `NotFound` when the image is gone, `Conflict` when the name is taken.
    pub async fn create_holder(&self, spec: &HolderSpec<'_>) -> Result<String, EngineError> {
        let mount = MountSpec {
            target: Some(spec.target.to_owned()),
            source: Some(spec.volume.to_string()),
            typ: Some(MountType::VOLUME),
            read_only: Some(true),
            // Without `no_copy` the Engine would fill an empty volume from the image.
            volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
            ..Default::default()
        };
        let host_config = HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), ..Default::default() }),
            mounts: Some(vec![mount]),
            ..Default::default()
        };
        let body = ContainerCreateBody {
            image: Some(spec.image.to_owned()),
            labels: Some(HashMap::from([(HOLDER_LABEL.to_owned(), spec.instance.to_owned())])),
            host_config: Some(host_config),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(spec.name).build();
        let operation = format!("create container `{}` to hold volume `{}`", spec.name, spec.volume);
        let created =
            self.call(&operation, CHANGE_LIMIT, self.docker.create_container(Some(options), body)).await?;
        Ok(created.id)
    }

    /// Ids and names of the holder containers of one agent instance.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn list_holders(&self, instance: &str) -> Result<Vec<(String, String)>, EngineError> {
        let containers = self.list_containers().await?;
        let own = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get(HOLDER_LABEL).is_some_and(|value| value == instance)
        };
        let holders = containers.into_iter().filter(|container| own(&container.labels));
        Ok(holders.map(|container| (container.id, container.name)).collect())
    }
}

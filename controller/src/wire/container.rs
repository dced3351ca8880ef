//! Containers: as their host lists them, and as a backup had them quiesced.

use holdfast_proto::v1;

use crate::model::container::Container;
use crate::model::job::quiesced::ContainerQuiesced;

impl From<v1::Container> for Container {
    fn from(container: v1::Container) -> Self {
        // Its state and its mounts are looked at where it is upgraded.
        let v1::Container { id, name, image, labels, .. } = container;
        Self { id, name, image, labels: labels.into_iter().collect() }
    }
}

both_ways!(ContainerQuiesced { container_id, container_name, how, downtime_ms, resumed, problem });

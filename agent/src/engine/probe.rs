//! What the Engine puts on every container.

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value, json};

use super::holders::HOLDER_LABEL;
use super::{Engine, EngineError};

/// Value of the holder label on a container that is only looked at.
const PROBE: &str = "probe";

const NAME: &str = "holdfast-probe-";

/// How long one is left alone that is not this agent's own, in seconds. It was
/// left by an agent that died, or is another one's that is at work.
const LEFT_ALONE_SECONDS: u64 = 10 * 60;

impl Engine {
    /// The limits the Engine shows on every container without having been asked
    /// for any. It tells of them nowhere else, so a container that asks for
    /// nothing is made of `image`, looked at and removed; it never runs, and
    /// nothing is mounted where the image has volumes.
    ///
    /// # Errors
    /// When the Engine cannot be asked or does not make it.
    pub async fn default_ulimits(&self, image: &Value) -> Result<Vec<Value>, EngineError> {
        // Since the host booted, which no clock setting moves: the Engine and
        // whoever else is at work here are on the same host.
        let now = u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or_default();
        for container in self.list_containers().await? {
            let is_probe = container.labels.get(HOLDER_LABEL).is_some_and(|value| value == PROBE);
            let made =
                container.name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()?.parse().ok());
            if is_probe
                && made
                    .is_none_or(|made: u64| !(made..=made.saturating_add(LEFT_ALONE_SECONDS)).contains(&now))
            {
                self.remove_container(&container.id).await?;
            }
        }
        let volumes = image["Config"]["Volumes"].as_object().into_iter().flat_map(Map::keys);
        let tmpfs: Map<String, Value> = volumes.map(|target| (target.clone(), json!(""))).collect();
        let body = json!({
            "Image": image["Id"],
            "Entrypoint": ["/never-run"],
            "Labels": { HOLDER_LABEL: PROBE },
            "NetworkDisabled": true,
            "HostConfig": { "NetworkMode": "none", "Tmpfs": tmpfs, "LogConfig": { "Type": "none" } },
        });
        let name = format!("{NAME}{now}-{:08x}", rand::random::<u32>());
        let made = self.create_container_json(&name, None, &body).await?;
        let seen = self.inspect_container_json(&made.id).await;
        self.remove_container(&made.id).await?;
        Ok(seen?["HostConfig"]["Ulimits"].as_array().cloned().unwrap_or_default())
    }
}

//! What agents say of themselves, and what they are told of the controller.

use holdfast_proto::v1;

use super::fields::optional;
use crate::model::agent::{Agent, Engine};
use crate::model::own_directory::OwnDirectory;

both_ways!(Agent { version, instance_id, engine: optional, engine_problem, allow, now_unix_ms });

both_ways!(Engine {
    id,
    name,
    version,
    api_version,
    api_version_used,
    operating_system,
    kernel_version,
    storage_driver,
    data_root,
    cgroup_version,
    rootless,
    userns_remap,
});

to_message!(OwnDirectory { what, path, device, inode });

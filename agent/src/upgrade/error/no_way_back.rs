//! Why a committed upgrade cannot be rolled back as things are.

use holdfast_proto::ErrorCode;

use crate::engine::VolumeName;

#[derive(Debug, thiserror::Error)]
pub enum NoWayBack {
    #[error("`{name}` is another container by now, made after the upgrade: rename or remove it first")]
    NameTaken { name: String },
    #[error(
        "the old container `{kept}` was removed and so was `{layer}`, the image with what it wrote outside its mounts: there is nothing to go back to; end the grace period: holdfast upgrade commit {name}"
    )]
    LayerGone { kept: String, layer: String, name: String },
    #[error(
        "the old container `{kept}` was removed and so was its image {image}: there is nothing to go back to; pull or load that image and try again before the grace period ends, or end it: holdfast upgrade commit {name}"
    )]
    ImageGone { kept: String, image: String, name: String },
    #[error(
        "network `{network}`, in which `{name}` was, is gone: make it again (`docker network create {network}`, or `docker-compose up --no-start` where it is compose's), then try again"
    )]
    NetworkGone { network: String, name: String },
    #[error(
        "volume `{volume}`, which the old container of `{name}` used, is gone, and its data with it: to go back with an empty one, `docker volume create {volume}` and try again"
    )]
    VolumeGone { volume: VolumeName, name: String },
}

impl NoWayBack {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NameTaken { .. } => ErrorCode::NameTaken,
            Self::LayerGone { .. } | Self::ImageGone { .. } => ErrorCode::OldGone,
            Self::NetworkGone { .. } => ErrorCode::NetworkGone,
            Self::VolumeGone { .. } => ErrorCode::VolumeGone,
        }
    }
}

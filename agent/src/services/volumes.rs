//! `VolumeService`: volumes of this host's Engine.
//!
//! Looking is always allowed, also at what a prune would remove. Making needs
//! the right to restore, and [`volume_settings`] decides where a new volume may
//! lead. Removing takes data away and needs a right of its own.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use globset::{Glob, GlobSet, GlobSetBuilder};
use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;
use holdfast_proto::v1;
use holdfast_proto::v1::volume_service_server::VolumeService;
use tonic::{Request, Response, Status};

use super::convert;
use super::status::creating;
use crate::allow::Right;
use crate::config::Config;
use crate::engine::{Engine, EngineError, EngineErrorKind, NewVolume, Volume, VolumeName};
use crate::holder::Holders;
use crate::own::{Own, OwnPlaces};
use crate::prune::{self, LabelFilter, PruneRequest};
use crate::usage::{self, Usage, UsageError};
use crate::volume_path::{self, ReachPlan, plan_reach};
use crate::volume_settings;

type Users = HashMap<String, Vec<v1::VolumeUser>>;

#[derive(Debug, Clone)]
pub(crate) struct VolumeApi {
    config: Arc<Config>,
    engine: Engine,
    holders: Holders,
    own: Own,
}

impl VolumeApi {
    pub(crate) fn new(config: Arc<Config>, engine: Engine, holders: Holders, own: Own) -> Self {
        Self { config, engine, holders, own }
    }

    /// Who uses which volume, and what is Holdfast's own.
    async fn users(&self) -> Result<(Users, OwnPlaces), EngineError> {
        let mut users = Users::new();
        let containers = self.engine.list_containers().await?;
        for container in containers.iter().filter(|container| !container.is_holder()) {
            for (volume, user) in convert::volume_users(container) {
                users.entry(volume.to_owned()).or_default().push(user);
            }
        }
        Ok((users, self.own.places(&containers)))
    }

    async fn usage(&self, name: &VolumeName) -> Result<Usage, UsageError> {
        let reached = volume_path::resolve(&self.engine, &self.holders, name).await?;
        let usage = usage::measure(&reached).await;
        reached.release().await.map_err(|error| UsageError::Reach(error.into()))?;
        usage
    }

    /// Usage for a list: none where it takes a container to find out, and none
    /// for a volume that goes meanwhile.
    async fn listed_usage(&self, volume: &Volume) -> Option<Usage> {
        let name = volume.name.parse().ok().filter(|_| plan_reach(volume) == ReachPlan::Direct)?;
        match self.usage(&name).await {
            Ok(usage) => Some(usage),
            Err(error) => {
                tracing::warn!(%error, volume.name = %name, "the usage of a volume is not known");
                None
            }
        }
    }
}

impl VolumeApi {
    /// Says which volumes have names near to one that is not there.
    async fn unknown(&self, name: &VolumeName, error: EngineError) -> Status {
        if !error.is_not_found() {
            return error.into();
        }
        let volumes = self.engine.list_volumes().await.unwrap_or_default();
        let suggestion = did_you_mean(name.as_str(), volumes.iter().map(|other| other.name.as_str()));
        ErrorCode::NotFound.status(format!("volume `{name}` is not there{suggestion}"))
    }

    /// The Engine names users by id; people know them by name.
    async fn not_removed(&self, name: &VolumeName, error: EngineError) -> Status {
        if error.kind() != EngineErrorKind::Conflict {
            return self.unknown(name, error).await;
        }
        let users = self.engine.volume_users(name).await.unwrap_or_default();
        let users: Vec<String> = users.iter().map(|user| format!("`{}`", user.name)).collect();
        match users.as_slice() {
            [] => error.into(),
            users => ErrorCode::Conflict.status(format!("volume `{name}` is in use by {}", users.join(", "))),
        }
    }
}

#[tonic::async_trait]
impl VolumeService for VolumeApi {
    type ListVolumesStream = Pin<Box<dyn Stream<Item = Result<v1::Volume, Status>> + Send>>;

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<Self::ListVolumesStream>, Status> {
        let v1::ListVolumesRequest { names, labels, driver, unused, with_usage } = request.into_inner();
        let filter = VolumeFilter {
            names: globs(&names)?,
            labels: labels.iter().map(|label| LabelFilter::parse(label)).collect(),
            driver,
            unused,
        };
        let volumes = self.engine.list_volumes().await?;
        let (mut users, own) = self.users().await?;
        let listed: Vec<_> = volumes
            .into_iter()
            .map(|volume| (users.remove(&volume.name).unwrap_or_default(), volume))
            .filter(|(users, volume)| filter.matches(volume, !users.is_empty()))
            .map(|(users, volume)| (users, own.volume(&volume), volume))
            .collect();
        let api = self.clone();
        let answers = futures_util::stream::iter(listed).then(move |(users, own, volume)| {
            let api = api.clone();
            async move {
                let usage = if with_usage { api.listed_usage(&volume).await } else { None };
                Ok(convert::volume(volume, users, usage, own))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn inspect_volume(
        &self,
        request: Request<v1::InspectVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let v1::InspectVolumeRequest { name, with_usage } = request.into_inner();
        let name: VolumeName = name.parse()?;
        let volume = match self.engine.inspect_volume(&name).await {
            Ok(volume) => volume,
            Err(error) => return Err(self.unknown(&name, error).await),
        };
        let (mut users, own) = self.users().await?;
        let (users, own) = (users.remove(name.as_str()).unwrap_or_default(), own.volume(&volume));
        let usage = if with_usage { Some(self.usage(&name).await?) } else { None };
        Ok(Response::new(convert::volume(volume, users, usage, own)))
    }

    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        self.config.allow.check(Right::Restore)?;
        let v1::CreateVolumeRequest { name, driver, options, labels } = request.into_inner();
        let wanted = NewVolume {
            name: name.parse()?,
            driver: if driver.is_empty() { "local".to_owned() } else { driver },
            options: options.into_iter().collect(),
            labels: labels.into_iter().collect(),
        };
        // `restore` lets a controller make volumes, not reach any directory through one.
        volume_settings::check(&self.config.allow, &wanted)?;
        // The Engine calls one that is there made, and takes no other settings.
        self.own.refuse_volume(&wanted.name).await?;
        let created = self.engine.create_volume(&wanted).await.map_err(creating)?;
        Ok(Response::new(v1::CreateVolumeResponse {
            volume: Some(convert::volume(created.volume, Vec::new(), None, None)),
            created: created.created,
        }))
    }

    async fn remove_volume(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Result<Response<v1::RemoveVolumeResponse>, Status> {
        self.config.allow.check(Right::Remove)?;
        let name: VolumeName = request.into_inner().name.parse()?;
        self.own.refuse_volume(&name).await?;
        if let Err(error) = self.engine.remove_volume(&name).await {
            return Err(self.not_removed(&name, error).await);
        }
        tracing::info!(volume.name = %name, "volume removed");
        Ok(Response::new(v1::RemoveVolumeResponse {}))
    }

    async fn prune_volumes(
        &self,
        request: Request<v1::PruneVolumesRequest>,
    ) -> Result<Response<v1::PruneVolumesResponse>, Status> {
        let v1::PruneVolumesRequest { labels, include_named, dry_run, names } = request.into_inner();
        // Looking is free: an operator sees what would go without any right.
        if !dry_run {
            self.config.allow.check(Right::Remove)?;
        }
        for name in &names {
            name.parse::<VolumeName>()?;
        }
        let labels = labels.iter().map(|label| LabelFilter::parse(label)).collect();
        let wanted = PruneRequest { labels, include_named, names };
        let own = self.own.look().await?;
        let pruned = match dry_run {
            true => prune::look(&self.engine, &own, &wanted).await?,
            false => prune::apply_prune(&self.engine, &own, &wanted).await?,
        };
        Ok(Response::new(convert::pruned(pruned)))
    }
}

struct VolumeFilter {
    names: Option<GlobSet>,
    labels: Vec<LabelFilter>,
    driver: String,
    unused: Option<bool>,
}

impl VolumeFilter {
    fn matches(&self, volume: &Volume, used: bool) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(&volume.name))
            && self.labels.iter().all(|label| label.matches(&volume.labels))
            && (self.driver.is_empty() || self.driver == volume.driver)
            && self.unused.is_none_or(|unused| unused != used)
    }
}

pub(super) fn globs(patterns: &[String]) -> Result<Option<GlobSet>, Status> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let refused =
        |error: globset::Error| ErrorCode::InvalidRequest.status(format!("a name pattern is wrong: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(refused)?);
    }
    set.build().map(Some).map_err(refused)
}

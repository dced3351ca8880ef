//! `SourceService`: what could be backed up, and what is given up.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use holdfast_archive::text::did_you_mean;
use holdfast_proto::v1::source_service_server::SourceService;
use holdfast_proto::v1::{self, ListSourcesRequest, RetireSourceRequest, Source};
use tonic::{Request, Response, Status};

use super::scope::shown_hosts;
use super::status_map::catalog_failed;
use crate::catalog::binds::BindRecord;
use crate::catalog::hosts::HostRecord;
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::catalog::sources::SourceRecord;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::coverage::kept::Kept;
use crate::model::caller::Caller;
use crate::model::source::SourceKind;
use crate::operations::names;
use holdfast_proto::ErrorCode;

/// Answers for sources.
#[derive(Debug, Clone)]
pub struct SourceApi {
    catalog: Catalog,
}

/// What is known of the sources of one host or of all.
struct Known {
    hosts: BTreeMap<HostId, String>,
    sources: Vec<SourceRecord>,
    binds: Vec<BindRecord>,
    snapshots: Vec<SnapshotRecord>,
}

impl Known {
    async fn of(catalog: &Catalog, host: Option<HostId>) -> Result<Self, CatalogError> {
        let filter = SnapshotFilter { host, ..SnapshotFilter::default() };
        Ok(Self {
            hosts: catalog.hosts().await?.into_iter().map(|host| (host.id, host.name)).collect(),
            sources: catalog.sources(host).await?,
            binds: catalog.binds(host).await?,
            snapshots: catalog.snapshots(&filter).await?,
        })
    }

    /// A directory that was backed up and is bound as well is one source.
    fn encode(self) -> Vec<Source> {
        let Self { hosts, sources, binds, snapshots } = self;
        let kept = Kept::of(&snapshots);
        let name_of = |host: &HostId| hosts.get(host).cloned().unwrap_or_default();
        let mut encoded: BTreeMap<(String, String, bool), Source> = BTreeMap::new();
        for source in sources {
            let key = (name_of(&source.host), source.name.clone(), source.kind == SourceKind::Volume);
            encoded.insert(key, encode(source, name_of, &kept));
        }
        for bind in binds {
            let host = name_of(&bind.host);
            let key = (host.clone(), bind.path.clone(), false);
            let source = encoded.entry(key).or_insert_with(|| Source {
                host,
                kind: v1::SourceKind::Directory.into(),
                name: bind.path,
                first_seen_unix_ms: bind.first_seen_ms,
                last_seen_unix_ms: bind.last_seen_ms,
                gone_unix_ms: bind.gone_ms.unwrap_or(0),
                ..Source::default()
            });
            // A directory that is backed up and bound by a container is one line of the list.
            source.bound_by = if bind.gone_ms.is_none() { bind.containers } else { Vec::new() };
            source.retired_unix_ms = source.retired_unix_ms.max(bind.retired_ms.unwrap_or(0));
        }
        encoded.into_values().collect()
    }
}

fn encode(source: SourceRecord, name_of: impl Fn(&HostId) -> String, kept: &Kept<'_>) -> Source {
    Source {
        host: name_of(&source.host),
        kind: v1::SourceKind::from(source.kind).into(),
        first_seen_unix_ms: source.first_seen_ms,
        last_seen_unix_ms: source.last_seen_ms,
        gone_unix_ms: source.gone_ms.unwrap_or(0),
        retired_unix_ms: source.retired_ms.unwrap_or(0),
        snapshots: kept.count(source.id) as u64,
        last_backup_unix_ms: kept.newest_ms(source.id).unwrap_or(0),
        bound_by: Vec::new(),
        name: source.name,
        own: source.own,
    }
}

impl SourceApi {
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }

    /// Refuses to give up what would be asked for again by the next look.
    async fn refuse_wanted(&self, host: &HostRecord, source: &SourceRecord) -> Result<(), Status> {
        let name = &source.name;
        if source.kind == SourceKind::Volume {
            if source.gone_ms.is_some() {
                return Ok(());
            }
            let message = format!(
                "volume `{name}` is on host `{}`: only one that is gone can be retired; \
                 what a policy does not back up it leaves out by `exclude`",
                host.name
            );
            let hint = format!("holdfast volume inspect {name} --host {}", host.name);
            return Err(ErrorCode::SourceThere.status_with_hint(message, &hint));
        }
        let policies = self.catalog.policies().await.map_err(|error| catalog_failed(&error))?;
        let naming = |policy: &crate::policy::Policy| {
            policy.enabled && policy.selects(host) && policy.directories.contains(name)
        };
        let Some(record) = policies.iter().find(|record| naming(&record.policy)) else { return Ok(()) };
        let policy = &record.policy.name;
        let message = format!("policy `{policy}` names directory `{name}`: take it out there first");
        Err(ErrorCode::SourceThere.status_with_hint(message, &format!("holdfast policy show {policy}")))
    }

    async fn retire(&self, request: RetireSourceRequest) -> Result<Source, Status> {
        let failed = |error: CatalogError| catalog_failed(&error);
        let RetireSourceRequest { host, source: name, undo } = request;
        let host = names::host(&self.catalog, &host).await?;
        let retired_ms = (!undo).then(now_ms);
        let sources = self.catalog.sources(Some(host.id)).await.map_err(failed)?;
        let source = sources.iter().find(|source| source.name == name);
        if let Some(source) = source {
            if !undo {
                self.refuse_wanted(&host, source).await?;
            }
            self.catalog.retire_source(source.id, retired_ms).await.map_err(failed)?;
        }
        // By name, both: a directory may be a source, a bind, or one and the other.
        let bound = self.catalog.retire_bind(host.id, &name, retired_ms).await.map_err(failed)?;
        let known = Known::of(&self.catalog, Some(host.id)).await.map_err(failed)?.encode();
        if source.is_none() && !bound {
            let near = did_you_mean(&name, known.iter().map(|source| source.name.as_str()));
            let hint = format!("holdfast source ls --host {}", host.name);
            let message = format!("host `{}` never had a source `{name}`{near}", host.name);
            return Err(ErrorCode::SourceUnknown.status_with_hint(message, &hint));
        }
        tracing::info!(host.id = %host.id, host.name = %host.name, source = name, undo, "source retired");
        let answer = known.into_iter().find(|source| source.name == name);
        answer.ok_or_else(|| ErrorCode::Internal.status("the source just retired is not there"))
    }
}

#[tonic::async_trait]
impl SourceService for SourceApi {
    type ListSourcesStream = tokio_stream::Iter<std::vec::IntoIter<Result<Source, Status>>>;

    async fn list_sources(
        &self,
        request: Request<ListSourcesRequest>,
    ) -> Result<Response<Self::ListSourcesStream>, Status> {
        let caller = Caller::of(&request);
        let host = match request.into_inner().host.as_str() {
            "" => None,
            name => Some(names::host(&self.catalog, name).await?.id),
        };
        let mut known = Known::of(&self.catalog, host).await.map_err(|error| catalog_failed(&error))?;
        let shown = shown_hosts(&self.catalog, &caller).await.map_err(|error| catalog_failed(&error))?;
        if let Some(shown) = shown {
            known.sources.retain(|source| shown.contains_key(&source.host));
            known.binds.retain(|bind| shown.contains_key(&bind.host));
        }
        let sources: Vec<_> = known.encode().into_iter().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(sources)))
    }

    async fn retire_source(&self, request: Request<RetireSourceRequest>) -> Result<Response<Source>, Status> {
        self.retire(request.into_inner()).await.map(Response::new)
    }
}

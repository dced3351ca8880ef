//! `HostService`: the hosts of the fleet, and the way in and out.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_proto::join_token::JoinToken;
use holdfast_proto::v1::host_service_server::HostService;
use holdfast_proto::v1::{
    self, CreateJoinTokenRequest, CreateJoinTokenResponse, GetHostRequest, Host, LabelHostRequest,
    ListHostsRequest, RetireHostRequest, RetireHostResponse, RevokeHostRequest, RevokeHostResponse,
};
use tonic::{Request, Response, Status};

use super::status_map::catalog_failed;
use crate::api::forward::find_host;
use crate::catalog::enrolment::{NewJoinToken, TOKEN_LIFE_MS};
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::JobFilter;
use crate::catalog::snapshots::SnapshotFilter;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::fleet::Fleet;
use crate::identity::ca::Authority;
use crate::identity::name::{Labels, Name, check_labels};
use crate::identity::token;
use crate::model::caller::Caller;
use crate::model::job::state::State;
use holdfast_proto::ErrorCode;

/// A join token's life, in seconds, at most and unless asked otherwise.
const MAX_TOKEN_SECONDS: u32 = (TOKEN_LIFE_MS / 1000) as u32;

/// Where agents find this controller.
#[derive(Debug, Clone)]
pub struct Addresses {
    configured: Vec<String>,
    bound: SocketAddr,
}

impl Addresses {
    /// A configured address without a port gets the one that is bound.
    pub fn new(configured: Vec<String>, bound: SocketAddr) -> Self {
        Self { configured, bound }
    }

    /// For join tokens: what is configured, else what is bound.
    pub fn for_tokens(&self) -> Vec<String> {
        if self.configured.is_empty() {
            return vec![self.bound.to_string()];
        }
        let with_port = |address: &String| match crate::config::split_address(address) {
            (_, Some(_)) => address.clone(),
            (host, None) if host.contains(':') => format!("[{host}]:{}", self.bound.port()),
            (host, None) => format!("{host}:{}", self.bound.port()),
        };
        self.configured.iter().map(with_port).collect()
    }
}

#[derive(Debug, Clone)]
pub struct HostApi {
    catalog: Catalog,
    fleet: Fleet,
    authority: Arc<Authority>,
    addresses: Addresses,
}

impl HostApi {
    pub fn new(catalog: Catalog, fleet: Fleet, authority: Arc<Authority>, addresses: Addresses) -> Self {
        Self { catalog, fleet, authority, addresses }
    }

    fn encode(&self, record: HostRecord) -> Host {
        let HostRecord {
            id,
            name,
            labels,
            joined_ms,
            revoked_ms,
            retired_ms,
            last_seen_ms,
            certificate_not_after_ms,
            instance_id: _,
            agent,
            clock_skew_ms,
            volumes,
        } = record;
        Host {
            id: id.to_string(),
            name,
            labels: labels.into_iter().collect(),
            connected: self.fleet.is_connected(id),
            revoked: revoked_ms.is_some(),
            last_seen_unix_ms: last_seen_ms.unwrap_or(0),
            joined_unix_ms: joined_ms,
            certificate_not_after_unix_ms: certificate_not_after_ms.unwrap_or(0),
            agent: agent.map(v1::Agent::from),
            volumes,
            clock_skew_ms,
            retired: retired_ms.is_some(),
        }
    }

    /// Closes a host out. False: it was before.
    async fn close_out(&self, host: &HostRecord) -> Result<bool, CatalogError> {
        // Refused first, closed second: the other way round it could dial again.
        let revoked = self.catalog.revoke_host(host.id, now_ms()).await?;
        self.fleet.disconnect(host.id);
        Ok(revoked)
    }

    /// Jobs that wait for a host which will not come.
    async fn end_waiting(&self, host: &HostRecord) -> Result<(), CatalogError> {
        let filter = JobFilter {
            host: Some(host.id),
            states: vec![State::Queued],
            limit: u32::MAX,
            ..JobFilter::default()
        };
        let why = format!("host `{}` was retired", host.name);
        for job in self.catalog.jobs(&filter).await? {
            self.catalog
                .end_queued_job(job.id, State::Cancelled, ErrorCode::HostRetired.as_str(), &why, now_ms())
                .await?;
        }
        Ok(())
    }

    async fn retire(&self, name: &str) -> Result<Option<RetireHostResponse>, CatalogError> {
        let Some(host) = self.catalog.host_by_name(name).await? else {
            let void = self.catalog.retire_tokens(name, now_ms()).await?;
            return Ok((void > 0).then(RetireHostResponse::default));
        };
        // Tokens first: one that is still good would bring it back right away.
        self.catalog.retire_tokens(&host.name, now_ms()).await?;
        self.close_out(&host).await?;
        self.catalog.retire_host(host.id, now_ms()).await?;
        self.end_waiting(&host).await?;
        let filter = SnapshotFilter { host: Some(host.id), ..SnapshotFilter::default() };
        let snapshots = self.catalog.snapshots(&filter).await?.len();
        tracing::info!(host.id = %host.id, host.name = %host.name, snapshots, "host retired");
        Ok(Some(RetireHostResponse { joined: true, snapshots: snapshots as u64 }))
    }
}

#[tonic::async_trait]
impl HostService for HostApi {
    type ListHostsStream = tokio_stream::Iter<std::vec::IntoIter<Result<Host, Status>>>;

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<Self::ListHostsStream>, Status> {
        let caller = Caller::of(&request);
        let wanted = request.into_inner().labels;
        let hosts = self.catalog.hosts().await.map_err(|error| catalog_failed(&error))?;
        let hosts: Vec<_> = hosts
            .into_iter()
            .filter(|host| caller.sees(&host.labels))
            .filter(|host| wanted.iter().all(|label| has_label(&host.labels, label)))
            .map(|host| Ok(self.encode(host)))
            .collect();
        Ok(Response::new(tokio_stream::iter(hosts)))
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        let host = find_host(&self.catalog, &request.into_inner().host).await?;
        Ok(Response::new(self.encode(host)))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let CreateJoinTokenRequest { name, labels, valid_seconds } = request.into_inner();
        let name: Name = name.parse().map_err(|error| ErrorCode::InvalidName.status(format!("{error}")))?;
        let labels =
            check_labels(&labels).map_err(|error| ErrorCode::InvalidLabel.status(error.to_string()))?;
        let seconds = match valid_seconds {
            0 => MAX_TOKEN_SECONDS,
            seconds if seconds <= MAX_TOKEN_SECONDS => seconds,
            _ => {
                return Err(ErrorCode::InvalidRequest.status("a join token is valid for an hour at most"));
            }
        };
        let secret = token::random_secret();
        let created_ms = now_ms();
        let expires_ms = created_ms + i64::from(seconds) * 1000;
        let record = NewJoinToken {
            // The hash alone is kept: a copy of the catalogue lets nobody join.
            hash: &token::hash(&secret),
            host_name: name.as_str(),
            labels: &labels,
            created_ms,
            expires_ms,
        };
        self.catalog.put_join_token(&record).await.map_err(|error| catalog_failed(&error))?;
        let token = JoinToken {
            addresses: self.addresses.for_tokens(),
            ca_key_sha256: self.authority.key_sha256(),
            secret,
            host_name: name.to_string(),
        };
        Ok(Response::new(CreateJoinTokenResponse { token: token.encode(), expires_unix_ms: expires_ms }))
    }

    async fn label_host(&self, request: Request<LabelHostRequest>) -> Result<Response<Host>, Status> {
        let LabelHostRequest { host, set, remove } = request.into_inner();
        let mut host = find_host(&self.catalog, &host).await?;
        host.labels.extend(set);
        host.labels.retain(|key, _| !remove.contains(key));
        host.labels =
            check_labels(&host.labels).map_err(|error| ErrorCode::InvalidLabel.status(error.to_string()))?;
        self.catalog.set_host_labels(host.id, &host.labels).await.map_err(|error| catalog_failed(&error))?;
        Ok(Response::new(self.encode(host)))
    }

    async fn revoke_host(
        &self,
        request: Request<RevokeHostRequest>,
    ) -> Result<Response<RevokeHostResponse>, Status> {
        let host = find_host(&self.catalog, &request.into_inner().host).await?;
        let revoked = self.close_out(&host).await.map_err(|error| catalog_failed(&error))?;
        tracing::info!(host.id = %host.id, host.name = %host.name, again = !revoked, "host revoked");
        Ok(Response::new(RevokeHostResponse {}))
    }

    async fn retire_host(
        &self,
        request: Request<RetireHostRequest>,
    ) -> Result<Response<RetireHostResponse>, Status> {
        let name = request.into_inner().host;
        match self.retire(&name).await.map_err(|error| catalog_failed(&error))? {
            Some(answer) => Ok(Response::new(answer)),
            // It says which hosts have names near to this one.
            None => Err(find_host(&self.catalog, &name)
                .await
                .err()
                .unwrap_or_else(|| ErrorCode::HostUnknown.status(format!("host `{name}` is not known")))),
        }
    }
}

fn has_label(labels: &Labels, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_by_key_or_by_both() {
        let labels = Labels::from([("role".to_owned(), "db".to_owned())]);
        assert!(has_label(&labels, "role") && has_label(&labels, "role=db"));
        assert!(!has_label(&labels, "role=web") && !has_label(&labels, "zone"));
    }

    #[test]
    fn tokens_name_the_configured_addresses_or_the_bound_one() {
        let bound: SocketAddr = "127.0.0.1:41237".parse().expect("address");
        let addresses = |list: &[&str]| {
            Addresses::new(list.iter().map(|a| (*a).to_owned()).collect(), bound).for_tokens()
        };
        assert_eq!(addresses(&[]), ["127.0.0.1:41237"]);
        assert_eq!(addresses(&["c.example", "10.0.0.1:7443"]), ["c.example:41237", "10.0.0.1:7443"]);
        assert_eq!(addresses(&["::1", "[::1]:5"]), ["[::1]:41237", "[::1]:5"]);
    }
}

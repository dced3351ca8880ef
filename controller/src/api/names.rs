//! Names that operators give: found, or refused with the nearest ones.

use holdfast_archive::text::did_you_mean;
use tonic::Status;

use super::status_map::catalog_failed;
use crate::catalog::Catalog;
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;
use holdfast_proto::ErrorCode;

/// A host by name or id.
pub(crate) async fn host(catalog: &Catalog, name: &str) -> Result<HostRecord, Status> {
    if name.is_empty() {
        return Err(ErrorCode::HostRequired.status("no host is named"));
    }
    if let Some(host) = catalog.host_by_name(name).await.map_err(|error| catalog_failed(&error))? {
        return Ok(host);
    }
    let known = catalog.host_names().await.map_err(|error| catalog_failed(&error))?;
    let near = did_you_mean(name, known.iter().map(String::as_str));
    Err(ErrorCode::HostUnknown.status(format!("host `{name}` is not known{near}")))
}

/// A policy by name.
pub(crate) async fn policy(catalog: &Catalog, name: &str) -> Result<PolicyRecord, Status> {
    if let Some(policy) = catalog.policy(name).await.map_err(|error| catalog_failed(&error))? {
        return Ok(policy);
    }
    let known = catalog.policies().await.map_err(|error| catalog_failed(&error))?;
    let near = did_you_mean(name, known.iter().map(|record| record.policy.name.as_str()));
    Err(ErrorCode::PolicyUnknown.status(format!("policy `{name}` is not known{near}")))
}

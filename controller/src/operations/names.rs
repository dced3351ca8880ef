//! Names that operators give: found, or refused with the nearest ones.

use holdfast_archive::text::did_you_mean;

use super::RequestError;
use crate::catalog::Catalog;
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;
use holdfast_proto::ErrorCode;

/// A host by name or id.
pub(crate) async fn host(catalog: &Catalog, name: &str) -> Result<HostRecord, RequestError> {
    if name.is_empty() {
        return Err(RequestError::new(ErrorCode::HostRequired, "no host is named"));
    }
    if let Some(host) = catalog.host_by_name(name).await? {
        return Ok(host);
    }
    let known = catalog.host_names().await?;
    let near = did_you_mean(name, known.iter().map(String::as_str));
    Err(RequestError::new(ErrorCode::HostUnknown, format!("host `{name}` is not known{near}")))
}

/// A policy by name.
pub(crate) async fn policy(catalog: &Catalog, name: &str) -> Result<PolicyRecord, RequestError> {
    if let Some(policy) = catalog.policy(name).await? {
        return Ok(policy);
    }
    let known = catalog.policies().await?;
    let near = did_you_mean(name, known.iter().map(|record| record.policy.name.as_str()));
    Err(RequestError::new(ErrorCode::PolicyUnknown, format!("policy `{name}` is not known{near}")))
}

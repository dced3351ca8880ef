//! Which hosts a call is about, for tokens that are limited to some.
//!
//! It is decided before the call is made, from what its message names. A name
//! that means nothing, and a host that the token is not good for, are refused
//! with the same words: what there is elsewhere is nothing to such a caller.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use holdfast_proto::ids::JobId;
use tonic::Status;

use super::roles::{About, Names, Rule};
use super::status_map::catalog_failed;
use super::subject::{UnreadableRequest, field_texts};
use crate::catalog::{Catalog, CatalogError};
use crate::model::caller::{Caller, HostScope};
use crate::repository::RepositoryError;
use holdfast_proto::ErrorCode;

/// What a call came with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) rule: &'a Rule,
    /// The frame of its one message, where that was read.
    pub(super) message: Option<&'a [u8]>,
    /// The host it is to go on to.
    pub(super) answering: Option<&'a str>,
}

/// Refuses a call that is about more than the hosts its caller's token is
/// limited to.
///
/// # Errors
/// The refusal, or that the catalogue failed.
pub(super) async fn refuse_other_hosts(
    catalog: &Catalog,
    caller: &Caller,
    call: Call<'_>,
) -> Result<(), Status> {
    let Some(limits) = caller.limits() else { return Ok(()) };
    let refused = |what: &str| {
        let message = format!("`{}` is good only for hosts with {limits}: {what}", caller.actor());
        Err(ErrorCode::OutOfScope.status(message))
    };
    match call.rule.about {
        About::Shown => Ok(()),
        About::Fleet => refused("this call is about the whole fleet"),
        // The call goes on to a host as it is; what its message names is that host's.
        About::AnsweringHost => {
            let covered = match call.answering {
                Some(name) => is_covered(catalog, limits, host_named(catalog, name).await).await?,
                None => false,
            };
            if covered { Ok(()) } else { refused("name one of them") }
        }
        About::Named(fields) => {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            let texts = call.message.ok_or(UnreadableRequest);
            let texts = texts.and_then(|frame| field_texts(call.rule.path, &names, frame));
            let texts = texts.map_err(|error| ErrorCode::InvalidRequest.status(error.to_string()))?;
            // A field that is left empty means all hosts, which are more than the token's.
            if texts.iter().all(String::is_empty) {
                return refused("name one of them");
            }
            for ((_, kind), text) in fields.iter().zip(texts).filter(|(_, text)| !text.is_empty()) {
                if !is_covered(catalog, limits, host_of(catalog, *kind, &text).await).await? {
                    return refused(&format!("`{}` is not one of them", text.escape_debug()));
                }
            }
            Ok(())
        }
    }
}

async fn is_covered(
    catalog: &Catalog,
    limits: &HostScope,
    host: Result<Option<HostId>, CatalogError>,
) -> Result<bool, Status> {
    let failed = |error: CatalogError| catalog_failed(&error);
    let Some(host) = host.map_err(failed)? else { return Ok(false) };
    let host = catalog.host(host).await.map_err(failed)?;
    Ok(host.is_some_and(|host| limits.covers(&host.labels)))
}

/// The host of what a field names; `None`: there is no such thing, or it is no
/// one host's.
async fn host_of(catalog: &Catalog, kind: Names, text: &str) -> Result<Option<HostId>, CatalogError> {
    match kind {
        Names::Host => host_named(catalog, text).await,
        Names::Snapshot => match crate::repository::reference::find(catalog, text).await {
            Ok(record) => Ok(Some(record.id.host)),
            Err(RepositoryError::Catalog(error)) => Err(error),
            Err(_) => Ok(None),
        },
        Names::Job => {
            let Ok(id) = text.parse::<JobId>() else { return Ok(None) };
            Ok(catalog.job(id).await?.and_then(|job| job.host))
        }
        Names::UpgradePlan => Ok(catalog.upgrade_plan(text).await?.map(|plan| plan.host)),
    }
}

async fn host_named(catalog: &Catalog, name: &str) -> Result<Option<HostId>, CatalogError> {
    Ok(catalog.host_by_name(name).await?.map(|host| host.id))
}

/// The hosts a caller is shown, by id; `None`: all of them.
///
/// # Errors
/// When the catalogue fails.
pub(super) async fn shown_hosts(
    catalog: &Catalog,
    caller: &Caller,
) -> Result<Option<BTreeMap<HostId, String>>, CatalogError> {
    if caller.limits().is_none() {
        return Ok(None);
    }
    let hosts = catalog.hosts().await?.into_iter().filter(|host| caller.sees(&host.labels));
    Ok(Some(hosts.map(|host| (host.id, host.name)).collect()))
}

//! Names that operators give: found, or refused with the nearest ones.

use tonic::Status;

use super::status_map::{ErrorCode, catalog_failed};
use crate::catalog::Catalog;
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;

/// "; did you mean `a`, `b`?", or nothing where no name is near.
pub(crate) fn did_you_mean<'k>(wanted: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= 1 + wanted.len().max(name.len()) / 4)
        .collect();
    near.sort_unstable();
    near.dedup();
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<String> = near.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    format!("; did you mean {}?", names.join(", "))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o02_the_nearest_names_are_offered() {
        assert_eq!(did_you_mean("web-3", ["web-1", "web-2", "db-1"]), "; did you mean `web-1`, `web-2`?");
        assert_eq!(did_you_mean("web-3", ["database"]), "");
    }
}

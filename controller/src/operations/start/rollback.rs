//! Starting a rollback by hand.

use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;

use super::{channel, start_job};
use crate::fleet::calls;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::job::parameters::{Parameters, RollbackParameters};
use crate::model::request::RollbackRequest;
use crate::model::upgrade::Upgrade;
use crate::operations::rollback::no_way_back;
use crate::operations::{RequestError, names};

/// Starts a rollback. Whether there is a way back its host alone knows, and is
/// asked.
///
/// # Errors
/// The host is not known, not connected or does not answer, it remembers no
/// such upgrade or has no way back from it, or the catalogue fails.
pub(crate) async fn rollback(
    jobs: &Jobs,
    request: RollbackRequest,
    actor: &str,
) -> Result<JobView, RequestError> {
    let RollbackRequest { host, upgrade, without_snapshot } = request;
    let host = names::host(jobs.catalog(), &host).await?;
    if upgrade.is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "name a container, or the job id of its upgrade",
        ));
    }
    let known = calls::upgrades(channel(jobs, &host)?, jobs.settings().call).await?;
    let Some(found) = chosen(&known, &upgrade) else {
        let near = did_you_mean(&upgrade, known.iter().map(|known| known.container_name.as_str()));
        let message = format!("host `{}` remembers no upgrade of `{upgrade}`{near}", host.name);
        let hint = format!("holdfast upgrade status --host {}", host.name);
        return Err(RequestError::with_hint(ErrorCode::UpgradeUnknown, message, hint));
    };
    if let Some(reason) = no_way_back(found) {
        return Err(RequestError::new(ErrorCode::UpgradeNotUndoable, reason));
    }
    let parameters = RollbackParameters {
        upgrade: found.job_id.clone(),
        container: found.container_name.clone(),
        without_snapshot,
    };
    start_job(jobs, Some(host.id), Parameters::Rollback(parameters), actor).await
}

/// By job id, or the newest of a container by its name: they come newest
/// first.
fn chosen<'u>(known: &'u [Upgrade], wanted: &str) -> Option<&'u Upgrade> {
    known
        .iter()
        .find(|upgrade| upgrade.job_id == wanted)
        .or_else(|| known.iter().find(|upgrade| upgrade.container_name == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_found_by_its_job_or_as_the_newest_of_its_container() {
        let upgrade =
            |id: &str| Upgrade { job_id: id.into(), container_name: "db".into(), ..Upgrade::default() };
        let known = [upgrade("new"), upgrade("old")];
        assert_eq!(chosen(&known, "db").map(|found| found.job_id.as_str()), Some("new"));
        assert_eq!(chosen(&known, "old").map(|found| found.job_id.as_str()), Some("old"));
        assert_eq!(chosen(&known, "web"), None);
    }
}

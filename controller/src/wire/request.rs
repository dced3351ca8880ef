//! Requests to start work: what a message can say that no job can mean is refused
//! here, the rest by who starts it.

use holdfast_proto::v1;

use super::number::Number;
use crate::model::job::parameters::{RestoreParameters, RestoreTarget};
use crate::model::request::{
    BackupRequest, InvalidRequest, RestoreRequest, RollbackRequest, RolloutRequest, UpgradeChoice,
    UpgradeStartRequest,
};
use crate::policy::{Consistency, NestedMounts};

impl TryFrom<v1::StartBackupRequest> for BackupRequest {
    type Error = InvalidRequest;

    fn try_from(request: v1::StartBackupRequest) -> Result<Self, InvalidRequest> {
        let v1::StartBackupRequest {
            policy,
            host,
            volumes,
            directories,
            consistency,
            allow_empty,
            plan_only,
            max_downtime_seconds,
            nested_mounts,
        } = request;
        Ok(Self {
            policy,
            host,
            volumes,
            directories,
            consistency: self::consistency(consistency)?,
            nested_mounts: self::nested_mounts(nested_mounts)?,
            max_downtime_seconds,
            allow_empty,
            plan_only,
        })
    }
}

impl TryFrom<v1::StartRestoreRequest> for RestoreRequest {
    type Error = InvalidRequest;

    fn try_from(request: v1::StartRestoreRequest) -> Result<Self, InvalidRequest> {
        let v1::StartRestoreRequest {
            snapshot,
            host,
            as_volume,
            directory,
            driver,
            options,
            devices,
            setuid,
            strict,
            paths,
            plan_only,
            salvage,
        } = request;
        let target = match (as_volume.as_str(), directory.as_str()) {
            ("", "") => return Err(invalid("name a target: a new volume or a directory")),
            (name, "") => RestoreTarget::NewVolume {
                name: name.to_owned(),
                driver,
                options: options.into_iter().collect(),
                // The agent takes over those of the snapshot.
                labels: Default::default(),
            },
            ("", _) if !driver.is_empty() || !options.is_empty() => {
                return Err(invalid("a driver and options are for a new volume"));
            }
            ("", path) if path.starts_with('/') => RestoreTarget::Directory(path.to_owned()),
            ("", path) => return Err(invalid(format!("`{path}` is no absolute path"))),
            _ => return Err(invalid("a new volume and a directory exclude each other")),
        };
        let restore = RestoreParameters { snapshot, target, devices, setuid, strict, salvage, paths };
        Ok(Self { host, restore, plan_only })
    }
}

impl TryFrom<v1::StartUpgradeRequest> for UpgradeStartRequest {
    type Error = InvalidRequest;

    fn try_from(request: v1::StartUpgradeRequest) -> Result<Self, InvalidRequest> {
        let v1::StartUpgradeRequest { plan_id, host, upgrade, consistency } = request;
        let consistency = self::consistency(consistency)?;
        if plan_id.is_empty() {
            let choice = UpgradeChoice::Now { host, request: upgrade.unwrap_or_default().into() };
            return Ok(Self { choice, consistency });
        }
        if !host.is_empty() || upgrade.is_some() {
            return Err(invalid("a plan and a host or upgrade exclude each other"));
        }
        Ok(Self { choice: UpgradeChoice::Shown { plan_id }, consistency })
    }
}

impl From<v1::StartRollbackRequest> for RollbackRequest {
    fn from(request: v1::StartRollbackRequest) -> Self {
        let v1::StartRollbackRequest { host, upgrade, without_snapshot } = request;
        Self { host, upgrade, without_snapshot }
    }
}

impl TryFrom<v1::StartRolloutRequest> for RolloutRequest {
    type Error = InvalidRequest;

    fn try_from(request: v1::StartRolloutRequest) -> Result<Self, InvalidRequest> {
        let v1::StartRolloutRequest {
            selectors,
            host_labels,
            upgrade,
            batch,
            max_failures,
            pause_seconds,
            undo,
            plan_only,
            consistency,
        } = request;
        Ok(Self {
            selectors,
            host_labels,
            upgrade: upgrade.unwrap_or_default().into(),
            consistency: self::consistency(consistency)?,
            batch,
            max_failures,
            pause_seconds,
            undo,
            plan_only,
        })
    }
}

fn invalid(message: impl Into<String>) -> InvalidRequest {
    InvalidRequest(message.into())
}

/// `None`: nothing in particular is asked for.
fn consistency(number: i32) -> Result<Option<Consistency>, InvalidRequest> {
    Number::known(number).ok_or_else(|| invalid("an unknown consistency; none, pause and stop are known"))
}

/// `None`: nothing in particular is asked for.
fn nested_mounts(number: i32) -> Result<Option<NestedMounts>, InvalidRequest> {
    Number::known(number)
        .ok_or_else(|| invalid("an unknown way with nested mounts; partial and leave-out are known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_invalid<T: std::fmt::Debug>(refused: Result<T, InvalidRequest>) {
        assert!(refused.is_err(), "{refused:?}");
    }

    #[test]
    fn a_number_that_is_no_consistency_and_no_way_with_mounts_is_refused() {
        let request = v1::StartBackupRequest { host: "web-1".into(), ..Default::default() };
        let parsed = BackupRequest::try_from(request.clone()).expect("right");
        assert_eq!((parsed.consistency, parsed.nested_mounts), (None, None));
        is_invalid(BackupRequest::try_from(v1::StartBackupRequest { consistency: 77, ..request.clone() }));
        is_invalid(BackupRequest::try_from(v1::StartBackupRequest { nested_mounts: 77, ..request }));
    }

    #[test]
    fn a_restore_has_one_target_and_settings_only_for_a_volume() {
        let request = |as_volume: &str, directory: &str, driver: &str| {
            RestoreRequest::try_from(v1::StartRestoreRequest {
                as_volume: as_volume.into(),
                directory: directory.into(),
                driver: driver.into(),
                ..Default::default()
            })
        };
        let volume = request("copy", "", "nas").expect("right").restore.target;
        assert!(matches!(volume, RestoreTarget::NewVolume { driver, .. } if driver == "nas"));
        let directory = request("", "/srv", "").expect("right").restore.target;
        assert_eq!(directory, RestoreTarget::Directory("/srv".into()));
        for (as_volume, directory, driver) in
            [("", "", ""), ("copy", "/srv", ""), ("", "/srv", "nas"), ("", "srv", "")]
        {
            is_invalid(request(as_volume, directory, driver));
        }
    }

    #[test]
    fn a_plan_that_was_shown_excludes_every_other_wish() {
        let parse = |plan_id: &str, host: &str| {
            let (plan_id, host) = (plan_id.to_owned(), host.to_owned());
            let request = v1::StartUpgradeRequest { plan_id, host, ..Default::default() };
            UpgradeStartRequest::try_from(request).map(|parsed| parsed.choice)
        };
        assert!(matches!(parse("p", ""), Ok(UpgradeChoice::Shown { .. })));
        assert!(matches!(parse("", "web-1"), Ok(UpgradeChoice::Now { .. })));
        is_invalid(parse("p", "web-1"));
    }
}

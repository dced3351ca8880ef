//! One table: who may make which call, which calls go on to a host, and what
//! of a mutating call is written into the audit chain.
//!
//! A call that is not in here is refused; a test walks every RPC of every
//! descriptor this process serves and demands exactly one row. Fields named
//! for the audit are shown as they are, so none that could hold a secret, or
//! somebody's data, is named.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::caller::{Caller, Role};

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody through the controller: jobs alone make this call to an agent.
    Nobody,
    /// Anybody who can reach the port.
    Anyone,
    /// Hosts, about themselves.
    Agent,
    /// Operators of at least this role.
    Role(Role),
}

/// Who answers a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    Controller,
    /// The host named in `holdfast-host`.
    Host,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub path: &'static str,
    pub access: Access,
    pub answered_by: AnsweredBy,
    /// For a call that changes something: the request's fields to record.
    pub audit: Option<&'static [&'static str]>,
    /// Fields of an audited call's request that only an administrator may set.
    pub admin_fields: &'static [AdminField],
}

/// A field of a request that needs an administrator when it says something.
#[derive(Debug, Clone, Copy)]
pub struct AdminField {
    pub name: &'static str,
    /// What it may say all the same; empty: nothing.
    pub harmless: &'static str,
}

/// Settings with which a volume leads to any place of its host.
const VOLUME_SETTINGS: &[AdminField] =
    &[AdminField { name: "driver", harmless: "local" }, AdminField { name: "options", harmless: "" }];

impl Rule {
    /// Whether this caller may make the call.
    pub fn admits(&self, caller: &Caller) -> bool {
        match (self.access, caller) {
            (Access::Nobody, _) => false,
            (Access::Anyone, _) | (Access::Agent, Caller::Agent { .. }) => true,
            (Access::Role(needed), Caller::Operator { role, .. }) => *role >= needed,
            (Access::Agent | Access::Role(_), _) => false,
        }
    }
}

/// The rule of a call, by its path.
pub fn rule(path: &str) -> Option<&'static Rule> {
    static BY_PATH: LazyLock<HashMap<&'static str, &'static Rule>> =
        LazyLock::new(|| RULES.iter().map(|rule| (rule.path, rule)).collect());
    BY_PATH.get(path).copied()
}

const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const RESTORER: Access = Access::Role(Role::Restorer);
const ADMIN: Access = Access::Role(Role::Admin);

const fn read(path: &'static str, access: Access) -> Rule {
    Rule { path, access, answered_by: AnsweredBy::Controller, audit: None, admin_fields: &[] }
}

const fn change(path: &'static str, access: Access, fields: &'static [&'static str]) -> Rule {
    Rule { path, access, answered_by: AnsweredBy::Controller, audit: Some(fields), admin_fields: &[] }
}

const fn host_read(path: &'static str, access: Access) -> Rule {
    Rule { path, access, answered_by: AnsweredBy::Host, audit: None, admin_fields: &[] }
}

const fn host_change(path: &'static str, access: Access, fields: &'static [&'static str]) -> Rule {
    Rule { path, access, answered_by: AnsweredBy::Host, audit: Some(fields), admin_fields: &[] }
}

const fn with_admin_fields(rule: Rule, admin_fields: &'static [AdminField]) -> Rule {
    Rule { admin_fields, ..rule }
}

/// The table.
pub const RULES: &[Rule] = &[
    read("/grpc.health.v1.Health/Check", Access::Anyone),
    read("/grpc.health.v1.Health/Watch", Access::Anyone),
    read("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER),
    // Enrolment writes its own audit rows: it alone knows which host it was.
    read("/holdfast.v1.EnrolmentService/Join", Access::Anyone),
    read("/holdfast.v1.EnrolmentService/Renew", Access::Agent),
    read("/holdfast.v1.HostService/ListHosts", VIEWER),
    read("/holdfast.v1.HostService/GetHost", VIEWER),
    change("/holdfast.v1.HostService/CreateJoinToken", ADMIN, &["name", "valid_seconds"]),
    change("/holdfast.v1.HostService/LabelHost", OPERATOR, &["host", "set", "remove"]),
    change("/holdfast.v1.HostService/RevokeHost", ADMIN, &["host"]),
    change("/holdfast.v1.HostService/RetireHost", ADMIN, &["host"]),
    read("/holdfast.v1.SourceService/ListSources", VIEWER),
    // Ends an alarm; takes nothing away.
    change("/holdfast.v1.SourceService/RetireSource", OPERATOR, &["host", "source", "undo"]),
    change("/holdfast.v1.PolicyService/ApplyPolicies", OPERATOR, &["dry_run", "allow_forgetting"]),
    read("/holdfast.v1.PolicyService/ListPolicies", VIEWER),
    change("/holdfast.v1.PolicyService/DeletePolicy", OPERATOR, &["name"]),
    read("/holdfast.v1.PolicyService/ExplainPolicy", VIEWER),
    change(
        "/holdfast.v1.JobService/StartBackup",
        OPERATOR,
        &["policy", "host", "volumes", "directories", "plan_only"],
    ),
    with_admin_fields(
        change(
            "/holdfast.v1.JobService/StartRestore",
            RESTORER,
            &["snapshot", "host", "as_volume", "driver", "directory", "devices", "setuid", "plan_only"],
        ),
        VOLUME_SETTINGS,
    ),
    change("/holdfast.v1.JobService/StartPrune", OPERATOR, &["plan_only"]),
    // Fetches an image on the host, where it is not there.
    change("/holdfast.v1.UpgradeService/PlanUpgrade", OPERATOR, &["host"]),
    change("/holdfast.v1.UpgradeService/StartUpgrade", RESTORER, &["plan_id", "host"]),
    change("/holdfast.v1.UpgradeService/StartRollback", RESTORER, &["host", "upgrade", "without_snapshot"]),
    change(
        "/holdfast.v1.UpgradeService/StartRollout",
        RESTORER,
        &["selectors", "host_labels", "batch", "max_failures", "undo", "plan_only"],
    ),
    read("/holdfast.v1.JobService/ListJobs", VIEWER),
    read("/holdfast.v1.JobService/GetJob", VIEWER),
    read("/holdfast.v1.JobService/WatchJob", VIEWER),
    change("/holdfast.v1.JobService/CancelJob", OPERATOR, &["id"]),
    read("/holdfast.v1.CatalogService/ListSnapshots", VIEWER),
    read("/holdfast.v1.CatalogService/GetSnapshot", VIEWER),
    read("/holdfast.v1.CatalogService/BrowseSnapshot", VIEWER),
    // Changes nothing, but takes data out: worth a row.
    change("/holdfast.v1.CatalogService/ReadFile", RESTORER, &["snapshot", "path"]),
    change("/holdfast.v1.CatalogService/HoldSnapshot", OPERATOR, &["snapshot", "hold"]),
    change("/holdfast.v1.CatalogService/ForgetSnapshot", ADMIN, &["snapshot"]),
    change("/holdfast.v1.CatalogService/UndeleteSnapshot", OPERATOR, &["snapshot"]),
    read("/holdfast.v1.StatusService/GetStatus", VIEWER),
    read("/holdfast.v1.RepositoryService/OpenUpload", Access::Agent),
    read("/holdfast.v1.RepositoryService/OpenRestore", Access::Agent),
    read("/holdfast.v1.RepositoryService/ListDamaged", Access::Agent),
    read("/holdfast.v1.RepositoryService/Have", Access::Agent),
    read("/holdfast.v1.RepositoryService/AllocPack", Access::Agent),
    read("/holdfast.v1.RepositoryService/UploadPack", Access::Agent),
    read("/holdfast.v1.RepositoryService/CommitPack", Access::Agent),
    read("/holdfast.v1.RepositoryService/CommitSnapshot", Access::Agent),
    read("/holdfast.v1.RepositoryService/Locate", Access::Agent),
    read("/holdfast.v1.RepositoryService/ReadPack", Access::Agent),
    read("/holdfast.v1.RepositoryService/ReportLost", Access::Agent),
    read("/holdfast.v1.RepositoryService/CloseLease", Access::Agent),
    host_read("/holdfast.v1.AgentService/Hello", Access::Nobody),
    host_read("/holdfast.v1.AgentService/GetAgent", VIEWER),
    host_read("/holdfast.v1.VolumeService/ListVolumes", VIEWER),
    host_read("/holdfast.v1.VolumeService/InspectVolume", VIEWER),
    with_admin_fields(
        host_change("/holdfast.v1.VolumeService/CreateVolume", OPERATOR, &["name", "driver", "labels"]),
        VOLUME_SETTINGS,
    ),
    host_change("/holdfast.v1.VolumeService/RemoveVolume", RESTORER, &["name"]),
    host_change(
        "/holdfast.v1.VolumeService/PruneVolumes",
        RESTORER,
        &["labels", "include_named", "dry_run", "names"],
    ),
    host_read("/holdfast.v1.MountService/ListMounts", VIEWER),
    host_read("/holdfast.v1.ContainerService/ListContainers", VIEWER),
    host_read("/holdfast.v1.ContainerService/InspectContainer", VIEWER),
    // Tells the values of environment variables: worth a row.
    host_change("/holdfast.v1.ContainerService/GetContainerSpec", ADMIN, &["container", "clean"]),
    host_change("/holdfast.v1.ContainerService/RunContainer", ADMIN, &["name", "image"]),
    host_change("/holdfast.v1.ContainerService/StartContainer", OPERATOR, &["container"]),
    host_change("/holdfast.v1.ContainerService/StopContainer", OPERATOR, &["container"]),
    host_change(
        "/holdfast.v1.ContainerService/RemoveContainer",
        RESTORER,
        &["container", "force", "volumes"],
    ),
    // Upgrades go through jobs, which take the snapshots that belong to them.
    host_read("/holdfast.v1.ContainerService/PlanUpgrade", Access::Nobody),
    host_read("/holdfast.v1.ContainerService/RunUpgrade", Access::Nobody),
    host_read("/holdfast.v1.ContainerService/ProceedUpgrade", Access::Nobody),
    host_read("/holdfast.v1.ContainerService/ListUpgrades", VIEWER),
    host_change("/holdfast.v1.ContainerService/CommitUpgrade", RESTORER, &["upgrade"]),
    host_read("/holdfast.v1.ContainerService/RollBackUpgrade", Access::Nobody),
    // Snapshots and restores go through jobs: a call past them would leave no
    // record, hold no lease and obey no schedule.
    host_read("/holdfast.v1.SnapshotService/CreateSnapshots", Access::Nobody),
    host_read("/holdfast.v1.SnapshotService/RestoreSnapshot", Access::Nobody),
    host_read("/holdfast.v1.SnapshotService/ListRunning", VIEWER),
    host_read("/holdfast.v1.SnapshotService/CancelJob", Access::Nobody),
];

#[cfg(test)]
pub(crate) mod tests {
    use prost_reflect::{DescriptorPool, MethodDescriptor};

    use super::*;

    /// Every method this process serves or forwards.
    pub(crate) fn every_method() -> Vec<MethodDescriptor> {
        let sets = [
            holdfast_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let mut methods = Vec::new();
        for set in sets {
            let pool = DescriptorPool::decode(set).expect("descriptors");
            methods.extend(pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()));
        }
        methods
    }

    pub(crate) fn path(method: &MethodDescriptor) -> String {
        format!("/{}/{}", method.parent_service().full_name(), method.name())
    }

    #[test]
    fn x21_every_rpc_has_exactly_one_row_and_every_row_an_rpc() {
        let methods: Vec<String> = every_method().iter().map(path).collect();
        for method in &methods {
            assert_eq!(RULES.iter().filter(|rule| rule.path == method).count(), 1, "{method}");
        }
        for rule in RULES {
            assert!(methods.iter().any(|method| method == rule.path), "{} is no RPC", rule.path);
        }
    }

    #[test]
    fn audited_fields_exist_and_are_unary_requests() {
        for method in every_method() {
            let rule = rule(&path(&method)).expect("a row");
            for AdminField { name, .. } in rule.admin_fields {
                assert!(rule.audit.is_some(), "{}: its request is not read", rule.path);
                assert!(method.input().get_field_by_name(name).is_some(), "{} {name}", rule.path);
            }
            let Some(fields) = rule.audit else { continue };
            assert!(!method.is_client_streaming(), "{}", rule.path);
            for field in fields {
                assert!(method.input().get_field_by_name(field).is_some(), "{} {field}", rule.path);
            }
        }
    }

    #[test]
    fn only_a_sufficient_role_is_admitted() {
        let operator = |role| Caller::Operator { name: "anna".to_owned(), role };
        let rule = rule("/holdfast.v1.JobService/StartRestore").expect("a row");
        assert!(!rule.admits(&Caller::Anonymous));
        assert!(!rule.admits(&operator(Role::Operator)));
        assert!(rule.admits(&operator(Role::Restorer)));
        assert!(rule.admits(&operator(Role::Admin)));
    }
}

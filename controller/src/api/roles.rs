//! One table: who may make which call, which calls go on to a host, and what
//! of a mutating call is written into the audit chain.
//!
//! A call that is not in here is refused; a test walks every RPC of every
//! descriptor this process serves and demands exactly one row. Fields named
//! for the audit are shown as they are, so none that could hold a secret, or
//! somebody's data, is named.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::model::caller::{Caller, Role};

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
    /// What in an audited call's request makes it an administrator's.
    pub admin_fields: &'static [AdminField],
    pub about: About,
}

/// A field of a request that needs an administrator when it says something.
#[derive(Debug, Clone, Copy)]
pub struct AdminField {
    pub name: &'static str,
    pub needs: NeedsAdmin,
}

/// When a field needs an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedsAdmin {
    /// It is set.
    Set,
    /// It is set to anything but this.
    SetOtherThan(&'static str),
    /// It is not set: false, 0 or empty.
    Unset,
}

/// What of the fleet a call is about: whether a token that is limited to some
/// hosts is good for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// All of it.
    Fleet,
    /// Nothing that is any one host's; or its service shows each caller what is
    /// of the hosts that caller may see.
    Shown,
    /// The host that answers.
    AnsweringHost,
    /// The hosts of what these fields name, of which one at least is to be set.
    Named(&'static [(&'static str, Names)]),
}

/// What a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Host,
    Snapshot,
    Job,
    UpgradePlan,
}

/// Settings with which a volume leads to any place of its host.
const VOLUME_SETTINGS: &[AdminField] = &[
    AdminField { name: "driver", needs: NeedsAdmin::SetOtherThan("local") },
    AdminField { name: "options", needs: NeedsAdmin::Set },
];

/// Accepts that snapshots go by another policy: forgetting, by another name.
const FORGETTING: &[AdminField] = &[AdminField { name: "allow_forgetting", needs: NeedsAdmin::Set }];

/// Lets a snapshot go that somebody has held.
const RELEASING: &[AdminField] = &[AdminField { name: "hold", needs: NeedsAdmin::Unset }];

const THE_HOST: About = About::Named(&[("host", Names::Host)]);
const THE_SNAPSHOT: About = About::Named(&[("snapshot", Names::Snapshot)]);
const THE_JOB: About = About::Named(&[("id", Names::Job)]);

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

const fn rule_of(path: &'static str, access: Access, answered_by: AnsweredBy, about: About) -> Rule {
    Rule { path, access, answered_by, audit: None, admin_fields: &[], about }
}

const fn read(path: &'static str, access: Access, about: About) -> Rule {
    rule_of(path, access, AnsweredBy::Controller, about)
}

/// A call that hosts, or anybody, make: no operator's token is good for it.
const fn of_hosts(path: &'static str, access: Access) -> Rule {
    rule_of(path, access, AnsweredBy::Controller, About::Fleet)
}

const fn change(path: &'static str, access: Access, about: About, fields: &'static [&'static str]) -> Rule {
    Rule { audit: Some(fields), ..rule_of(path, access, AnsweredBy::Controller, about) }
}

const fn host_read(path: &'static str, access: Access) -> Rule {
    rule_of(path, access, AnsweredBy::Host, About::AnsweringHost)
}

const fn host_change(path: &'static str, access: Access, fields: &'static [&'static str]) -> Rule {
    Rule { audit: Some(fields), ..rule_of(path, access, AnsweredBy::Host, About::AnsweringHost) }
}

const fn with_admin_fields(rule: Rule, admin_fields: &'static [AdminField]) -> Rule {
    Rule { admin_fields, ..rule }
}

/// The table.
pub const RULES: &[Rule] = &[
    of_hosts("/grpc.health.v1.Health/Check", Access::Anyone),
    of_hosts("/grpc.health.v1.Health/Watch", Access::Anyone),
    read("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER, About::Shown),
    read("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", VIEWER, About::Shown),
    // Enrolment writes its own audit rows: it alone knows which host it was.
    of_hosts("/holdfast.v1.EnrolmentService/Join", Access::Anyone),
    of_hosts("/holdfast.v1.EnrolmentService/Renew", Access::Agent),
    read("/holdfast.v1.HostService/ListHosts", VIEWER, About::Shown),
    read("/holdfast.v1.HostService/GetHost", VIEWER, THE_HOST),
    change("/holdfast.v1.HostService/CreateJoinToken", ADMIN, About::Fleet, &["name", "valid_seconds"]),
    // With its labels a host moves into, or out of, what tokens are limited to.
    change("/holdfast.v1.HostService/LabelHost", OPERATOR, About::Fleet, &["host", "set", "remove"]),
    change("/holdfast.v1.HostService/RevokeHost", ADMIN, THE_HOST, &["host"]),
    change("/holdfast.v1.HostService/RetireHost", ADMIN, THE_HOST, &["host"]),
    read("/holdfast.v1.SourceService/ListSources", VIEWER, About::Shown),
    // Ends an alarm; takes nothing away.
    change("/holdfast.v1.SourceService/RetireSource", OPERATOR, THE_HOST, &["host", "source", "undo"]),
    with_admin_fields(
        change(
            "/holdfast.v1.PolicyService/ApplyPolicies",
            OPERATOR,
            About::Fleet,
            &["files", "dry_run", "allow_forgetting"],
        ),
        FORGETTING,
    ),
    // A policy is nobody's: which hosts it is about is in it, and changes.
    read("/holdfast.v1.PolicyService/ListPolicies", VIEWER, About::Shown),
    change("/holdfast.v1.PolicyService/DeletePolicy", OPERATOR, About::Fleet, &["name"]),
    read("/holdfast.v1.PolicyService/ExplainPolicy", VIEWER, About::Fleet),
    change(
        "/holdfast.v1.JobService/StartBackup",
        OPERATOR,
        THE_HOST,
        &["policy", "host", "volumes", "directories", "plan_only"],
    ),
    with_admin_fields(
        change(
            "/holdfast.v1.JobService/StartRestore",
            RESTORER,
            About::Named(&[("snapshot", Names::Snapshot), ("host", Names::Host)]),
            &["snapshot", "host", "as_volume", "driver", "directory", "devices", "setuid", "plan_only"],
        ),
        VOLUME_SETTINGS,
    ),
    change("/holdfast.v1.JobService/StartPrune", OPERATOR, About::Fleet, &["plan_only"]),
    // Fetches an image on the host, where it is not there.
    change(
        "/holdfast.v1.UpgradeService/PlanUpgrade",
        OPERATOR,
        THE_HOST,
        &["host", "upgrade.container", "upgrade.image"],
    ),
    // Another image in a container with rights over its host needs an
    // administrator: only the plan knows, so the service looks.
    change(
        "/holdfast.v1.UpgradeService/StartUpgrade",
        RESTORER,
        About::Named(&[("plan_id", Names::UpgradePlan), ("host", Names::Host)]),
        &["plan_id", "host", "upgrade.container", "upgrade.image"],
    ),
    change(
        "/holdfast.v1.UpgradeService/StartRollback",
        RESTORER,
        THE_HOST,
        &["host", "upgrade", "without_snapshot"],
    ),
    change(
        "/holdfast.v1.UpgradeService/StartRollout",
        RESTORER,
        About::Fleet,
        &["selectors", "host_labels", "upgrade.image", "batch", "max_failures", "undo", "plan_only"],
    ),
    read("/holdfast.v1.JobService/ListJobs", VIEWER, About::Shown),
    read("/holdfast.v1.JobService/GetJob", VIEWER, THE_JOB),
    read("/holdfast.v1.JobService/WatchJob", VIEWER, THE_JOB),
    change("/holdfast.v1.JobService/CancelJob", OPERATOR, THE_JOB, &["id"]),
    read("/holdfast.v1.CatalogService/ListSnapshots", VIEWER, About::Shown),
    read("/holdfast.v1.CatalogService/GetSnapshot", VIEWER, THE_SNAPSHOT),
    read("/holdfast.v1.CatalogService/BrowseSnapshot", VIEWER, THE_SNAPSHOT),
    // Changes nothing, but takes data out: worth a row.
    change("/holdfast.v1.CatalogService/ReadFile", RESTORER, THE_SNAPSHOT, &["snapshot", "path"]),
    with_admin_fields(
        change("/holdfast.v1.CatalogService/HoldSnapshot", OPERATOR, THE_SNAPSHOT, &["snapshot", "hold"]),
        RELEASING,
    ),
    change("/holdfast.v1.CatalogService/ForgetSnapshot", ADMIN, THE_SNAPSHOT, &["snapshot"]),
    change("/holdfast.v1.CatalogService/UndeleteSnapshot", OPERATOR, THE_SNAPSHOT, &["snapshot"]),
    read("/holdfast.v1.StatusService/GetStatus", VIEWER, About::Shown),
    read("/holdfast.v1.AuditService/ListAudit", ADMIN, About::Fleet),
    read("/holdfast.v1.AuditService/VerifyAudit", ADMIN, About::Fleet),
    of_hosts("/holdfast.v1.RepositoryService/OpenUpload", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/OpenRestore", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/ListDamaged", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/Have", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/AllocPack", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/UploadPack", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/CommitPack", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/CommitSnapshot", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/Locate", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/ReadPack", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/ReportLost", Access::Agent),
    of_hosts("/holdfast.v1.RepositoryService/CloseLease", Access::Agent),
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
    host_change("/holdfast.v1.ContainerService/RunContainer", ADMIN, &["name", "image", "mounts", "network"]),
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
    use prost_reflect::{DescriptorPool, Kind, MessageDescriptor, MethodDescriptor};

    use super::*;
    use crate::model::caller::HostScope;

    /// Every method this process serves or forwards.
    pub(crate) fn every_method() -> Vec<MethodDescriptor> {
        let sets = [
            holdfast_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
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

    /// The field at a path of names, each but the last a message's.
    fn has_field(message: &MessageDescriptor, path: &str) -> bool {
        match path.split_once('.') {
            None => message.get_field_by_name(path).is_some(),
            Some((first, rest)) => message
                .get_field_by_name(first)
                .and_then(|field| field.kind().as_message().cloned())
                .is_some_and(|message| has_field(&message, rest)),
        }
    }

    #[test]
    fn fields_that_are_read_exist_in_unary_requests() {
        for method in every_method() {
            let rule = rule(&path(&method)).expect("a row");
            for AdminField { name, .. } in rule.admin_fields {
                assert!(rule.audit.is_some(), "{}: its request is not read", rule.path);
                assert!(method.input().get_field_by_name(name).is_some(), "{} {name}", rule.path);
            }
            if let About::Named(fields) = rule.about {
                assert!(!method.is_client_streaming() && !fields.is_empty(), "{}", rule.path);
                for (name, _) in fields {
                    let field = method.input().get_field_by_name(name);
                    let is_text = field.is_some_and(|field| field.kind() == Kind::String && !field.is_list());
                    assert!(is_text, "{} {name}", rule.path);
                }
            }
            let Some(fields) = rule.audit else { continue };
            assert!(!method.is_client_streaming(), "{}", rule.path);
            for field in fields {
                assert!(has_field(&method.input(), field), "{} {field}", rule.path);
            }
        }
    }

    #[test]
    fn only_a_sufficient_role_is_admitted() {
        let operator = |role| Caller::Operator { name: "anna".to_owned(), role, hosts: HostScope::default() };
        let rule = rule("/holdfast.v1.JobService/StartRestore").expect("a row");
        assert!(!rule.admits(&Caller::Anonymous));
        assert!(!rule.admits(&operator(Role::Operator)));
        assert!(rule.admits(&operator(Role::Restorer)));
        assert!(rule.admits(&operator(Role::Admin)));
    }
}

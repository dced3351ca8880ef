//! Who makes a call. Put into every request's extensions by the
//! authentication layer; nothing else decides it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use holdfast_archive::ids::HostId;
use tonic::{Request, Status};

use crate::policy::LabelMatch;

/// What a caller may do at most. Ordered: each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    /// Reads and replaces data.
    Restorer,
    Admin,
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: viewer, operator, restorer or admin is")]
pub struct UnknownRole(String);

impl Role {
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Restorer, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Restorer => "restorer",
            Role::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// The hosts a token is limited to: those that bear all of these labels.
/// Without any it is good for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostScope(pub Vec<LabelMatch>);

impl HostScope {
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    pub fn covers(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|label| label.matches(labels))
    }
}

impl fmt::Display for HostScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.0.iter().map(LabelMatch::to_string).collect();
        f.write_str(&labels.join(","))
    }
}

/// The proven identity behind a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No proof at all: may only join.
    Anonymous,
    /// From the client certificate, never from the body.
    Agent {
        host: HostId,
        host_name: String,
    },
    Operator {
        name: String,
        role: Role,
        hosts: HostScope,
    },
}

impl Caller {
    /// The caller of a request that went through the authentication layer.
    pub fn of<T>(request: &Request<T>) -> Caller {
        request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous)
    }

    /// The host that makes an agent's call.
    ///
    /// # Errors
    /// The caller is no agent.
    pub fn host<T>(request: &Request<T>) -> Result<HostId, Status> {
        match Self::of(request) {
            Caller::Agent { host, .. } => Ok(host),
            _ => Err(Status::permission_denied("only an agent may make this call")),
        }
    }

    /// What the caller may do at most; nobody but operators has a role.
    pub fn role(&self) -> Option<Role> {
        match self {
            Caller::Operator { role, .. } => Some(*role),
            Caller::Anonymous | Caller::Agent { .. } => None,
        }
    }

    /// The hosts an operator's token is limited to; `None`: it is not.
    pub fn limits(&self) -> Option<&HostScope> {
        match self {
            Caller::Operator { hosts, .. } if !hosts.is_everything() => Some(hosts),
            _ => None,
        }
    }

    /// Whether the caller is shown what a host with these labels has.
    pub fn sees(&self, labels: &BTreeMap<String, String>) -> bool {
        self.limits().is_none_or(|hosts| hosts.covers(labels))
    }

    /// Name for audit rows and job records.
    pub fn actor(&self) -> String {
        match self {
            Caller::Anonymous => "anonymous".to_owned(),
            Caller::Agent { host_name, .. } => format!("agent:{host_name}"),
            Caller::Operator { name, .. } => name.clone(),
        }
    }
}

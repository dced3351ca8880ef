//! Who makes a call. Put into every request's extensions by the
//! authentication layer; nothing else decides it.

use std::str::FromStr;

use holdfast_archive::ids::HostId;
use tonic::{Request, Status};

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
    },
}

impl Caller {
    /// The caller of a request that went through the authentication layer.
    pub fn of<T>(request: &Request<T>) -> Caller {
        request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Anonymous)
    }

    /// The host that makes an agent's call.
    pub fn host<T>(request: &Request<T>) -> Result<HostId, Status> {
        match Self::of(request) {
            Caller::Agent { host, .. } => Ok(host),
            _ => Err(Status::permission_denied("only an agent may make this call")),
        }
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

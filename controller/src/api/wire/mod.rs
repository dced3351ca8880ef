//! Messages of operators, to and from domain types: requests in, answers out.
//!
//! Messages of agents are `fleet`'s; what both have in common, a plan or a
//! source that ended, is read there and written here.

mod agent;
mod job;
mod request;
mod result;
mod source;
mod upgrade;

pub(super) use job::state;
pub(super) use upgrade::plan_request;

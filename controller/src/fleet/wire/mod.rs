//! Messages of agents, from and to domain types.
//!
//! Each message is taken apart field by field, so that one more in a `.proto`
//! file does not compile before somebody has said what becomes of it. A number
//! that this version does not know, from an agent of a later one, becomes the
//! "unknown" of its type.

mod agent;
pub(super) mod restore;
pub(super) mod snapshot;
pub(super) mod upgrade;

//! Messages of agents and operators, from and to domain types, a file for each
//! noun: `fleet` and `api` call agents and answer operators with them.
//!
//! Each message is taken apart field by field, so that one more in a `.proto`
//! file does not compile before somebody has said what becomes of it. A number
//! that this version does not know, from an agent of a later one, becomes the
//! "unknown" of its type.

#[macro_use]
mod fields;
#[macro_use]
mod number;

mod agent;
mod container;
pub(crate) mod job;
mod prune;
mod request;
pub(crate) mod restore;
#[cfg(test)]
mod round_trip;
pub(crate) mod snapshot;
mod source;
pub(crate) mod upgrade;

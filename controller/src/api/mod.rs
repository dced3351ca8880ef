//! gRPC for operators and agents: parse, one call, encode.
//!
//! Called by `app` alone, which serves it. It may ask everything below and
//! decides nothing but who may call what ([`roles`], [`auth`]); why something is
//! refused comes from below and becomes a status in [`status_map`]. Messages are
//! made of domain types in `crate::wire`, and requests read there.

pub mod audit;
pub mod auth;
pub mod catalog;
pub mod denials;
pub mod enrolment;
pub mod forward;
pub mod hosts;
pub mod jobs;
pub mod policies;
mod reading;
pub mod repository;
pub mod roles;
mod scope;
pub mod sessions;
pub mod sources;
pub mod status;
pub mod status_map;
pub mod subject;
mod timed;
pub mod upgrades;

//! gRPC for operators and agents: parse, one call, encode.

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
mod wire;

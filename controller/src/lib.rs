//! The Holdfast controller.

#![warn(clippy::missing_errors_doc)]

pub mod api;
pub mod app;
pub mod args;
pub mod catalog;
pub mod clock;
pub mod config;
mod coverage;
#[cfg(test)]
mod documented;
pub mod exit;
mod failpoint;
pub mod fleet;
pub mod identity;
pub mod init;
mod jobs;
mod limits;
mod listen;
pub mod logging;
mod loops;
pub mod model;
mod operations;
pub mod places;
pub mod policy;
pub mod quota;
pub mod repository;
mod retention;
mod schedule;
pub mod setup;
pub(crate) mod share;
pub mod succession;
mod wire;

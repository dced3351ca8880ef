//! The Holdfast controller.

#![warn(clippy::missing_errors_doc)]

pub mod api;
pub mod app;
pub mod args;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod coverage;
#[cfg(test)]
mod documented;
pub mod exit;
pub mod failpoint;
pub mod fleet;
pub mod identity;
pub mod init;
pub mod jobs;
pub mod limits;
pub mod listen;
pub mod logging;
pub mod loops;
pub mod model;
pub mod operations;
pub mod places;
pub mod policy;
pub mod quota;
pub mod repository;
pub mod retention;
pub mod schedule;
pub mod setup;
pub(crate) mod share;
pub mod succession;
mod wire;

//! The per-host agent: volume, mount, snapshot and container services over
//! the local Docker Engine.

pub mod allow;
pub mod allowed_directory;
pub mod app;
pub mod args;
pub mod cancel;
pub mod clocks;
pub mod clone;
pub mod compose;
pub mod config;
pub mod contained;
pub mod container_run;
pub mod controller;
pub mod engine;
pub mod failpoint;
pub mod holder;
pub mod instance;
pub mod journal;
pub mod link;
pub mod logging;
pub mod mountinfo;
pub mod own;
pub mod prune;
pub mod quiesce;
#[cfg(test)]
#[path = "../../tests/src/record.rs"]
#[allow(unreachable_pub, reason = "the end-to-end tests have it as well")]
mod record;
pub mod recreate;
pub mod resume;
pub mod secrets;
pub mod services;
pub mod session;
pub mod snapshot;
pub mod socket;
pub mod spec;
pub mod store_pin;
pub mod upgrade;
pub mod usage;
pub mod volume_path;
pub mod volume_settings;
pub mod watchdog;

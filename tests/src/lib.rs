//! What the end-to-end tests stand on: private Docker Engines, object stores,
//! the built binaries as processes, and waits with a deadline.
//!
//! Every piece owns what it starts and takes it down when dropped, also when
//! a test fails; what would be left if the test process itself is killed
//! carries a parent-death signal.

#![warn(clippy::missing_errors_doc)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak to people")]

pub mod app_images;
pub mod bad_disk;
pub mod binaries;
mod cache;
pub mod contained;
pub mod deaths;
pub mod docker;
pub mod door;
pub mod engine_api;
pub mod failpoints;
pub mod fleet;
pub mod garage;
pub mod gate;
pub mod hostile;
pub mod kills;
pub mod leftovers;
pub mod locks;
pub mod moto;
pub mod object_store;
pub mod ports;
pub mod postgres_image;
pub mod process;
pub mod s3;
pub mod secret;
pub mod systemd;
pub mod upgrades;

// One name for scenarios, whichever of the two crates has it.
pub use support::{command, disk, figure, invariant, record, require_disk, tree, wait};

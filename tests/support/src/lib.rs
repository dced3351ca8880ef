//! What the tests of every crate stand on: trees and their comparison by tools
//! that are not ours, filesystems of their own, waits with a deadline, and what
//! a test has to say besides passed and failed.
//!
//! Uses no other crate of the project, so that each of them can use it. Whatever
//! it makes is removed when it is dropped, also when a test fails.

#![warn(clippy::missing_errors_doc)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests speak to people and end where something fails"
)]

pub mod command;
pub mod disk;
pub mod figure;
pub mod invariant;
pub mod record;
pub mod secrets;
pub mod tree;
pub mod wait;

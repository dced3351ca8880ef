//! Policies: what is backed up when, how, and kept how long.
//!
//! [`definition`] is what a policy means and what it matches; [`parse`] reads
//! it from TOML and lists everything that is wrong, with positions, at once.
//!
//! Pure, and used by everything from `model` upwards.

mod capture;
pub mod definition;
pub mod parse;
mod toml_reader;

pub use capture::{Consistency, NestedMounts, TornPolicy};
pub use definition::{HostSelector, LabelMatch, Overlap, Patterns, Policy, Timing, VolumeSelector};
pub use parse::{Problem, parse};

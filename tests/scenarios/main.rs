//! The end-to-end tests: one binary, a module a subject, one behaviour a test.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the helpers of tests are tests, too")]

mod absence;
mod backup;
mod beside;
mod cases;
mod contained;
mod containers;
mod crash;
mod damage;
mod demo;
mod elsewhere;
mod engine;
mod everyday;
mod failpoints;
mod first_contact;
mod fleet;
mod full_disk;
mod harness;
mod hostile;
mod images;
mod incremental;
mod inferences;
mod input;
mod live_database;
mod medium;
mod memory;
mod nested;
mod own;
mod owners;
mod prune;
mod quiesce;
mod rebuild;
mod reconcile;
mod release;
mod restore;
mod schedule;
mod secrets;
mod self_upgrade;
mod store;
mod summary;
mod supply;
mod terminal;
mod units;
mod upgrade;
mod words;

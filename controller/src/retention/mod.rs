//! What is kept and what is forgotten.
//!
//! Pure: `loops/retention.rs` gives it the snapshots and acts on the answer.

pub mod plan;

pub use plan::{Candidate, Decision, Verdict, plan};

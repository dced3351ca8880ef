//! What is kept and what is forgotten.
//!
//! Pure: `loops/retention.rs` gives it the snapshots and acts on the answer.

pub(crate) mod plan;

pub(crate) use plan::{Candidate, Decision, plan};

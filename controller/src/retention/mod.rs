//! What is kept and what is forgotten.

pub mod plan;

pub use plan::{Candidate, Decision, Verdict, plan};

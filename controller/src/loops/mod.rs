//! Reconcilers: what is intended against what is.
//!
//! Started by `app` through [`Driver`], one of each. A pass may be cut off and
//! begun again at any time: what it has to know is in rows. A loop makes jobs,
//! claims them and cleans up; it never calls the agent of a job, which is the
//! business of `operations`.

pub mod dispatcher;
pub mod driver;
pub mod export;
pub mod gc;
pub mod history;
pub mod inventory;
pub mod retention;
pub mod scheduler;
mod statuses;

pub use driver::{Driver, Periods};
pub use statuses::{Cause, Failing, LoopStatus, Statuses};

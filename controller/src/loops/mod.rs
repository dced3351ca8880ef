//! Reconcilers: what is intended against what is.
//!
//! Started by `app` through [`Driver`], one of each. A pass may be cut off and
//! begun again at any time: what it has to know is in rows. A loop makes jobs,
//! claims them and cleans up; it never calls the agent of a job, which is the
//! business of `operations`.

pub(crate) mod dispatcher;
pub(crate) mod driver;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod history;
pub(crate) mod inventory;
pub(crate) mod retention;
pub(crate) mod scheduler;
mod statuses;

pub(crate) use driver::{Driver, Periods};
pub(crate) use statuses::{Cause, Failing, LoopStatus, Statuses};

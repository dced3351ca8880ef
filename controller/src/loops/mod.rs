//! Reconcilers: what is intended against what is.

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

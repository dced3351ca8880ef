//! Reconcilers: what is intended against what is.

pub mod dispatcher;
pub mod driver;
pub mod export;
pub mod gc;
pub mod history;
pub mod inventory;
pub mod retention;
pub mod scheduler;

pub use driver::{Driver, Periods, Statuses};

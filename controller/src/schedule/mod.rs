//! When a policy fires. Pure: no clock, no I/O; `now` is an argument.
//!
//! Three layers that do not know each other's trade. [`cron`] reads the
//! expression and walks a plain calendar that has no zone. [`zone`] maps the
//! wall-clock times found there to instants, by a rule of our own for the two
//! days a year on which that is not one to one. [`due`] compares instants with
//! what was recorded and says what to run and what was missed. [`jitter`]
//! spreads the hosts of one firing.
//!
//! Used by `policy`, which keeps an expression, and by `loops/scheduler.rs`, which
//! has the clock.

pub(crate) mod cron;
pub(crate) mod due;
pub(crate) mod jitter;
pub(crate) mod zone;

pub(crate) use cron::CronExpression;
pub(crate) use zone::{DstRule, Schedule};

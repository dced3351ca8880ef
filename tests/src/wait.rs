//! Waiting for a value, with a deadline and the last status in the failure.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What a machine may be slower than the one the deadlines were chosen on. It
/// costs nothing: no test waits for a deadline to pass.
pub const PATIENCE: u64 = 4;

/// Calls `probe` until it gives a value; panics with `what` and the last
/// refusal when `seconds` have passed, with [`PATIENCE`].
pub fn until<T, E: Debug>(what: &str, seconds: u64, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let seconds = seconds * PATIENCE;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => {
                panic!("waited {seconds} s for {what}; last seen: {last:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// As [`until`], for a plain condition.
pub fn until_true(what: &str, seconds: u64, mut probe: impl FnMut() -> bool) {
    until(what, seconds, || probe().then_some(()).ok_or("not yet"));
}

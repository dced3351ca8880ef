//! Waiting for a value, with a deadline and the last status in the failure.
//!
//! A probe is asked again when it has no value yet, so it must not panic: one
//! late answer on a busy machine would end the test. Helpers that do panic
//! call [`not_in_a_probe`], which ends a test that uses them in a probe at its
//! first run, on a quick machine too.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What a machine may be slower than the one the deadlines were chosen on. It
/// costs nothing: no test waits for a deadline to pass.
pub const WAIT_LIMIT: u64 = 4;

thread_local! {
    static PROBING: Cell<bool> = const { Cell::new(false) };
}

/// Calls `probe` until it gives a value; panics with `what` and the last
/// refusal when `seconds` have passed, with [`WAIT_LIMIT`].
#[track_caller]
pub fn until<T, E: Debug>(what: &str, seconds: u64, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let seconds = seconds * WAIT_LIMIT;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match probing(&mut probe) {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => {
                panic!("waited {seconds} s for {what}; last seen: {last:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// As [`until`], for a probe that may fail and whose value has to be as
/// `wanted`; gives that value.
#[track_caller]
pub fn until_is<T: Debug, E: Debug>(
    what: &str,
    seconds: u64,
    mut probe: impl FnMut() -> Result<T, E>,
    wanted: impl Fn(&T) -> bool,
) -> T {
    until(what, seconds, || match probe() {
        Ok(value) if wanted(&value) => Ok(value),
        other => Err(other),
    })
}

/// As [`until_is`], for a caller that says itself what it means when it does not
/// come.
///
/// # Errors
/// What was seen last.
pub fn settles<T, E>(
    seconds: u64,
    mut probe: impl FnMut() -> Result<T, E>,
    wanted: impl Fn(&T) -> bool,
) -> Result<T, Result<T, E>> {
    let deadline = Instant::now() + Duration::from_secs(seconds * WAIT_LIMIT);
    loop {
        match probing(&mut probe) {
            Ok(value) if wanted(&value) => return Ok(value),
            last if Instant::now() > deadline => return Err(last),
            _ => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// As [`until`], for a plain condition.
#[track_caller]
pub fn until_true(what: &str, seconds: u64, mut probe: impl FnMut() -> bool) {
    until(what, seconds, || probe().then_some(()).ok_or("not yet"));
}

/// Panics when it is called in a probe of a wait.
#[track_caller]
pub fn not_in_a_probe(helper: &str) {
    assert!(
        !PROBING.get(),
        "`{helper}` panics at the first late answer, so it is not for the probe of a wait; use the one that begins with `try_`"
    );
}

fn probing<T>(probe: &mut impl FnMut() -> T) -> T {
    /// Sets it back when a probe panics too: a test may expect that.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            PROBING.set(self.0);
        }
    }
    let _before = Before(PROBING.replace(true));
    probe()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::run;

    #[test]
    fn a_probe_is_asked_until_its_value_is_as_wanted() {
        let mut answers = [Err("late"), Ok(1), Ok(2)].into_iter();
        let value = until_is("two", 10, || answers.next().unwrap(), |&value| value == 2);
        assert_eq!((value, answers.next()), (2, None));
    }

    #[test]
    #[should_panic(expected = "use the one that begins with `try_`")]
    fn a_helper_that_panics_is_refused_in_a_probe_even_where_it_would_succeed() {
        until("true", 10, || Ok::<_, ()>(run(&mut std::process::Command::new("true"))));
    }

    #[test]
    fn it_is_allowed_again_after_the_wait() {
        until_true("nothing", 10, || true);
        run(&mut std::process::Command::new("true"));
    }
}

//! The invariants of `CASES.md` (I1 to I12). A broken one is more than a failed
//! test: a second try must not hide it, so it is written down before the panic
//! and fails the run.

use std::fmt::Display;

use crate::record;

/// For [`invariant!`](crate::invariant): writes the violation down.
pub fn violated(invariant: &str, what: &dyn Display) {
    record::append("violations", &format!("{invariant} {}: {what}", record::test()));
}

/// `invariant!("I4", tree == copy, "{host}: the copy differs")`: panics unless
/// the condition holds, and fails the whole run whatever a second try says.
#[macro_export]
macro_rules! invariant {
    ($name:literal, $condition:expr, $($text:tt)+) => {
        if !$condition {
            let text = format!($($text)+);
            $crate::invariant::violated($name, &text);
            panic!("{}: {text}", $name);
        }
    };
}

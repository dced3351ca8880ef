//! What tests measure: spans, counts and sizes are part of what some are for.

/// Prints what a test measured and has it told at the end of the run.
#[macro_export]
macro_rules! figure {
    ($($text:tt)+) => {{
        let text = format!($($text)+);
        println!("{text}");
        $crate::record::append("figures", &format!("{}: {text}", $crate::record::test()));
    }};
}

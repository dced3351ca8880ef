//! Log lines to standard error.
//!
//! Containers have a say in what is logged (names, labels, error messages),
//! and people read logs on terminals: each line is made safe to look at as it
//! leaves.
//!
//! What other crates say below "info" is never let through, whatever is asked
//! for: the Docker client writes whole answers of the Engine there, with the
//! environment of containers in them.

use holdfast_archive::text::{LogLines, PrintableLog};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging. `HOLDFAST_LOG` holds a filter such as "debug" or
/// "holdfast_agent::engine=trace"; the default is "info".
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("HOLDFAST_LOG")
        .from_env_lossy();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| PrintableLog::new(std::io::stderr(), LogLines::Text))
        .with_ansi(false);
    // A second start in one process, as in tests, changes nothing.
    drop(
        tracing_subscriber::registry()
            .with(lines.with_filter(filter_fn(may_be_shown)).with_filter(filter))
            .try_init(),
    );
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("holdfast") || *metadata.level() <= Level::INFO
}

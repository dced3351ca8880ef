//! Log lines to standard error.
//!
//! Hosts have a say in what is logged (names, error messages), and people read
//! logs on terminals: each line is made safe to look at as it leaves.
//!
//! What other crates say below "info" is never let through, whatever is asked
//! for: HTTP libraries write headers there, and operators' tokens are headers.

use holdfast_archive::text::{LogLines, PrintableLog};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::args::LogFormat;

/// Starts logging. `HOLDFAST_LOG` holds a filter such as "debug" or
/// "holdfast_controller::fleet=trace"; the default is "info".
pub fn start(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("HOLDFAST_LOG")
        .from_env_lossy();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.with_writer(|| PrintableLog::new(std::io::stderr(), LogLines::Text)).boxed(),
        LogFormat::Json => {
            lines.json().with_writer(|| PrintableLog::new(std::io::stderr(), LogLines::Json)).boxed()
        }
    };
    let lines = lines.with_filter(filter_fn(may_be_shown)).with_filter(filter);
    // A second start in one process, as in tests, changes nothing.
    drop(tracing_subscriber::registry().with(lines).try_init());
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || metadata.target().starts_with("holdfast")
}

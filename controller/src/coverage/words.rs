//! Times and counts for people.

use chrono::{DateTime, Utc};

use crate::catalog::sources::SourceRecord;
use crate::model::source::SourceKind;

pub(super) fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A moment, to the minute.
pub(super) fn moment(ms: i64) -> String {
    instant(ms).format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Further ahead of the clock than this, a time is one from a clock that was
/// wrong, and says nothing.
const AHEAD_MS: i64 = 5 * 60_000;

/// Since when something has been there; a time of the future means: always.
pub(super) fn since(ms: i64, now_ms: i64) -> i64 {
    if is_of_the_future(ms, now_ms) { 0 } else { ms }
}

pub(super) fn is_of_the_future(ms: i64, now_ms: i64) -> bool {
    ms > now_ms.saturating_add(AHEAD_MS)
}

/// A length of time, roughly.
pub(crate) fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What a source is called, and the option that names one.
pub(super) fn noun(source: &SourceRecord) -> &'static str {
    match source.kind {
        SourceKind::Directory => "directory",
        SourceKind::Volume => "volume",
    }
}

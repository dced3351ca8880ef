//! Times and counts for people.

use chrono::{DateTime, Utc};

use crate::catalog::sources::SourceRecord;
use holdfast_proto::v1::SourceKind;

pub(super) fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A moment, to the minute.
pub(super) fn moment(ms: i64) -> String {
    instant(ms).format("%Y-%m-%d %H:%M UTC").to_string()
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
        SourceKind::Volume | SourceKind::Unspecified => "volume",
    }
}

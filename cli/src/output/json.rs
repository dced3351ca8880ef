//! JSON for programs.

use holdfast_archive::text::printable_json;
use serde::Serialize;

use crate::error::CliError;

pub(super) fn pretty<R: Serialize>(result: &R) -> String {
    let text =
        serde_json::to_string_pretty(result).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
    // Only strings hold such characters, and their escapes mean the same: programs read the same
    // values.
    printable_json(&text).into_owned()
}

pub(super) fn error(error: &CliError) -> String {
    let message = std::iter::once(&error.message).chain(&error.more).cloned().collect::<Vec<_>>().join("\n");
    let text = serde_json::json!({
        "error": { "code": error.code, "message": message, "hint": error.hint, "exit": error.exit as u8 }
    })
    .to_string();
    printable_json(&text).into_owned()
}

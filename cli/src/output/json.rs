//! JSON for programs.

use serde::Serialize;

use crate::error::CliError;

pub(super) fn pretty<R: Serialize>(result: &R) -> String {
    serde_json::to_string_pretty(result).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

pub(super) fn error(error: &CliError) -> String {
    serde_json::json!({
        "error": { "code": error.code, "message": error.message, "hint": error.hint, "exit": error.exit as u8 }
    })
    .to_string()
}

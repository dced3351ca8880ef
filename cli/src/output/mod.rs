//! The only printing. Commands return data; this renders it, as a table or as
//! JSON from the same struct.

mod json;
pub mod progress;
mod table;
mod units;

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

pub use table::{Details, Rows};
pub use units::{Bytes, Escaped, Millis, When, duration};

use crate::args::OutputFormat;
use crate::error::{CliError, Exit};

/// Something a command gives.
pub trait Render: Serialize {
    /// For people; ends without a line break.
    fn human(&self) -> String;
}

/// Prints a result on standard output. A reader that has gone (`| head`) is
/// no error.
pub fn emit<R: Render>(format: OutputFormat, result: &R) {
    let text = match format {
        OutputFormat::Table => result.human(),
        OutputFormat::Json => json::pretty(result),
    };
    if !text.is_empty() {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Writes a file's content to standard output as it is.
pub fn raw(bytes: &[u8]) -> std::io::Result<()> {
    std::io::stdout().lock().write_all(bytes)
}

/// A line of a story told on standard output.
pub fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", line.as_ref());
}

/// One line for people on standard error.
pub fn note(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", line.as_ref());
}

/// The error that ends a command.
pub fn fail(format: OutputFormat, error: &CliError) {
    let mut stderr = std::io::stderr().lock();
    let _ = match format {
        OutputFormat::Table => {
            let _ = writeln!(stderr, "error: {}", error.message);
            match &error.hint {
                Some(hint) => writeln!(stderr, "hint:  {hint}"),
                None => Ok(()),
            }
        }
        OutputFormat::Json => writeln!(stderr, "{}", json::error(error)),
    };
}

/// Asks on the terminal; without one the answer is no.
pub fn confirm(question: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Exit::Usage,
            "not-confirmed",
            format!("{question} There is no terminal to ask at"),
        )
        .hint("give --yes"));
    }
    let _ = write!(std::io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| CliError::io("standard input", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// "; did you mean `a`, `b`?" for the names nearest to `name`; empty when
/// none is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut near: Vec<(usize, &str)> = known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 3)
        .collect();
    near.sort_unstable();
    let names: Vec<String> = near.iter().take(3).map(|(_, candidate)| format!("`{candidate}`")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(", ")) }
}

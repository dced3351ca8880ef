//! The only printing. Commands return data; this renders it, as a table or as
//! JSON from the same struct. What comes from a host (names, labels, images,
//! messages) passes through [`holdfast_archive::text`] on its way out, here
//! and nowhere else: a test sees to it that no other module writes.
//!
//! Every command calls it. It touches standard output, standard error and, to
//! ask, the terminal; it knows no connection.

mod json;
mod lines;
pub mod progress;
mod table;
mod units;

use std::io::{IsTerminal as _, Write as _};

use holdfast_archive::text::{printable, printable_lines};
use serde::Serialize;

pub use holdfast_archive::text::millis as duration;
pub use lines::Lines;
pub use table::{Details, Rows};
pub use units::{Bytes, Escaped, Millis, When};

use crate::args::OutputFormat;
use crate::error::{CliError, ErrorCode};

/// Something a command gives.
pub trait Render: Serialize {
    /// For people.
    fn lines(&self) -> Lines;
}

/// Prints a result on standard output. A reader that has gone (`| head`) is
/// no error.
pub fn emit<R: Render>(format: OutputFormat, result: &R) {
    let text = match format {
        OutputFormat::Table => result.lines().to_string(),
        OutputFormat::Json => json::pretty(result),
    };
    if !text.is_empty() {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Writes a file's content to standard output: exactly, unless that is a
/// terminal, which must not act on it.
pub struct Content {
    to_terminal: bool,
    /// The beginning of a character whose rest comes with the next part.
    rest: Vec<u8>,
}

impl Content {
    pub fn new() -> Self {
        Self { to_terminal: std::io::stdout().is_terminal(), rest: Vec::new() }
    }

    /// Writes the next part.
    ///
    /// # Errors
    /// Standard output takes no more: it was closed, or its disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if self.to_terminal {
            stdout.write_all(self.shown(bytes).as_bytes())
        } else {
            stdout.write_all(bytes)
        }
    }

    fn shown(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::new();
        let mut chunks = self.rest.utf8_chunks().peekable();
        let mut rest = Vec::new();
        while let Some(chunk) = chunks.next() {
            text.push_str(&printable_lines(chunk.valid()));
            // A character may be parted between two messages of a stream: its beginning waits for
            // the rest. What can be no beginning is shown as bytes.
            let cut = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if cut && chunks.peek().is_none() {
                rest = chunk.invalid().to_vec();
            } else {
                chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
            }
        }
        self.rest = rest;
        text
    }
}

/// A line of a walk-through on standard output.
pub fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", printable(line.as_ref()));
}

/// One line for people on standard error.
pub fn note(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(line.as_ref()));
}

/// A result for people on standard error: what is about to be done.
pub fn show(result: &impl Render) {
    let _ = writeln!(std::io::stderr().lock(), "{}", result.lines());
}

/// The error that ends a command.
pub fn fail(format: OutputFormat, error: &CliError) {
    let text = match format {
        OutputFormat::Table => told(error).to_string(),
        OutputFormat::Json => json::error(error),
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn told(error: &CliError) -> Lines {
    let mut lines = Lines::from(format!("error: {}", error.message));
    lines.extend(&error.more);
    lines.extend(error.hint.as_ref().map(|hint| format!("hint:  {hint}")));
    lines
}

/// A bug's last words may quote what a host sent.
pub fn tame_panics() {
    std::panic::set_hook(Box::new(|panic| note(format!("error: this is a bug: {panic}"))));
}

/// Asks on the terminal; without one the answer is no.
///
/// # Errors
/// There is no terminal, or it cannot be read.
pub fn confirm(question: &str) -> Result<bool, CliError> {
    // A script that has not said --yes has not agreed, whatever its standard input holds.
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            ErrorCode::NotConfirmed,
            format!("{question} There is no terminal to ask at"),
        )
        .hint("give --yes"));
    }
    let _ = write!(std::io::stderr().lock(), "{} [y/N] ", printable(question));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| CliError::io("standard input", &error))?;
    // Anything else, an end of input included, is no.
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests;

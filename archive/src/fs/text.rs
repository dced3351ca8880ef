//! Paths as people read them.

use std::fmt::Write as _;

/// How many problems a report spells out; the rest is counted.
pub const LISTED: usize = 100;

/// A path as text that no terminal and no log takes for anything else: valid
/// UTF-8 without control characters stays, every other byte becomes `\xNN`
/// and a backslash is doubled. The root is `.`.
pub fn escape_path(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if hidden(c) => {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().for_each(|byte| push_byte(&mut text, byte));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_byte(&mut text, byte));
    }
    text
}

/// Control characters, and those that turn the direction of a line around.
fn hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_byte(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Longest line of a report, bytes: a path of a manifest may be 256 KiB.
const LINE_BYTES: usize = 16 << 10;

/// The first of a kind of finding, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) listed: Vec<String>,
    pub(crate) total: u64,
}

impl Findings {
    pub(crate) fn push(&mut self, text: impl FnOnce() -> String) {
        self.total += 1;
        if self.listed.len() < LISTED {
            let mut line = text();
            if line.len() > LINE_BYTES {
                line.truncate(line.floor_char_boundary(LINE_BYTES));
                line.push('\u{2026}');
                line.shrink_to_fit();
            }
            self.listed.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a16_names_are_escaped_for_people() {
        assert_eq!(escape_path(b""), ".");
        assert_eq!(escape_path("gr\u{fc}n/-rf".as_bytes()), "gr\u{fc}n/-rf");
        assert_eq!(escape_path(b"a\nb\x1b[31m\xff\\"), "a\\x0ab\\x1b[31m\\xff\\\\");
        assert_eq!(escape_path("x\u{202e}y".as_bytes()), "x\\xe2\\x80\\xaey");
    }

    #[test]
    fn findings_are_bounded_and_counted() {
        let mut findings = Findings::default();
        (0..250).for_each(|n| findings.push(|| n.to_string()));
        assert_eq!((findings.listed.len(), findings.total), (LISTED, 250));
        let mut findings = Findings::default();
        findings.push(|| "\u{fc}".repeat(256 << 10));
        assert!(findings.listed[0].capacity() < LINE_BYTES + 8, "{}", findings.listed[0].capacity());
    }
}

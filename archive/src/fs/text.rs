//! The first of a kind of finding, in words.

pub use crate::text::escape_path;

/// How many problems a report spells out; the rest is counted.
pub const LISTED: usize = 100;

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
    fn findings_are_bounded_and_counted() {
        let mut findings = Findings::default();
        (0..250).for_each(|n| findings.push(|| n.to_string()));
        assert_eq!((findings.listed.len(), findings.total), (LISTED, 250));
        let mut findings = Findings::default();
        findings.push(|| "\u{fc}".repeat(256 << 10));
        assert!(findings.listed[0].capacity() < LINE_BYTES + 8, "{}", findings.listed[0].capacity());
    }
}

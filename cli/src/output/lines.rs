//! Lines for people. Names, labels and messages in them may come from a host,
//! so each line is made safe as a whole when it is added: nothing in it moves
//! the cursor, and no line break in it can begin a line that looks like one of
//! this program's.

use std::fmt;

use holdfast_archive::text::{printable, printable_lines};

/// What a command shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lines(Vec<String>);

impl Lines {
    pub fn new() -> Self {
        Self::default()
    }

    /// Text whose line breaks and tabs are meant: our own, or a file.
    pub fn of_text(text: &str) -> Self {
        Self(printable_lines(text).lines().map(str::to_owned).collect())
    }

    /// Adds one line.
    pub fn push(&mut self, line: impl AsRef<str>) {
        self.0.push(printable(line.as_ref()).into_owned());
    }
}

impl<S: AsRef<str>> Extend<S> for Lines {
    fn extend<I: IntoIterator<Item = S>>(&mut self, lines: I) {
        lines.into_iter().for_each(|line| self.push(line));
    }
}

impl<S: AsRef<str>> FromIterator<S> for Lines {
    fn from_iter<I: IntoIterator<Item = S>>(lines: I) -> Self {
        let mut all = Self::new();
        all.extend(lines);
        all
    }
}

impl From<String> for Lines {
    /// One line.
    fn from(line: String) -> Self {
        Self::from_iter([line])
    }
}

impl IntoIterator for Lines {
    type Item = String;
    type IntoIter = std::vec::IntoIter<String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v09_a_line_stays_one_line_whatever_is_in_it() {
        let mut lines = Lines::from("db\nerror: forged\x1b[2J".to_owned());
        lines.extend(["a\u{202e}b", "c\r"]);
        assert_eq!(lines.to_string(), "db\\nerror: forged\\u{1b}[2J\na\\u{202e}b\nc\\r");
        assert_eq!(Lines::of_text("a = 1\n\tb\x07\n").to_string(), "a = 1\n\tb\\u{7}");
    }

    #[test]
    fn what_is_safe_already_is_not_changed_again() {
        let once = Lines::from("a\nb".to_owned());
        let twice: Lines = once.clone().into_iter().collect();
        assert_eq!(once, twice);
    }
}

//! Names and labels of hosts and operators, checked when parsed: they end up
//! in tables, log lines, file names of policies and certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` cannot be a name: 1 to 63 small letters, digits, `-`, `_` and `.` can, the first a letter or digit",
    .0.escape_debug()
)]
pub struct InvalidName(String);

/// A label that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    #[error("label key `{}`: 1 to 63 letters, digits, `-`, `_`, `.` and `/` are expected", .0.escape_debug())]
    Key(String),
    #[error("the value of label `{0}` is longer than 255 bytes or holds control characters")]
    Value(String),
    #[error("{0} labels are too many: 64 are allowed")]
    TooMany(usize),
}

/// A host's or operator's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && text.len() <= 63 && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels of a host, by key.
pub type Labels = BTreeMap<String, String>;

/// Checks labels as they come from the wire.
///
/// # Errors
/// A key or value is too long or has characters a label has not, or there are
/// too many.
pub fn check_labels<'a>(
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Labels, InvalidLabel> {
    let mut checked = Labels::new();
    for (key, value) in labels {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if key.is_empty() || key.len() > 63 || !key.bytes().all(known) {
            return Err(InvalidLabel::Key(key.chars().take(80).collect()));
        }
        if value.len() > 255 || value.chars().any(char::is_control) {
            return Err(InvalidLabel::Value(key.clone()));
        }
        checked.insert(key.clone(), value.clone());
    }
    if checked.len() > 64 {
        return Err(InvalidLabel::TooMany(checked.len()));
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x18_only_plain_names_are_names() {
        for good in ["web-1", "db_2.prod", "0"] {
            assert_eq!(good.parse::<Name>().expect("a name").as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in ["", "../etc", "-v", "$(id)", "a\nb", "Web", "a b", ".", long.as_str()] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_have_bounds() {
        let pair = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        assert!(check_labels(&pair("role", "db")).is_ok());
        assert!(check_labels(&pair("", "db")).is_err());
        assert!(check_labels(&pair("a=b", "db")).is_err());
        assert!(check_labels(&pair("role", "a\u{1b}b")).is_err());
    }
}

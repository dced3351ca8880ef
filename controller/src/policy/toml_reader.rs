//! Reads TOML tables key by key, remembering where everything stood, and
//! collects what is wrong instead of stopping at the first.

use std::time::Duration;

use holdfast_archive::text;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parse::Problem;

pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) problems: Vec<Problem>,
}

pub(super) type Value<'t, 'a> = &'t Spanned<DeValue<'a>>;

/// The nearest of `known` to `wanted`, if any is near.
pub(crate) fn nearest<'k>(wanted: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    text::nearest(wanted, known).first().copied()
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// Line and column, both from 1, of a byte offset.
    fn position(&self, offset: usize) -> (u32, u32) {
        let before = &self.text[..offset.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    pub(super) fn problem(&mut self, offset: usize, message: impl Into<String>) {
        let (line, column) = self.position(offset);
        self.problems.push(Problem { line, column, message: message.into() });
    }

    /// Character `column` (from 1) inside a string value, if it has no escapes.
    pub(super) fn inside(&self, value: Value<'_, '_>, column: usize) -> usize {
        let span = value.span();
        let raw = &self.text[span.clone()];
        let quote = ["\"\"\"", "'''", "\"", "'"].iter().find(|quote| raw.starts_with(**quote));
        let skip = quote.map_or(0, |quote| quote.len());
        let inner = &raw[skip..];
        span.start + skip + inner.char_indices().nth(column.saturating_sub(1)).map_or(0, |(offset, _)| offset)
    }

    pub(super) fn known_keys(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let advice = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", listed(known)),
            };
            self.problem(key.span().start, format!("unknown key `{name}`; {advice}"));
        }
    }

    fn mismatch(&mut self, key: &str, value: Value<'_, '_>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.problem(value.span().start, format!("`{key}` is {wanted}, not a TOML {found}"));
    }

    pub(super) fn string<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<(String, &'t Spanned<DeValue<'t>>)>
    where
        'a: 't,
    {
        let value = table.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), value)),
            None => {
                self.mismatch(key, value, "a string");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.mismatch(key, value, "true or false");
        }
        found
    }

    /// A whole number from `least`.
    pub(super) fn number(&mut self, table: &DeTable<'_>, key: &str, least: u32, why: &str) -> Option<u32> {
        let value = table.get(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.mismatch(key, value, "a whole number");
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| u32::try_from(n).ok())
        {
            Some(number) if number >= least => Some(number),
            _ => {
                self.problem(value.span().start, format!("`{key}` must be at least {least}: {why}"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<'w>(&mut self, table: &DeTable<'_>, key: &str, words: &[&'w str]) -> Option<&'w str> {
        let value = table.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.mismatch(key, value, "a string");
            return None;
        };
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            let advice = nearest(text, words.iter().copied())
                .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.problem(
                value.span().start,
                format!("`{text}` is no value of `{key}`: {} are{advice}", listed(words)),
            );
        }
        found
    }

    /// `"90s"`, `"10m"`, `"2h"`, `"1d"`, or several after one another.
    pub(super) fn duration(&mut self, table: &DeTable<'_>, key: &str) -> Option<Duration> {
        let value = table.get(key)?;
        let parsed = value.get_ref().as_str().map(parse_duration);
        match parsed {
            Some(Some(duration)) => Some(duration),
            _ => {
                self.problem(
                    value.span().start,
                    format!("`{key}` is a length of time such as \"90s\", \"10m\", \"2h\" or \"1h30m\""),
                );
                None
            }
        }
    }

    /// A string or an array of strings; each with its value for positions.
    pub(super) fn strings<'t, 'v>(
        &mut self,
        key: &str,
        value: Value<'t, 'v>,
    ) -> Vec<(String, Value<'t, 'v>)> {
        let items: Vec<Value<'t, 'v>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            DeValue::String(_) => vec![value],
            _ => {
                self.mismatch(key, value, "an array of strings");
                return Vec::new();
            }
        };
        let mut strings = Vec::new();
        for item in items {
            match item.get_ref().as_str() {
                Some("") => self.problem(item.span().start, format!("an empty string in `{key}`")),
                Some(text) => strings.push((text.to_owned(), item)),
                None => self.mismatch(key, item, "an array of strings"),
            }
        }
        strings
    }

    pub(super) fn table<'t, 'v>(&mut self, table: &'t DeTable<'v>, key: &str) -> Option<&'t DeTable<'v>> {
        let value = table.get(key)?;
        let found = value.get_ref().as_table();
        if found.is_none() {
            self.mismatch(key, value, "a table");
        }
        found
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    // A year: more is a slip of the pen and would overflow dates later.
    (!text.is_empty() && seconds <= 366 * 86_400).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        for bad in ["", "10", "m", "-1m", "1.5h", "10 m", "5m3", "99999999999999999999d", "1y", "3é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("consistancy", ["consistency", "torn"]), Some("consistency"));
        assert_eq!(nearest("frequency", ["consistency", "torn"]), None);
    }
}

//! Values that people and programs want in different clothes: human in
//! tables, exact in JSON.

use std::fmt;

use chrono::{DateTime, Local, SecondsFormat, Utc};
use holdfast_archive::text::{self, hidden};
use serde::{Serialize, Serializer};

/// Bytes: `8.2 GiB`, or the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bytes(pub u64);

/// A span: `1.2 s`, or milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Millis(pub u64);

/// Milliseconds since the Unix epoch, 0 for never: `3m ago`, or RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub i64);

/// Bytes of a name: what cannot be shown is escaped, so that no file name can
/// move the cursor or end a JSON string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escaped(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::bytes(self.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::millis(self.0))
    }
}

impl When {
    fn instant(self) -> Option<DateTime<Utc>> {
        (self.0 != 0).then(|| DateTime::from_timestamp_millis(self.0)).flatten()
    }

    /// Wall clock of this machine with its offset.
    pub fn local(self) -> String {
        self.instant().map_or("never".to_owned(), |at| {
            at.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z").to_string()
        })
    }

    /// `YYYY-MM-DD HH:MM:SS` in UTC.
    pub fn utc(self) -> String {
        self.instant().map_or(String::new(), |at| at.format("%Y-%m-%d %H:%M:%S").to_string())
    }

    /// Day of this machine's calendar.
    pub fn date(self) -> String {
        self.instant()
            .map_or("never".to_owned(), |at| at.with_timezone(&Local).format("%Y-%m-%d").to_string())
    }

    fn relative(self, now_ms: i64) -> String {
        if self.0 == 0 {
            return "never".to_owned();
        }
        // The clock of a host or a controller may be ahead of this one: then a moment that has
        // passed is still to come.
        let (past, span) = (now_ms >= self.0, now_ms.abs_diff(self.0) / 1000);
        let text = match span {
            0..60 => format!("{span}s"),
            60..3600 => format!("{}m", span / 60),
            // Hours up to two days: "1d ago" would be anything from 24 to 47 hours.
            3600..172_800 => format!("{}h", span / 3600),
            _ => format!("{}d", span / 86_400),
        };
        if past { format!("{text} ago") } else { format!("in {text}") }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.relative(Utc::now().timestamp_millis()))
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.instant().map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)).serialize(serializer)
    }
}

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                if hidden(letter) || letter == '\\' {
                    text.extend(letter.escape_default());
                } else {
                    text.push(letter);
                }
            }
            for byte in chunk.invalid() {
                text.push_str(&format!("\\x{byte:02x}"));
            }
        }
        f.pad(&text)
    }
}

impl Serialize for Escaped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_human() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (8_804_682_956, "8.2 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(Bytes((1 << 20) - 1).to_string(), "1.0 MiB");
    }

    #[test]
    fn times_are_relative_for_people_and_exact_for_programs() {
        let now = 1_700_000_000_000;
        assert_eq!(When(now - 3_000).relative(now), "3s ago");
        assert_eq!(When(now - 93_600_000).relative(now), "26h ago");
        assert_eq!(When(now + 120_000).relative(now), "in 2m");
        assert_eq!(When(0).relative(now), "never");
        assert_eq!(serde_json::to_string(&When(now)).expect("json"), "\"2023-11-14T22:13:20.000Z\"");
        assert_eq!(serde_json::to_string(&When(0)).expect("json"), "null");
    }

    #[test]
    fn a16_names_cannot_reach_the_terminal() {
        let name = Escaped(b"a\x1b[31m\nb\xff\\".to_vec());
        assert_eq!(name.to_string(), "a\\u{1b}[31m\\nb\\xff\\\\");
    }
}

//! Text that was written elsewhere, as people read it.
//!
//! A name, a label or an error message of a host may hold anything: escape
//! sequences that move a terminal's cursor, characters that turn a line
//! around, line breaks that look like a line of the program's own. The one
//! list of such characters is [`hidden`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

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
                // Byte by byte, so that the way back is the same for these and for what is no
                // UTF-8.
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

/// An error and its causes as one sentence. A cause that the text so far has
/// said already is not said again.
pub fn causes(error: &(dyn std::error::Error + '_)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// How many names are offered for one that is not known.
const OFFERED: usize = 3;

/// Likeness by Jaro and Winkler from which on a name is near however many
/// letters it lacks: `shop` is meant to find `shop_data`.
const LIKE: f64 = 0.8;

/// The known names that may have been meant by one that is not known, the
/// nearest first: at most three.
pub fn nearest<'k>(wanted: &str, known: impl IntoIterator<Item = &'k str>) -> Vec<&'k str> {
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| {
            *distance <= 1 + wanted.len().max(name.len()) / 4 || strsim::jaro_winkler(wanted, name) >= LIKE
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

/// "; did you mean `a`, `b`?" for the nearest names, or nothing where none is
/// near: the end of the sentence that says the name is not known.
pub fn did_you_mean<'k>(wanted: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let names: Vec<String> = nearest(wanted, known).iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(", ")) }
}

/// `text` on one line, with nothing in it that a terminal acts on: a line
/// break becomes `\n`, another hidden character `\u{1b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, hidden, |out, c| out.extend(c.escape_default()))
}

/// Like [`printable`], for text whose lines and tabs are meant as such.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| hidden(c) && !matches!(c, '\n' | '\t'), |out, c| out.extend(c.escape_default()))
}

/// JSON without the characters that JSON itself allows as they are. They stand
/// in strings only, so the values are the same.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    escaped(
        json,
        |c| hidden(c) && c != '\n',
        |out, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

/// A size for people: two or three digits and a binary unit, `8.2 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A length of time for people, from milliseconds to days.
pub fn millis(count: u64) -> String {
    let seconds = count / 1000;
    match count {
        0..1000 => format!("{count} ms"),
        1000..60_000 => format!("{seconds}.{} s", count % 1000 / 100),
        60_000..3_600_000 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// "1 file", "3 files".
pub fn counted(count: usize, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

fn escaped(text: &str, bad: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let Some(first) = text.find(&bad) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        if bad(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Characters that act instead of being seen: controls, those that turn the
/// direction of a line around, line separators, and those without any width.
/// Joiners stay, because some scripts are written with them.
pub fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_byte(text: &mut String, byte: u8) {
    let _ = write!(text, "\\x{byte:02x}");
}

/// How [`PrintableLog`] escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLines {
    Text,
    Json,
}

/// Log lines that are safe to look at. Each write is one whole line with its
/// line break, as `tracing_subscriber::fmt` makes them; a line break inside is
/// part of some message and is escaped.
#[derive(Debug)]
pub struct PrintableLog<W> {
    to: W,
    lines: LogLines,
}

impl<W> PrintableLog<W> {
    pub fn new(to: W, lines: LogLines) -> Self {
        Self { to, lines }
    }
}

impl<W: io::Write> io::Write for PrintableLog<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let safe = match self.lines {
            LogLines::Text => printable(text),
            LogLines::Json => printable_json(text),
        };
        // In one piece: other threads write lines, too.
        self.to.write_all(format!("{safe}{end}").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not write x: {0}; check how it is mounted")]
        struct Outer(#[source] io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("the repository failed")]
        struct Outermost(#[from] Outer);

        let read_only = || io::Error::other("Read-only file system");
        let said = causes(&Outermost(Outer(read_only())));
        assert_eq!(
            said,
            "the repository failed: could not write x: Read-only file system; check how it is mounted"
        );
    }

    #[test]
    fn a16_names_are_escaped_for_people() {
        assert_eq!(escape_path(b""), ".");
        assert_eq!(escape_path("gr\u{fc}n/-rf".as_bytes()), "gr\u{fc}n/-rf");
        assert_eq!(escape_path(b"a\nb\x1b[31m\xff\\"), "a\\x0ab\\x1b[31m\\xff\\\\");
        assert_eq!(escape_path("x\u{202e}y".as_bytes()), "x\\xe2\\x80\\xaey");
    }

    #[test]
    fn nothing_that_acts_is_left_and_the_rest_is_untouched() {
        let plain = "grün → 日本 👩\u{200d}💻 C:\\dir 100 %";
        assert!(matches!(printable(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(printable("a\x1b[2J\r\nb\tc\u{9b}31m"), "a\\u{1b}[2J\\r\\nb\\tc\\u{9b}31m");
        assert_eq!(printable("x\u{202e}y\u{200b}\u{2066}"), "x\\u{202e}y\\u{200b}\\u{2066}");
        assert_eq!(printable_lines("a\n\tb\x07\r\n"), "a\n\tb\\u{7}\\r\n");
    }

    #[test]
    fn o02_the_nearest_names_are_offered() {
        let known = ["web-2", "web-1", "db-1", "web-2"];
        assert_eq!(did_you_mean("web-3", known), "; did you mean `web-1`, `web-2`?");
        assert_eq!(nearest("shop", ["shop_data", "mail"]), ["shop_data"], "a beginning is near");
        assert_eq!(did_you_mean("zzz", known), "");
        assert_eq!(did_you_mean("web-3", ["database"]), "");
    }

    #[test]
    fn json_keeps_its_values() {
        let value = "a\u{202e}b\u{9b}\u{7f}\u{e0041}\n\x1b";
        let json = serde_json::to_string_pretty(&[value]).unwrap();
        let safe = printable_json(&json);
        assert!(!safe.contains(|c| hidden(c) && c != '\n'), "{safe:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [value]);
    }

    #[test]
    fn a_log_line_stays_one_line() {
        let mut text = PrintableLog::new(Vec::new(), LogLines::Text);
        text.write_all(b"INFO name=a\n\x1b[31mERROR forged\xff\n").unwrap();
        assert_eq!(String::from_utf8(text.to).unwrap(), "INFO name=a\\n\\u{1b}[31mERROR forged\u{fffd}\n");
        let mut json = PrintableLog::new(Vec::new(), LogLines::Json);
        json.write_all("{\"name\":\"\u{202e}\"}\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(json.to).unwrap(), "{\"name\":\"\\u202e\"}\n");
    }
}

//! Paths that a source names: `crate::…`, `self::…` and `super::…`, in imports
//! and in code.

/// One path, as it stands in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// From the first word on: `crate`, `self` or `super`.
    pub(super) path: Vec<String>,
    /// The line of its first word, from 1.
    pub(super) line: usize,
}

/// Words that a path within the crate begins with.
const BEGIN: [&str; 3] = ["crate", "self", "super"];

/// All of a text that has no comments; a group gives a path for each of its
/// members.
pub(super) fn named(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let (mut line, mut counted, mut read) = (1, 0, 0);
    for (colons, _) in text.match_indices("::") {
        let before = text[..colons].trim_end_matches(is_of_word);
        let begin = before.len();
        // A path is read to its end, so that a `super` inside it begins no other one.
        if begin < read || before.ends_with(':') || !BEGIN.contains(&&text[begin..colons]) {
            continue;
        }
        line += text[counted..begin].matches('\n').count();
        counted = begin;
        let mut reader = Reader { rest: &text[begin..] };
        let mut paths = Vec::new();
        reader.tree(&mut Vec::new(), &mut paths);
        found.extend(paths.into_iter().map(|path| Named { path, line }));
        read = text.len() - reader.rest.len();
    }
    found
}

fn is_of_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Reads trees of imports; a path in code is a tree without a group.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// `a::b`, `a::{b, c::d}`, `a::*`, `a as b`, each behind `above`.
    fn tree(&mut self, above: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        let depth = above.len();
        loop {
            if self.takes("{") {
                while !self.takes("}") && !self.rest.is_empty() {
                    self.tree(above, found);
                    // Whatever stands between two members: `as name`, a comma.
                    let end = self.rest.find([',', '}']).unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                    self.takes(",");
                }
                break;
            }
            let word = self.word();
            if word.is_empty() {
                found.push(above.clone());
                break;
            }
            above.push(word);
            if !self.rest.starts_with("::") {
                found.push(above.clone());
                break;
            }
            self.rest = &self.rest[2..];
        }
        above.truncate(depth);
    }

    fn takes(&mut self, mark: &str) -> bool {
        let rest = self.rest.trim_start();
        let Some(after) = rest.strip_prefix(mark) else { return false };
        self.rest = after;
        true
    }

    fn word(&mut self) -> String {
        let rest = self.rest.trim_start();
        let end = rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len());
        if end > 0 {
            self.rest = &rest[end..];
        }
        rest[..end].to_owned()
    }
}

#[test]
fn paths_are_found_however_they_are_written() {
    let text = "use super::{a::{self, B}, super::c as d, e};\nuse crate::f::*;\n\
                fn g() -> crate::h::Set<self::i::J> {\n    super_crate::k(); crate::l::<u8>(); $crate::m!()\n}";
    let found = named(text);
    let paths: Vec<_> = found.iter().map(|named| (named.line, named.path.join("::"))).collect();
    let expected = [
        (1, "super::a::self"),
        (1, "super::a::B"),
        (1, "super::super::c"),
        (1, "super::e"),
        (2, "crate::f"),
        (3, "crate::h::Set"),
        (3, "self::i::J"),
        (4, "crate::l"),
        (4, "crate::m"),
    ];
    assert_eq!(paths, expected.map(|(line, path)| (line, path.to_owned())));
}

//! One source of a crate, as far as the order of its parts is concerned: the
//! module it is, and what ships of its text.

use std::path::{Path, PathBuf};

/// A source, and the module it is.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Names from the crate's root down; none for the root itself.
    pub(super) module: Vec<String>,
    /// What ships of it: no comment, and no tests. Each line stands where it
    /// stands in the file.
    pub(super) text: String,
}

impl Source {
    fn read(path: PathBuf, src: &Path) -> Self {
        let inside = path.strip_prefix(src).unwrap().with_extension("");
        let names = inside.iter().map(|name| name.to_str().unwrap().to_owned());
        let mut module: Vec<String> = names.collect();
        let is_root = module.len() == 1 && ["lib", "main"].contains(&&*module[0]);
        if is_root || module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let text = shipped(&std::fs::read_to_string(&path).unwrap());
        Self { path, module, text }
    }

    /// Whether it holds tests and what they alone need.
    fn is_test(&self) -> bool {
        self.module.iter().any(|name| name.starts_with("test"))
    }
}

/// What ships of the crate whose root lies in this folder, in the order of the
/// paths.
pub(super) fn sources(src: &Path) -> Vec<Source> {
    let mut paths = paths(src);
    paths.sort();
    let mut sources: Vec<_> = paths.into_iter().map(|path| Source::read(path, src)).collect();
    sources.retain(|source| !source.is_test());
    sources
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(paths(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// A text without comments and without what `#[cfg(test)]` stands before, which
/// leave empty lines. It is as `cargo fmt` writes it: an item ends where a line
/// with the indent of its first one does.
fn shipped(text: &str) -> String {
    let mut shipped = String::with_capacity(text.len());
    let mut skipped: Option<usize> = None;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let indent = code.len() - code.trim_start().len();
        match skipped {
            None if code.trim() == "#[cfg(test)]" => skipped = Some(indent),
            None => shipped.push_str(code),
            Some(begin) if indent == begin && ends_item(code.trim()) => skipped = None,
            Some(_) => {}
        }
        shipped.push('\n');
    }
    shipped
}

/// Whether a line that is indented as its item may be the last one of it.
fn ends_item(code: &str) -> bool {
    code.ends_with(';') || code.ends_with('}') || (code.ends_with(',') && !code.ends_with("),"))
}

#[test]
fn comments_and_tests_do_not_ship() {
    let text = "use a; // b\n#[cfg(test)]\nmod c;\nfn d() {\n    #[cfg(test)]\n    use e::{\n        f,\n    };\n    \
                g();\n}\n#[cfg(test)]\n#[path = \"x\"]\nmod h {\n    fn i() {}\n}\nuse j;";
    let lines = shipped(text);
    let code: Vec<_> = lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    assert_eq!(
        code,
        [(0, "use a; "), (3, "fn d() {"), (8, "    g();"), (9, "}"), (15, "use j;")],
        "each line stands where it stood"
    );
}

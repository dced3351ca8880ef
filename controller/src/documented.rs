//! Reads the tables of keys in `deploy/OPERATIONS.md`, to hold them to the code.

use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../deploy/OPERATIONS.md");

/// Keys of the table below a heading, with the TOML of their default where it
/// is given as such.
pub(crate) fn keys(heading: &str) -> BTreeMap<String, Option<String>> {
    let (_, section) = DOCUMENT.split_once(&format!("\n### {heading}\n")).expect("the heading");
    let section = section.split("\n#").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [key, default, _] = cells[..] else { panic!("not three cells: {line}") };
        let code =
            |cell: &str| cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).map(str::to_owned);
        (code(key).expect("a key in backticks"), code(default))
    };
    rows.map(row).collect()
}

/// A file with one more key, given as `table.key`; tables are made as needed.
pub(crate) fn with_key(file: &str, key: &str, value: &str) -> String {
    let mut root: toml::Table = file.parse().expect("TOML");
    let value: toml::Table = format!("value = {value}").parse().expect("a default that is TOML");
    let (tables, last) = key.rsplit_once('.').map_or(("", key), |(tables, last)| (tables, last));
    let mut table = &mut root;
    for name in tables.split('.').filter(|name| !name.is_empty()) {
        let next = table.entry(name).or_insert_with(|| toml::Table::new().into());
        table = next.as_table_mut().expect("a table");
    }
    table.insert(last.to_owned(), value["value"].clone());
    root.to_string()
}

//! `CASES.md` names tests that are there, and all that are named after a case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How many cases each group has.
const GROUPS: [(char, usize); 8] =
    [('A', 35), ('D', 19), ('S', 27), ('P', 25), ('O', 13), ('X', 27), ('R', 12), ('U', 9)];

/// Groups that grow with what is found: those of their cases have a row that
/// have a test.
const FOUND: [char; 2] = ['H', 'V'];

const FOLDERS: [&str; 6] = ["agent", "archive", "cli", "controller", "proto", "tests"];

/// One row of the tally.
struct Row {
    id: String,
    tests: BTreeSet<String>,
    status: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("tests/CASES.md")).unwrap();
    let table = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id |"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, tests, status] = cells[..] else { panic!("not four cells: {line}") };
        let tests = tests.split('`').filter(|part| part.contains("::")).map(str::to_owned).collect();
        Row { id: id.to_owned(), tests, status: status.to_owned() }
    };
    table.map(row).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every function of the workspace, as `file::name`.
fn functions() -> BTreeSet<String> {
    let root = root();
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let mut functions = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = file.strip_prefix(&root).unwrap().display();
        let names = text.lines().filter_map(|line| {
            let line = line.trim_start();
            let rest = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
            rest.split(['(', '<']).next()
        });
        functions.extend(names.map(|name| format!("{shown}::{name}")));
    }
    functions
}

/// The cases a test is named after: `a20_a21_a_file` is of A20 and A21.
fn named_after(test: &str, known: &BTreeSet<String>) -> Vec<String> {
    let (_, name) = test.rsplit_once("::").unwrap();
    name.split('_').map(str::to_uppercase).filter(|word| known.contains(word)).collect()
}

#[test]
fn the_tally_of_cases_is_true_to_the_tests() {
    let rows = rows();
    let all: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let (found, ids): (Vec<&str>, Vec<&str>) = all.into_iter().partition(|id| id.starts_with(FOUND));
    assert!(found.is_sorted_by(|a, b| a < b), "each case has one row, in order: {found:?}");
    let expected: Vec<String> = GROUPS
        .iter()
        .flat_map(|&(group, count)| (1..=count).map(move |number| format!("{group}{number:02}")))
        .collect();
    assert_eq!(ids, expected, "every case has one row, in order");
    let functions = functions();
    for Row { id, tests, status } in &rows {
        let missing: Vec<&String> = tests.difference(&functions).collect();
        assert!(missing.is_empty(), "{id} names tests that are not there: {missing:#?}");
        let (word, rest) = status.split_once(": ").unwrap_or((status, ""));
        let well_formed = match word {
            "tested" => !tests.is_empty(),
            "partly" => !tests.is_empty() && !rest.is_empty(),
            "not yet" => tests.is_empty() && !rest.is_empty(),
            _ => false,
        };
        assert!(well_formed, "{id}: `{status}` with {} tests", tests.len());
    }
    let numbers = || (1..=99).flat_map(|number| FOUND.map(|group| format!("{group}{number:02}")));
    let known: BTreeSet<String> = expected.into_iter().chain(numbers()).collect();
    let listed: BTreeMap<&str, &BTreeSet<String>> =
        rows.iter().map(|row| (row.id.as_str(), &row.tests)).collect();
    for function in &functions {
        for id in named_after(function, &known) {
            let row = listed.get(id.as_str());
            assert!(row.is_some_and(|row| row.contains(function)), "the row of {id} lacks {function}");
        }
    }
}

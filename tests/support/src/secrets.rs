//! Command lines on which no secret is given: these are read by other users, by
//! shells' histories and by whoever collects diagnostics. An argument that
//! promises a secret takes a file that holds it.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, Command};

/// What a name has in it that promises a secret.
const WORDS: [&str; 8] =
    ["token", "secret", "password", "passphrase", "credential", "key", "auth", "private"];

/// An argument that promises a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promising {
    /// The names of the commands that lead to it, and its own.
    pub name: String,
    /// Its value is the path of a file.
    pub is_file: bool,
}

/// Arguments of a command and those below it that promise a secret.
pub fn promising(command: &Command) -> Vec<Promising> {
    let mut found = Vec::new();
    search(command, command.get_name(), &mut found);
    found
}

/// Panics where one of these takes a secret itself, and names it.
pub fn assert_all_are_files(found: &[Promising]) {
    let bare: Vec<&str> = found.iter().filter(|one| !one.is_file).map(|one| one.name.as_str()).collect();
    assert!(bare.is_empty(), "these take a secret itself: {bare:?}");
}

fn search(command: &Command, path: &str, found: &mut Vec<Promising>) {
    for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
        if names(arg).any(|name| WORDS.iter().any(|word| name.contains(word))) {
            let is_file = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            found.push(Promising { name: format!("{path} {}", arg.get_id()), is_file });
        }
    }
    for below in command.get_subcommands() {
        search(below, &format!("{path} {}", below.get_name()), found);
    }
}

/// What an argument can be called by: its name, its options, its variable.
fn names(arg: &Arg) -> impl Iterator<Item = String> {
    let options = [arg.get_long().map(str::to_owned), arg.get_env().map(|env| env.to_string_lossy().into())];
    let aliases = arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned);
    std::iter::once(arg.get_id().to_string())
        .chain(options.into_iter().flatten())
        .chain(aliases)
        .map(|name| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_an_option_that_takes_a_secret() {
        let bad = Command::new("bad")
            .subcommand(Command::new("login").arg(Arg::new("given").long("api-key")))
            .arg(Arg::new("plain").long("plain").env("HOLDFAST_TOKEN"));
        let bare = |name: &str| Promising { name: name.to_owned(), is_file: false };
        assert_eq!(promising(&bad), [bare("bad plain"), bare("bad login given")]);
    }
}

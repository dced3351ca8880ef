//! No option, argument or environment variable takes a secret itself: command
//! lines and environments are read by other users, by shells' histories and by
//! whoever collects diagnostics. A secret is given as a file that holds it.

use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, Command as Definition, CommandFactory as _, Parser as _};

use super::Cli;

/// What a name has in it that promises a secret.
const WORDS: [&str; 8] =
    ["token", "secret", "password", "passphrase", "credential", "key", "auth", "private"];

/// What an argument can be called by: its name, its options, its variable.
fn names(arg: &Arg) -> impl Iterator<Item = String> {
    let options = [arg.get_long().map(str::to_owned), arg.get_env().map(|env| env.to_string_lossy().into())];
    let aliases = arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned);
    std::iter::once(arg.get_id().to_string())
        .chain(options.into_iter().flatten())
        .chain(aliases)
        .map(|name| name.to_lowercase())
}

/// Arguments of a command and those below it that promise a secret, and
/// whether each names a file.
fn promising(command: &Definition, path: &str, found: &mut Vec<(String, bool)>) {
    for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
        if names(arg).any(|name| WORDS.iter().any(|word| name.contains(word))) {
            let file = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            found.push((format!("{path} {}", arg.get_id()), file));
        }
    }
    for below in command.get_subcommands() {
        promising(below, &format!("{path} {}", below.get_name()), found);
    }
}

#[test]
fn o13_what_promises_a_secret_takes_a_file_that_holds_it() {
    let mut found = Vec::new();
    promising(&Cli::command(), "holdfast", &mut found);
    // The search finds what there is to be found.
    for known in ["holdfast token_file", "holdfast repo verify s3_credentials_file"] {
        assert!(found.iter().any(|(name, _)| name == known), "{known} is not in {found:?}");
    }
    let bare: Vec<&String> = found.iter().filter(|(_, file)| !file).map(|(name, _)| name).collect();
    assert!(bare.is_empty(), "these take a secret itself: {bare:?}");
}

#[test]
fn o13_a_secret_on_the_command_line_is_not_understood() {
    for option in ["--token", "--password", "--secret", "--s3-secret-key", "--s3-access-key", "--passphrase"]
    {
        for line in
            [&["holdfast", option, "hfo_x", "host", "ls"][..], &["holdfast", "host", "ls", option, "hfo_x"]]
        {
            let refused = Cli::try_parse_from(line).err();
            let kind = refused.as_ref().map(clap::Error::kind);
            assert_eq!(kind, Some(clap::error::ErrorKind::UnknownArgument), "{line:?}");
        }
    }
}

#[test]
fn the_search_finds_an_option_that_takes_a_secret() {
    let bad = Definition::new("bad")
        .subcommand(Definition::new("login").arg(Arg::new("given").long("api-key")))
        .arg(Arg::new("plain").long("plain").env("HOLDFAST_TOKEN"));
    let mut found = Vec::new();
    promising(&bad, "bad", &mut found);
    assert_eq!(found, [("bad plain".to_owned(), false), ("bad login given".to_owned(), false)]);
}

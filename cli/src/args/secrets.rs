//! No option, argument or environment variable takes a secret itself: command
//! lines and environments are read by other users, by shells' histories and by
//! whoever collects diagnostics. A secret is given as a file that holds it.

use clap::{CommandFactory as _, Parser as _};
use support::secrets::{assert_all_are_files, promising};

use super::Cli;

#[test]
fn o13_what_promises_a_secret_takes_a_file_that_holds_it() {
    let found = promising(&Cli::command());
    // The search finds what there is to be found.
    for known in ["holdfast token_file", "holdfast repo verify s3_credentials_file"] {
        assert!(found.iter().any(|one| one.name == known), "{known} is not in {found:?}");
    }
    assert_all_are_files(&found);
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

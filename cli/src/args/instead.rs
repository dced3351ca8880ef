//! Words that people bring along from other tools, and what this one has
//! instead: said where clap knows only that there is no such command.

/// Noun, word, and what to use. An empty noun is the top level.
const INSTEAD: [(&str, &str, &str); 39] = [
    ("", "list", "holdfast snapshot ls, or host ls, volume ls, job ls"),
    ("", "ls", "holdfast snapshot ls, or host ls, volume ls, job ls"),
    ("", "snapshots", "holdfast snapshot ls"),
    ("", "hosts", "holdfast host ls"),
    ("", "jobs", "holdfast job ls"),
    ("", "policies", "holdfast policy ls"),
    ("", "init", "holdfast-controller init, on the controller's machine"),
    ("", "verify", "holdfast repo verify --repository PLACE"),
    ("", "check", "holdfast repo check --repository PLACE, or repo verify for what is in it"),
    ("", "prune", "holdfast repo prune"),
    ("", "forget", "holdfast snapshot forget SNAPSHOT..."),
    (
        "",
        "logs",
        "holdfast job logs ID; of the services: journalctl -u holdfast-controller, -u holdfast-agent",
    ),
    ("", "join", "holdfast host token NAME, then on that host: holdfast-agent join TOKEN-FILE"),
    (
        "",
        "token",
        "on the controller's machine: holdfast-controller token create | ls | revoke; for a host: holdfast host token NAME",
    ),
    ("", "agent", "on the host: holdfast-agent status | join | leave; from here: holdfast host show NAME"),
    (
        "",
        "controller",
        "holdfast status; to keep of a controller: its stopped state directory, /var/lib/holdfast-controller",
    ),
    ("", "ca", "the CA is made by holdfast-controller init and is not replaced while hosts trust it"),
    ("host", "add", "holdfast host token NAME, then on that host: holdfast-agent join TOKEN-FILE"),
    ("host", "create", "holdfast host token NAME, then on that host: holdfast-agent join TOKEN-FILE"),
    ("host", "join", "holdfast host token NAME, then on that host: holdfast-agent join TOKEN-FILE"),
    ("host", "inspect", "holdfast host show NAME"),
    (
        "host",
        "rename",
        "a host keeps its name: retire it and join it under another; its snapshots stay under the old one",
    ),
    ("volume", "backup", "holdfast backup run --host HOST --volume NAME"),
    ("volume", "restore", "holdfast restore volume SNAPSHOT --host HOST --as NAME"),
    ("volume", "show", "holdfast volume inspect NAME --host HOST"),
    ("container", "show", "holdfast container inspect NAME --host HOST"),
    ("container", "upgrade", "holdfast upgrade plan NAME --image REFERENCE --host HOST"),
    ("container", "logs", "docker logs, on the host: what containers print is not passed on"),
    ("policy", "create", "holdfast apply -f FILE"),
    ("policy", "add", "holdfast apply -f FILE"),
    ("policy", "apply", "holdfast apply -f FILE"),
    ("policy", "edit", "holdfast policy show NAME > NAME.toml, then holdfast apply -f NAME.toml"),
    ("policy", "run", "holdfast backup run NAME"),
    ("backup", "ls", "holdfast snapshot ls for what there is, holdfast job ls for what was run"),
    ("backup", "create", "holdfast backup run"),
    ("snapshot", "rm", "holdfast snapshot forget SNAPSHOT...: it can be brought back for a while"),
    ("snapshot", "restore", "holdfast restore volume SNAPSHOT --host HOST --as NAME, or restore files"),
    ("snapshot", "create", "holdfast backup run --host HOST --volume NAME"),
    ("repo", "init", "holdfast-controller init --repository PLACE, on the controller's machine"),
];

/// What to use instead of the command in `line`, the words after the program's
/// name.
pub fn instead<'a>(line: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let mut words = line.into_iter().filter(|word| !word.starts_with('-'));
    let (first, second) = (words.next()?, words.next().unwrap_or_default());
    let of = |noun: &str, word: &str| {
        INSTEAD
            .iter()
            .find(|(known, other, _)| *known == noun && *other == word)
            .map(|(.., use_this)| *use_this)
    };
    of(first, second).or_else(|| of("", first))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn words_of_other_tools_are_answered() {
        assert_eq!(
            instead(["snapshot", "rm", "x"]),
            Some("holdfast snapshot forget SNAPSHOT...: it can be brought back for a while")
        );
        assert_eq!(instead(["host", "ls"]), None);
        assert!(instead(["host", "add"]).is_some_and(|text| text.contains("host token NAME")));
        assert_eq!(instead([]), None);
    }

    #[test]
    fn nothing_that_there_is_is_called_missing_and_every_command_named_is_one() {
        let root = Cli::command();
        let find = |name: &str| root.get_subcommands().find(|command| command.get_name() == name);
        for (noun, word, text) in INSTEAD {
            let above = if noun.is_empty() { Some(&root) } else { find(noun) };
            let above = above.unwrap_or_else(|| panic!("no command {noun}"));
            assert!(above.find_subcommand(word).is_none(), "{noun} {word} is a command");
            for command in text.split("holdfast ").skip(1) {
                let mut words = command.split([' ', ',', ':', ';']);
                let first = words.next().unwrap_or_default();
                let noun = find(first).unwrap_or_else(|| panic!("{text}: {first}"));
                let verb = words.next().unwrap_or_default();
                if noun.has_subcommands() {
                    assert!(noun.find_subcommand(verb).is_some(), "{text}: {first} {verb}");
                }
            }
        }
    }
}

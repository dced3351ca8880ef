//! `holdfast container run`: from Docker's flags to the request.

use std::collections::HashSet;
use std::path::Path;

use holdfast_proto::v1::{ContainerMount, RunContainerRequest};

use super::super::within_long;
use super::{ContainerView, Env};
use crate::args::ContainerRunArgs;
use crate::error::{CliError, Exit, Result};
use crate::output;

pub(super) async fn run(env: &Env, args: ContainerRunArgs) -> Result<Exit> {
    let host = env.host(&args.host)?.map(str::to_owned);
    // All is parsed before the agent is dialled: a mistake costs no connection.
    let request = request(args, |key| std::env::var(key).ok())?;
    let mut service = env.client().await?.containers(host.as_deref())?;
    let answer = service.run_container(within_long(request)).await?.into_inner();
    for warning in &answer.warnings {
        output::note(format!("warning: {warning}"));
    }
    output::emit(env.format, &ContainerView::from(answer.container.unwrap_or_default()));
    Ok(if answer.warnings.is_empty() { Exit::Done } else { Exit::Attention })
}

/// `shell` looks up what the caller's own environment has.
fn request(args: ContainerRunArgs, shell: impl Fn(&str) -> Option<String>) -> Result<RunContainerRequest> {
    if args.rm && args.restart.as_deref().is_some_and(|restart| restart != "no") {
        return Err(CliError::usage(
            "--rm and --restart exclude each other: what is removed cannot be restarted",
        ));
    }
    let mut variables = Variables::default();
    // Files first: what is given by --env goes before what a file says, as with Docker.
    for path in &args.env_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError::io(&path.display().to_string(), &error))?;
        variables.add_file(path, &text, &shell)?;
    }
    for text in &args.env {
        variables.add(text, &shell).map_err(|problem| CliError::usage(format!("--env: {problem}")))?;
    }
    let mounts = [args.volumes, args.mounts, args.tmpfs].concat();
    distinct(&mounts)?;
    Ok(RunContainerRequest {
        name: args.name,
        image: args.image,
        command: args.command,
        entrypoint: args.entrypoint.into_iter().collect(),
        env: variables.finish(),
        labels: args.label.into_iter().collect(),
        mounts,
        ports: args.ports,
        network: args.network.unwrap_or_default(),
        restart: args.restart.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        hostname: args.hostname.unwrap_or_default(),
        workdir: args.workdir.unwrap_or_default(),
        read_only: args.read_only,
        remove_when_stopped: args.rm,
        memory_bytes: args.memory.unwrap_or_default(),
        cpus: args.cpus.unwrap_or_default(),
        create_only: args.no_start,
        pull: args.pull,
    })
}

/// Two mounts at one place would leave one of them out of sight.
fn distinct(mounts: &[ContainerMount]) -> Result<()> {
    let mut seen = HashSet::new();
    for mount in mounts {
        // `/data` and `/data/` are one place.
        let target = mount.target.trim_end_matches('/');
        if !seen.insert(target) {
            return Err(CliError::usage(format!(
                "two mounts have the same place in the container: {target}"
            )));
        }
    }
    Ok(())
}

/// Environment variables in the order they were named first; the last value
/// of a name counts.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn add_file(&mut self, path: &Path, text: &str, shell: impl Fn(&str) -> Option<String>) -> Result<()> {
        // Some editors begin a file with a mark of its encoding; it is no part of the first name.
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.add(line, &shell)
                .map_err(|problem| CliError::usage(format!("{}:{}: {problem}", path.display(), index + 1)))?;
        }
        Ok(())
    }

    fn add(&mut self, text: &str, shell: impl Fn(&str) -> Option<String>) -> std::result::Result<(), String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None => {
                let value = shell(text).ok_or_else(|| {
                    // A secret given without its key must not be printed.
                    "a name without =VALUE takes the value from this shell, which has none of that name"
                        .to_owned()
                })?;
                (text, value)
            }
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("KEY=VALUE is expected, the key without spaces".to_owned());
        }
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.0.push((key.to_owned(), value)),
        }
        Ok(())
    }

    fn finish(self) -> Vec<String> {
        self.0.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, ContainerCommand};

    fn parse(line: &str) -> std::result::Result<ContainerRunArgs, clap::Error> {
        let words = ["holdfast", "container", "run"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words)?.command {
            Command::Container(ContainerCommand::Run(args)) => Ok(*args),
            other => panic!("container run was expected, not {other:?}"),
        }
    }

    fn requested(line: &str) -> Result<RunContainerRequest> {
        let shell = |key: &str| (key == "HOME_TOWN").then(|| "Husum".to_owned());
        request(parse(line).expect("parses"), shell)
    }

    #[test]
    fn a_docker_line_works_as_it_is() {
        let request = requested(
            "-d --name web -v web_logs:/var/log/nginx -v /srv/site:/usr/share/nginx/html:ro --tmpfs /run:size=16m \
             -p 8080:80 -e A=1 -e A=2 -e HOME_TOWN --label role=web -l plain --restart unless-stopped \
             --memory 512m --cpus 1.5 --network backend --entrypoint nginx nginx:1.27 -g daemon --host x",
        )
        .expect("a request");
        assert_eq!((request.name.as_str(), request.image.as_str()), ("web", "nginx:1.27"));
        assert_eq!(request.command, ["-g", "daemon", "--host", "x"], "all behind the image is the command");
        let targets: Vec<&str> = request.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/var/log/nginx", "/usr/share/nginx/html", "/run"]);
        assert_eq!(request.env, ["A=2", "HOME_TOWN=Husum"]);
        assert_eq!((request.labels["role"].as_str(), request.labels["plain"].as_str()), ("web", ""));
        assert_eq!((request.memory_bytes, request.cpus), (512 << 20, 1.5));
        assert_eq!((request.restart.as_str(), request.network.as_str()), ("unless-stopped", "backend"));
        assert_eq!(request.entrypoint, ["nginx"]);
        assert!(!request.create_only && !request.pull && !request.read_only && !request.remove_when_stopped);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_dialled() {
        for line in [
            "nginx",
            "--name web",
            "--name web -p 80-90:80 nginx",
            "--name web -v ./x:/data nginx",
            "--name web --memory lots nginx",
            "--name web --restart maybe nginx",
            "--name web --label =x nginx",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "--name web -v a:/data --tmpfs /data/ nginx",
            "--name web --rm --restart always nginx",
            "--name web -e UNKNOWN_HERE nginx",
            "--name web -e =x nginx",
            "--name web --env-file /nonexistent/env nginx",
        ] {
            assert!(requested(line).is_err(), "{line}");
        }
        assert!(requested("--name web --rm --restart no nginx").is_ok());
    }

    #[test]
    fn an_env_file_has_comments_and_says_where_it_is_wrong() {
        let none = |_: &str| None;
        let mut variables = Variables::default();
        let text = "\u{feff}# comment\n\nA=1\n  B=x = y # kept\nA=2\n";
        variables.add_file(Path::new("app.env"), text, none).expect("sound");
        assert_eq!(variables.finish(), ["A=2", "B=x = y # kept"]);
        let error = Variables::default()
            .add_file(Path::new("app.env"), "A=1\ns3cret\n", none)
            .expect_err("no value anywhere");
        assert!(error.message.starts_with("app.env:2: "), "{}", error.message);
        assert!(!error.message.contains("s3cret"));
    }
}

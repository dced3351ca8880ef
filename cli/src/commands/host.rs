//! `holdfast host`

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use holdfast_archive::secret_file;
use holdfast_proto::v1::{
    CreateJoinTokenRequest, GetHostRequest, Host, LabelHostRequest, ListHostsRequest, RetireHostRequest,
    RevokeHostRequest,
};
use serde::Serialize;

use super::{Env, collect, labels, within};
use crate::args::HostCommand;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Details, Lines, Render, Rows, When};

#[derive(Serialize)]
struct HostView {
    id: String,
    name: String,
    labels: BTreeMap<String, String>,
    connected: bool,
    revoked: bool,
    retired: bool,
    last_seen: When,
    joined: When,
    certificate_until: When,
    clock_skew_ms: i64,
    volumes: u32,
    agent_version: String,
    engine_version: String,
    engine_problem: String,
    allow: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct HostList(Vec<HostView>);

#[derive(Serialize)]
struct TokenView {
    token: String,
    expires: When,
}

/// What it means that a host was retired.
#[derive(Serialize)]
struct RetiredHost {
    host: String,
    joined: bool,
    snapshots: u64,
}

impl Render for RetiredHost {
    fn lines(&self) -> Lines {
        let Self { host, joined, snapshots } = self;
        if !joined {
            return format!("{host} is not awaited any more: its unused join tokens are void").into();
        }
        let snapshots = super::counted(*snapshots, "snapshot");
        Lines::from_iter([
            format!("{host} is retired: it is refused from now on and not missed any more"),
            format!(
                "{snapshots} of it: kept as long as retention says, and still to be restored on any host"
            ),
            "a new token for that name brings it back".to_owned(),
        ])
    }
}

impl From<Host> for HostView {
    fn from(host: Host) -> Self {
        let agent = host.agent.unwrap_or_default();
        Self {
            id: host.id,
            name: host.name,
            labels: host.labels.into_iter().collect(),
            connected: host.connected,
            revoked: host.revoked,
            retired: host.retired,
            last_seen: When(host.last_seen_unix_ms),
            joined: When(host.joined_unix_ms),
            certificate_until: When(host.certificate_not_after_unix_ms),
            clock_skew_ms: host.clock_skew_ms,
            volumes: host.volumes,
            agent_version: agent.version,
            engine_version: agent.engine.map(|engine| engine.version).unwrap_or_default(),
            engine_problem: agent.engine_problem,
            allow: agent.allow,
        }
    }
}

impl HostView {
    fn state(&self) -> &'static str {
        // Of a host that is refused it says nothing whether a connection is still open.
        match (self.revoked, self.connected) {
            (true, _) if self.retired => "retired",
            (true, _) => "revoked",
            (false, true) if !self.engine_problem.is_empty() => "engine unreachable",
            (false, true) => "connected",
            (false, false) if self.last_seen == When(0) => "never seen",
            (false, false) => "silent",
        }
    }
}

impl Render for HostList {
    fn lines(&self) -> Lines {
        let mut rows = Rows::new(
            &["HOST", "STATE", "ENGINE", "SEEN", "VOLUMES", "LABELS"],
            "no hosts yet; `holdfast host token NAME` prints the token a host joins with",
        )
        .right(&[4]);
        for host in &self.0 {
            rows.push([
                host.name.clone(),
                host.state().to_owned(),
                host.engine_version.clone(),
                host.last_seen.to_string(),
                host.volumes.to_string(),
                labels(&host.labels),
            ]);
        }
        rows.finish()
    }
}

impl Render for HostView {
    fn lines(&self) -> Lines {
        // Less is as much the time a call takes as the clocks.
        let skew = if self.clock_skew_ms.abs() > 1000 {
            format!("{} ms", self.clock_skew_ms)
        } else {
            String::new()
        };
        Details::new()
            .add("name", &self.name)
            .add("id", &self.id)
            .add("state", self.state())
            .add("seen", self.last_seen)
            .add("labels", labels(&self.labels))
            .add("agent", &self.agent_version)
            .add("engine", &self.engine_version)
            .add("problem", &self.engine_problem)
            .add("allows", self.allow.join(", "))
            .add("volumes", self.volumes)
            .add("joined", self.joined)
            .add("certificate", format!("until {}", self.certificate_until.local()))
            .add("clock skew", skew)
            .finish()
    }
}

impl Render for TokenView {
    fn lines(&self) -> Lines {
        self.token.clone().into()
    }
}

pub(super) async fn run(env: &Env, command: HostCommand) -> Result<Exit> {
    let mut hosts = env.client().await?.hosts()?;
    match command {
        HostCommand::Ls { label } => {
            let list = collect(hosts.list_hosts(within(ListHostsRequest { labels: label }))).await?;
            output::emit(env.format, &HostList(list.into_iter().map(HostView::from).collect()));
        }
        HostCommand::Show { host } => {
            let host = hosts.get_host(within(GetHostRequest { host })).await?.into_inner();
            output::emit(env.format, &HostView::from(host));
        }
        HostCommand::Token { name, label, valid, to } => {
            let request = CreateJoinTokenRequest {
                name: name.clone(),
                labels: label.into_iter().collect(),
                valid_seconds: valid * 60,
            };
            let answer = hosts.create_join_token(within(request)).await?.into_inner();
            let token = TokenView { token: answer.token, expires: When(answer.expires_unix_ms) };
            hand_over(env, &token, &name, to.as_deref())?;
        }
        HostCommand::Label { host, labels } => {
            let host = hosts.label_host(within(label_request(host, labels)?)).await?.into_inner();
            output::emit(env.format, &HostView::from(host));
        }
        HostCommand::Revoke { host } => {
            hosts.revoke_host(within(RevokeHostRequest { host: host.clone() })).await?;
            output::note(format!(
                "{host} is refused from now on; a new token for that name lets it join again, \
                 and `holdfast host retire {host}` gives it up"
            ));
        }
        HostCommand::Retire { host } => {
            let request = RetireHostRequest { host: host.clone() };
            let answer = hosts.retire_host(within(request)).await?.into_inner();
            output::emit(
                env.format,
                &RetiredHost { host, joined: answer.joined, snapshots: answer.snapshots },
            );
        }
    }
    Ok(Exit::Done)
}

/// A token goes to the file that was asked for, or to standard output; never to
/// both.
fn hand_over(env: &Env, token: &TokenView, name: &str, to: Option<&Path>) -> Result<()> {
    match to {
        Some(path) => secret_file::write(path, &token.token)
            .map_err(|error| CliError::io(&path.display().to_string(), &error))?,
        None => output::emit(env.format, token),
    }
    // On standard error: a script reads the token alone from standard output.
    let until = token.expires.local();
    output::note(format!("valid once, until {until}. On {name}: holdfast-agent join TOKEN-FILE"));
    Ok(())
}

/// From `key=value`, which sets, and `key-`, which removes. `a=b-` sets `b-`: a
/// value may end as it likes.
fn label_request(host: String, labels: Vec<String>) -> Result<LabelHostRequest> {
    let mut request = LabelHostRequest { host, set: HashMap::new(), remove: Vec::new() };
    for label in labels {
        match (label.split_once('='), label.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => {
                request.set.insert(key.to_owned(), value.to_owned());
            }
            (None, Some(key)) if !key.is_empty() => request.remove.push(key.to_owned()),
            _ => return Err(CliError::usage(format!("`{label}`: key=value to set, key- to remove"))),
        }
    }
    Ok(request)
}

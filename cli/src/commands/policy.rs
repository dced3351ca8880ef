//! `holdfast policy`

use holdfast_proto::v1::policy_service_client::PolicyServiceClient;
use holdfast_proto::v1::{
    ApplyPoliciesRequest, DeletePolicyRequest, ExplainPolicyRequest, ExplainPolicyResponse,
    ListPoliciesRequest, Policy, PolicyFile,
};
use serde::Serialize;

use super::{Env, collect, within};
use crate::args::PolicyCommand;
use crate::client::Service;
use crate::error::{CliError, ErrorCode, Exit, Result};
use crate::output::{self, Details, Lines, Render, Rows, When};

type Policies = PolicyServiceClient<Service>;

#[derive(Serialize)]
struct PolicyView {
    name: String,
    enabled: bool,
    cron: String,
    time_zone: String,
    hosts: Vec<String>,
    host_labels: Vec<String>,
    volumes: Vec<String>,
    volume_labels: Vec<String>,
    directories: Vec<String>,
    consistency: String,
    keep_last: u32,
    next_fire: When,
    last_fire: When,
    last_outcome: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct PolicyList(Vec<PolicyView>);

#[derive(Serialize)]
struct SourceText {
    name: String,
    toml: String,
}

#[derive(Serialize)]
struct ExplainView {
    policy: PolicyView,
    fires: Vec<FireView>,
    matches: Vec<MatchView>,
    keeps: String,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct FireView {
    at: When,
    local: String,
    note: String,
}

#[derive(Serialize)]
struct MatchView {
    host: String,
    connected: bool,
    sources: Vec<String>,
    jitter_seconds: u32,
    /// Holdfast's own volumes that the selection means: never backed up.
    own: Vec<String>,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        Self {
            name: policy.name,
            enabled: policy.enabled,
            cron: policy.cron,
            time_zone: policy.time_zone,
            hosts: policy.hosts,
            host_labels: policy.host_labels,
            volumes: policy.volumes,
            volume_labels: policy.volume_labels,
            directories: policy.directories,
            consistency: policy.consistency,
            keep_last: policy.keep_last,
            next_fire: When(policy.next_fire_unix_ms),
            last_fire: When(policy.last_fire_unix_ms),
            last_outcome: policy.last_outcome,
        }
    }
}

impl From<ExplainPolicyResponse> for ExplainView {
    fn from(answer: ExplainPolicyResponse) -> Self {
        let fire = |fire: holdfast_proto::v1::FireTime| FireView {
            at: When(fire.unix_ms),
            local: fire.local,
            note: fire.note,
        };
        let host = |host: holdfast_proto::v1::HostMatch| MatchView {
            host: host.host,
            connected: host.connected,
            sources: host.sources,
            jitter_seconds: host.jitter_seconds,
            own: host.own,
        };
        Self {
            policy: answer.policy.unwrap_or_default().into(),
            fires: answer.fires.into_iter().map(fire).collect(),
            matches: answer.matches.into_iter().map(host).collect(),
            keeps: answer.keeps,
            warnings: answer.warnings,
        }
    }
}

impl Render for PolicyList {
    fn lines(&self) -> Lines {
        let headings = ["POLICY", "SCHEDULE", "ZONE", "CONSISTENCY", "KEEPS", "NEXT", "LAST", "OUTCOME"];
        let mut rows = Rows::new(&headings, "no policies; `holdfast apply -f FILE` adds them").right(&[4]);
        for policy in &self.0 {
            rows.push([
                policy.name.clone(),
                policy.cron.clone(),
                policy.time_zone.clone(),
                policy.consistency.clone(),
                policy.keep_last.to_string(),
                if policy.enabled { policy.next_fire.to_string() } else { "disabled".to_owned() },
                policy.last_fire.to_string(),
                policy.last_outcome.clone(),
            ]);
        }
        rows.finish()
    }
}

impl Render for SourceText {
    fn lines(&self) -> Lines {
        Lines::of_text(self.toml.trim_end())
    }
}

impl Render for ExplainView {
    fn lines(&self) -> Lines {
        let next: Vec<String> = self.fires.iter().map(FireView::line).collect();
        let matches: Vec<String> = self.matches.iter().map(MatchView::line).collect();
        let mut lines = Details::new()
            .add("fires", format!("{} {}", self.policy.cron, self.policy.time_zone))
            .list("next", next)
            .list("matches", if matches.is_empty() { vec!["no host".to_owned()] } else { matches })
            .add("keeps", &self.keeps)
            .finish();
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines
    }
}

impl FireView {
    fn line(&self) -> String {
        if self.note.is_empty() { self.local.clone() } else { format!("{}: {}", self.local, self.note) }
    }
}

impl MatchView {
    fn line(&self) -> String {
        let away = if self.connected { "" } else { " (not connected)" };
        let sources = if self.sources.is_empty() { "nothing".to_owned() } else { self.sources.join(", ") };
        let jitter = match self.jitter_seconds {
            0 => String::new(),
            seconds => format!(" +{}", output::duration(u64::from(seconds) * 1000)),
        };
        let own = match self.own.as_slice() {
            [] => String::new(),
            own => format!("; Holdfast's own, never backed up: {}", own.join(", ")),
        };
        format!("{}{away}{jitter}: {sources}{own}", self.host)
    }
}

async fn find(policies: &mut Policies, name: &str) -> Result<Policy> {
    // All of them, so that a misspelt name can be answered with the nearest.
    let list = collect(policies.list_policies(within(ListPoliciesRequest {}))).await?;
    let near = holdfast_archive::text::did_you_mean(name, list.iter().map(|policy| policy.name.as_str()));
    list.into_iter().find(|policy| policy.name == name).ok_or_else(|| {
        CliError::new(ErrorCode::PolicyUnknown, format!("policy `{name}` is not known{near}"))
            .hint("holdfast policy ls")
    })
}

/// Applies the policy as it is but for its `enabled`.
async fn switch(policies: &mut Policies, name: String, enabled: bool) -> Result<()> {
    let word = if enabled { "enabled" } else { "disabled" };
    let policy = find(policies, &name).await?;
    // Applying it once more would be in the audit as a change.
    if policy.enabled == enabled {
        output::note(format!("{name} is {word} already"));
        return Ok(());
    }
    // Applied like any change, so that what `policy show` prints stays what was applied last.
    let file = PolicyFile { path: format!("{name}.toml"), toml: with_enabled(&policy.toml, enabled) };
    let request = ApplyPoliciesRequest { files: vec![file], ..ApplyPoliciesRequest::default() };
    let answer = policies.apply_policies(within(request)).await?.into_inner();
    if let Some(problem) = answer.problems.first() {
        return Err(CliError::usage(format!("{name} cannot be {word}: {}", problem.message)).hint(format!(
            "holdfast policy show {name} > {name}.toml, mend it, holdfast apply -f {name}.toml"
        )));
    }
    output::note(format!(
        "{name} is {word}; its file should say `enabled = {enabled}`, or the next apply undoes this"
    ));
    Ok(())
}

/// The text of a policy with that one key set; the rest, comments too, stays.
fn with_enabled(toml: &str, enabled: bool) -> String {
    let line = format!("enabled = {enabled}");
    let mut lines: Vec<&str> = toml.lines().collect();
    // Keys of the policy itself come before the first table.
    let tables = lines.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(lines.len());
    let is_key = |line: &&str| {
        line.trim_start().strip_prefix("enabled").is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    match lines[..tables].iter().position(is_key) {
        Some(at) => lines[at] = &line,
        None => lines.insert(0, &line),
    }
    // `lines` has dropped the last line break, and a file ends in one.
    lines.join("\n") + "\n"
}

pub(super) async fn run(env: &Env, command: PolicyCommand) -> Result<Exit> {
    let mut policies = env.client().await?.policies()?;
    match command {
        PolicyCommand::Ls => {
            let list = collect(policies.list_policies(within(ListPoliciesRequest {}))).await?;
            output::emit(env.format, &PolicyList(list.into_iter().map(PolicyView::from).collect()));
        }
        PolicyCommand::Show { name } => {
            let policy = find(&mut policies, &name).await?;
            output::emit(env.format, &SourceText { name: policy.name, toml: policy.toml });
        }
        PolicyCommand::Explain { name, count } => {
            let answer =
                policies.explain_policy(within(ExplainPolicyRequest { name, count })).await?.into_inner();
            let view = ExplainView::from(answer);
            output::emit(env.format, &view);
            return Ok(if view.warnings.is_empty() { Exit::Done } else { Exit::Attention });
        }
        PolicyCommand::Enable { name } => switch(&mut policies, name, true).await?,
        PolicyCommand::Disable { name } => switch(&mut policies, name, false).await?,
        PolicyCommand::Rm { name } => {
            policies.delete_policy(within(DeletePolicyRequest { name: name.clone() })).await?;
            output::note(format!("{name} deleted; its snapshots stay until they are forgotten by hand"));
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::with_enabled;

    #[test]
    fn one_key_is_set_and_the_rest_stays() {
        for (toml, expected) in [
            (
                "name = \"a\"\n[schedule]\nenabled = 1\n",
                "enabled = false\nname = \"a\"\n[schedule]\nenabled = 1\n",
            ),
            ("name = \"a\"\nenabled=true # for now\n# end\n", "name = \"a\"\nenabled = false\n# end\n"),
            ("enabled_by = 1\n", "enabled = false\nenabled_by = 1\n"),
        ] {
            assert_eq!(with_enabled(toml, false), expected);
        }
    }
}

//! Upgrades as their hosts remember them.

use futures_util::stream::{self, StreamExt as _};
use holdfast_proto::v1::{ListHostsRequest, ListUpgradesRequest, Upgrade, UpgradeState};
use serde::Serialize;

use super::super::job::{StepView, images, step_lines, upgrade_state_word};
use super::super::{Env, collect, within};
use super::plan::SourceView;
use crate::args::HostArg;
use crate::client::Client;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Details, Lines, Millis, Render, Rows, When};

/// Hosts asked at a time.
const AT_ONCE: usize = 16;

#[derive(Serialize)]
pub(super) struct UpgradeView {
    /// Empty at the host's own socket.
    host: String,
    job: String,
    container: String,
    from_image: String,
    from_image_id: String,
    to_image: String,
    to_image_id: String,
    state: &'static str,
    old_container_id: String,
    old_container_name: String,
    new_container_id: String,
    started: When,
    ended: When,
    grace_until: When,
    downtime_ms: Millis,
    sources: Vec<SourceView>,
    error_code: String,
    error: String,
    steps: Vec<StepView>,
}

#[derive(Serialize)]
struct StatusView {
    upgrades: Vec<UpgradeView>,
    /// Hosts that could not say.
    unknown: Vec<UnknownView>,
    #[serde(skip)]
    with_steps: bool,
}

#[derive(Serialize)]
struct UnknownView {
    host: String,
    reason: String,
}

impl UpgradeView {
    pub(super) fn new(host: String, upgrade: Upgrade) -> Self {
        let state = upgrade_state_word(upgrade.state());
        let Upgrade {
            job_id,
            state: _,
            container_name,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            old_container_id,
            old_container_name,
            new_container_id,
            started_unix_ms,
            ended_unix_ms,
            grace_until_unix_ms,
            downtime_ms,
            sources,
            error_code,
            error,
            steps,
        } = upgrade;
        Self {
            host,
            job: job_id,
            container: container_name,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            state,
            old_container_id,
            old_container_name,
            new_container_id,
            started: When(started_unix_ms),
            ended: When(ended_unix_ms),
            grace_until: When(grace_until_unix_ms),
            downtime_ms: Millis(downtime_ms),
            sources: sources.into_iter().map(SourceView::from).collect(),
            error_code,
            error,
            steps: steps.into_iter().map(StepView::from).collect(),
        }
    }

    /// Whether there is still a way back.
    fn is_kept(&self) -> bool {
        self.state == upgrade_state_word(UpgradeState::Committed) && self.grace_until != When(0)
    }

    fn down(&self) -> String {
        if self.downtime_ms.0 == 0 { String::new() } else { self.downtime_ms.to_string() }
    }
}

impl Render for UpgradeView {
    fn lines(&self) -> Lines {
        let kept = if self.is_kept() {
            format!("{} until {}", self.old_container_name, self.grace_until.local())
        } else {
            String::new()
        };
        let mut lines = Details::new()
            .add("container", &self.container)
            .add("host", &self.host)
            .add("images", images(&self.from_image, &self.to_image))
            .add("state", self.state)
            .add("because", &self.error)
            .add("started", self.started.local())
            .add("down", self.down())
            .add("kept", kept)
            .add("job", &self.job)
            .finish();
        lines.extend(step_lines(&self.steps));
        lines
    }
}

impl StatusView {
    fn table(&self) -> Lines {
        let with_host = self.upgrades.iter().any(|upgrade| !upgrade.host.is_empty());
        let mut headings = vec!["CONTAINER", "IMAGES", "STATE", "STARTED", "DOWN", "KEPT", "JOB"];
        if with_host {
            headings.insert(0, "HOST");
        }
        let mut rows = Rows::new(&headings, "no upgrades").right(&[headings.len() - 3]);
        for upgrade in &self.upgrades {
            let kept = if upgrade.is_kept() { upgrade.grace_until.to_string() } else { String::new() };
            let mut cells = vec![
                upgrade.container.clone(),
                images(&upgrade.from_image, &upgrade.to_image),
                upgrade.state.to_owned(),
                upgrade.started.to_string(),
                upgrade.down(),
                kept,
                upgrade.job.clone(),
            ];
            if with_host {
                cells.insert(0, upgrade.host.clone());
            }
            rows.push(cells);
        }
        rows.finish()
    }
}

impl Render for StatusView {
    fn lines(&self) -> Lines {
        let mut lines = self.table();
        for upgrade in self.upgrades.iter().filter(|upgrade| !upgrade.error.is_empty()) {
            lines.push(format!("{}, job {}: {}", upgrade.container, upgrade.job, upgrade.error));
        }
        if let Some(newest) = self.upgrades.first().filter(|_| self.with_steps) {
            lines.extend(step_lines(&newest.steps));
        }
        for unknown in &self.unknown {
            lines.push(format!("{} cannot say: {}", unknown.host, unknown.reason));
        }
        if let Some(kept) = self.upgrades.iter().find(|upgrade| upgrade.is_kept()) {
            let host = if kept.host.is_empty() { String::new() } else { format!(" --host {}", kept.host) };
            lines.push(format!(
                "While it is kept, `holdfast upgrade rollback {0}{host}` goes back and \
                 `holdfast upgrade commit {0}{host}` ends it.",
                kept.container
            ));
        }
        lines
    }
}

pub(super) async fn status(env: &Env, host: Option<String>, container: Option<String>) -> Result<Exit> {
    let everywhere = host.is_none() && !env.at_socket();
    let host = HostArg { host };
    if !everywhere {
        env.host(&host)?;
    }
    let client = env.client().await?;
    let with_steps = container.is_some();
    let request = ListUpgradesRequest { container: container.unwrap_or_default(), job_id: String::new() };
    let mut view = StatusView { upgrades: Vec::new(), unknown: Vec::new(), with_steps };
    if everywhere {
        ask_all(&client, request, &mut view).await?;
    } else {
        view.upgrades = ask(&client, host.host, request).await?;
    }
    // By start, over all hosts: each host gives its own in order.
    view.upgrades.sort_by_key(|upgrade| std::cmp::Reverse(upgrade.started.0));
    output::emit(env.format, &view);
    Ok(if view.unknown.is_empty() { Exit::Done } else { Exit::Attention })
}

async fn ask(
    client: &Client,
    host: Option<String>,
    request: ListUpgradesRequest,
) -> Result<Vec<UpgradeView>> {
    let mut service = client.containers(host.as_deref())?;
    let list = collect(service.list_upgrades(within(request))).await?;
    let host = host.unwrap_or_default();
    Ok(list.into_iter().map(|upgrade| UpgradeView::new(host.clone(), upgrade)).collect())
}

/// A host that does not answer is named, not left out.
async fn ask_all(client: &Client, request: ListUpgradesRequest, view: &mut StatusView) -> Result<()> {
    let hosts = collect(client.hosts()?.list_hosts(within(ListHostsRequest { labels: Vec::new() }))).await?;
    let answers: Vec<(String, Result<Vec<UpgradeView>>)> =
        // Revoked hosts cannot be asked any more. Those that are only away are named as such.
        stream::iter(hosts.into_iter().filter(|host| !host.revoked))
            .map(|host| {
                let request = request.clone();
                async move {
                    let answer = if host.connected {
                        ask(client, Some(host.name.clone()), request).await
                    } else {
                        Err(CliError::failed("it is not connected"))
                    };
                    (host.name, answer)
                }
            })
            // In the order of the hosts, however long each takes.
            .buffered(AT_ONCE)
            .collect()
            .await;
    for (host, answer) in answers {
        match answer {
            Ok(upgrades) => view.upgrades.extend(upgrades),
            Err(error) => view.unknown.push(UnknownView { host, reason: error.message }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::UpgradeStep;

    use super::*;

    fn upgrade(state: UpgradeState, error: &str) -> Upgrade {
        let step = |state: UpgradeState, text: &str, unix_ms| UpgradeStep {
            state: state as i32,
            text: text.to_owned(),
            unix_ms,
        };
        Upgrade {
            job_id: "01JOB".to_owned(),
            state: state as i32,
            container_name: "db".to_owned(),
            from_image: "postgres:16.3".to_owned(),
            to_image: "postgres:16.4".to_owned(),
            grace_until_unix_ms: 4_102_444_800_000,
            downtime_ms: 9_300,
            error: error.to_owned(),
            steps: vec![
                step(UpgradeState::Stopping, "stopping db", 1_000),
                step(UpgradeState::Gating, "waiting until db is healthy", 8_200),
            ],
            ..Upgrade::default()
        }
    }

    #[test]
    fn a_kept_upgrade_says_how_it_ends() {
        let mut upgrade = UpgradeView::new("db-1".to_owned(), upgrade(UpgradeState::Committed, ""));
        upgrade.grace_until = When(0);
        let mut view = StatusView { upgrades: vec![upgrade], unknown: Vec::new(), with_steps: true };
        assert_eq!(
            view.lines().to_string(),
            "HOST  CONTAINER  IMAGES                STATE      STARTED   DOWN  KEPT  JOB\n\
             db-1  db         postgres:16.3 → 16.4  committed  never    9.3 s        01JOB\n      \
             +0 ms  stopping      stopping db\n     \
             +7.2 s  gating        waiting until db is healthy"
        );
        view.with_steps = false;
        view.upgrades[0].grace_until = When(4_102_444_800_000);
        assert!(
            view.lines().to_string().ends_with(
                "While it is kept, `holdfast upgrade rollback db --host db-1` goes back and \
                 `holdfast upgrade commit db --host db-1` ends it."
            ),
            "{}",
            view.lines().to_string()
        );
    }

    #[test]
    fn a_cause_and_a_silent_host_are_named() {
        let error = "db was not healthy within 2m";
        let upgrade = UpgradeView::new(String::new(), upgrade(UpgradeState::RolledBack, error));
        assert!(
            upgrade.lines().to_string().contains("because    db was not healthy within 2m"),
            "{}",
            upgrade.lines().to_string()
        );
        let unknown = UnknownView { host: "web-2".to_owned(), reason: "it is not connected".to_owned() };
        let view = StatusView { upgrades: vec![upgrade], unknown: vec![unknown], with_steps: false };
        let text = view.lines().to_string();
        assert!(!text.contains("HOST"), "{text}");
        assert!(
            text.ends_with(
                "db, job 01JOB: db was not healthy within 2m\nweb-2 cannot say: it is not connected"
            )
        );
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["upgrades"][0]["downtime_ms"], 9_300);
        assert_eq!(json["upgrades"][0]["steps"][1]["state"], "gating");
    }
}

//! `holdfast container`: what an agent is asked about its containers. `new` turns
//! the flags of `run` into a request.

mod new;

use std::collections::BTreeMap;

use holdfast_archive::text::printable_json;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use holdfast_proto::v1::{
    Container, ContainerDetails, ContainerSpec, GetContainerSpecRequest, InspectContainerRequest,
    ListContainersRequest, RemoveContainerRequest, StartContainerRequest, StopContainerRequest,
};
use serde::Serialize;
use serde_json::Value;

use super::{Env, collect, labels, within, within_long};
use crate::args::ContainerCommand;
use crate::client::Service;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Details, Lines, Render, Rows, When};

type Containers = ContainerServiceClient<Service>;

#[derive(Serialize)]
struct ContainerView {
    name: String,
    id: String,
    image: String,
    image_id: String,
    state: String,
    health: String,
    exit_code: i64,
    labels: BTreeMap<String, String>,
    created: When,
    networks: Vec<String>,
    mounts: u32,
}

#[derive(Serialize)]
#[serde(transparent)]
struct ContainerList(Vec<ContainerView>);

#[derive(Serialize)]
struct DetailsView {
    #[serde(flatten)]
    container: ContainerView,
    restart_policy: String,
    started: When,
    spec: Value,
}

/// One JSON object, for people, too: it is made to be read and kept.
#[derive(Serialize)]
#[serde(transparent)]
struct SpecView(Value);

impl From<Container> for ContainerView {
    fn from(container: Container) -> Self {
        let Container {
            id,
            name,
            image,
            image_id,
            state,
            health,
            labels,
            created_unix_ms,
            networks,
            mounts,
            exit_code,
        } = container;
        Self {
            name,
            id,
            image,
            image_id,
            state,
            health,
            exit_code,
            labels: labels.into_iter().collect(),
            created: When(created_unix_ms),
            networks,
            mounts,
        }
    }
}

impl DetailsView {
    fn new(details: ContainerDetails) -> Result<Self> {
        let ContainerDetails { container, spec_json, restart_policy, started_unix_ms } = details;
        Ok(Self {
            container: container.unwrap_or_default().into(),
            restart_policy,
            started: When(started_unix_ms),
            spec: spec(&spec_json)?,
        })
    }
}

impl ContainerView {
    fn state(&self) -> String {
        match (self.state.as_str(), self.health.as_str()) {
            ("exited" | "dead", _) => format!("{} ({})", self.state, self.exit_code),
            (state, "") => state.to_owned(),
            (state, health) => format!("{state}, {health}"),
        }
    }
}

impl Render for ContainerList {
    fn lines(&self) -> Lines {
        let headings = ["CONTAINER", "IMAGE", "STATE", "CREATED", "NETWORKS", "MOUNTS"];
        let mut rows = Rows::new(&headings, "no containers").right(&[5]);
        for container in &self.0 {
            rows.push([
                container.name.clone(),
                container.image.clone(),
                container.state(),
                container.created.to_string(),
                container.networks.join(", "),
                container.mounts.to_string(),
            ]);
        }
        rows.finish()
    }
}

impl Render for ContainerView {
    fn lines(&self) -> Lines {
        self.details().finish()
    }
}

impl ContainerView {
    fn details(&self) -> Details {
        Details::new()
            .add("name", &self.name)
            .add("id", &self.id)
            .add("image", &self.image)
            .add("image id", &self.image_id)
            .add("state", self.state())
            .add("created", self.created)
            .add("networks", self.networks.join(", "))
            .add("mounts", self.mounts)
            .add("labels", labels(&self.labels))
    }
}

impl Render for DetailsView {
    fn lines(&self) -> Lines {
        self.container
            .details()
            .add("started", self.started)
            .add("restart", &self.restart_policy)
            .add("set by hand", set_by_hand(&self.spec))
            .finish()
    }
}

impl Render for SpecView {
    fn lines(&self) -> Lines {
        // A map of strings and values always has a JSON form.
        Lines::of_text(&printable_json(&serde_json::to_string_pretty(&self.0).unwrap_or_default()))
    }
}

/// The names of what a person set; `container spec` has the values.
fn set_by_hand(spec: &Value) -> String {
    if spec.is_null() {
        return "not shown: it may hold secrets, and takes an admin, or the host's own socket".to_owned();
    }
    let keys = |section: &str| -> Vec<&str> {
        spec.get(section)
            .and_then(Value::as_object)
            .map(|map| map.keys().map(String::as_str).collect())
            .unwrap_or_default()
    };
    [keys("config"), keys("host_config")].concat().join(", ")
}

fn spec(json: &str) -> Result<Value> {
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(json).map_err(|error| {
        CliError::failed(format!("the agent sent a container's spec that is no JSON: {error}"))
    })
}

pub(super) async fn run(env: &Env, command: ContainerCommand) -> Result<Exit> {
    match command {
        ContainerCommand::Ls { host, names, label, running } => {
            let host = env.host(&host)?;
            let request = ListContainersRequest { names, labels: label, running_only: running };
            let list =
                collect(env.client().await?.containers(host)?.list_containers(within(request))).await?;
            output::emit(env.format, &ContainerList(list.into_iter().map(ContainerView::from).collect()));
        }
        ContainerCommand::Inspect { host, container } => {
            let host = env.host(&host)?;
            let request = InspectContainerRequest { container };
            let details = env.client().await?.containers(host)?.inspect_container(within(request)).await?;
            output::emit(env.format, &DetailsView::new(details.into_inner())?);
        }
        ContainerCommand::Spec { host, container, clean } => {
            let host = env.host(&host)?;
            let request = GetContainerSpecRequest { container, clean };
            let answer = env.client().await?.containers(host)?.get_container_spec(within(request)).await?;
            show_spec(env, &answer.into_inner())?;
        }
        ContainerCommand::Run(args) => return new::run(env, *args).await,
        ContainerCommand::Start { host, containers } => {
            let host = env.host(&host)?;
            start(env, env.client().await?.containers(host)?, containers).await?;
        }
        ContainerCommand::Stop { host, containers, timeout } => {
            let host = env.host(&host)?;
            stop(env, env.client().await?.containers(host)?, containers, timeout).await?;
        }
        ContainerCommand::Rm { host, containers, force, volumes } => {
            let host = env.host(&host)?;
            let mut service = env.client().await?.containers(host)?;
            for container in containers {
                let request = RemoveContainerRequest { container: container.clone(), force, volumes };
                service.remove_container(within_long(request)).await?;
                // One line for each: an error ends the command, and those before it are gone.
                output::note(format!("{container} removed"));
            }
        }
    }
    Ok(Exit::Done)
}

fn show_spec(env: &Env, answer: &ContainerSpec) -> Result<()> {
    output::emit(env.format, &SpecView(spec(&answer.json)?));
    for note in &answer.notes {
        output::note(format!("note: {note}"));
    }
    for dropped in &answer.dropped {
        output::note(format!("dropped: {dropped}"));
    }
    Ok(())
}

// Each of several is told as it is done: where a later one fails, nothing is
// emitted, and these lines alone say what has happened.

async fn start(env: &Env, mut service: Containers, containers: Vec<String>) -> Result<()> {
    let mut started = Vec::new();
    for container in containers {
        let answer = service.start_container(within(StartContainerRequest { container })).await?;
        let view = ContainerView::from(answer.into_inner());
        output::note(format!("{} started", view.name));
        started.push(view);
    }
    output::emit(env.format, &ContainerList(started));
    Ok(())
}

async fn stop(
    env: &Env,
    mut service: Containers,
    containers: Vec<String>,
    timeout: Option<u32>,
) -> Result<()> {
    let mut stopped = Vec::new();
    for container in containers {
        let request = StopContainerRequest { container, timeout_seconds: timeout };
        let answer = service.stop_container(within_long(request)).await?;
        let view = ContainerView::from(answer.into_inner());
        output::note(format!("{} stopped", view.name));
        stopped.push(view);
    }
    output::emit(env.format, &ContainerList(stopped));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, state: &str, health: &str) -> ContainerView {
        ContainerView::from(Container {
            name: name.to_owned(),
            image: "nginx:1.27".to_owned(),
            state: state.to_owned(),
            health: health.to_owned(),
            networks: vec!["bridge".to_owned()],
            mounts: 2,
            exit_code: 137,
            ..Container::default()
        })
    }

    #[test]
    fn a_list_says_how_each_is() {
        let list = ContainerList(vec![
            container("web", "running", ""),
            container("db", "running", "healthy"),
            container("old", "exited", "unhealthy"),
        ]);
        assert_eq!(
            list.lines().to_string(),
            "CONTAINER  IMAGE       STATE             CREATED  NETWORKS  MOUNTS\n\
             web        nginx:1.27  running           never    bridge         2\n\
             db         nginx:1.27  running, healthy  never    bridge         2\n\
             old        nginx:1.27  exited (137)      never    bridge         2"
        );
    }

    #[test]
    fn details_name_what_was_set_and_json_holds_it() {
        let details = ContainerDetails {
            container: Some(Container { name: "web".to_owned(), ..Container::default() }),
            spec_json: r#"{"name":"web","config":{"Env":["A"]},"host_config":{"Memory":1}}"#.to_owned(),
            restart_policy: "always".to_owned(),
            started_unix_ms: 0,
        };
        let view = DetailsView::new(details).expect("a spec");
        assert!(
            view.lines().to_string().ends_with("restart      always\nset by hand  Env, Memory"),
            "{}",
            view.lines().to_string()
        );
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!((&json["name"], &json["spec"]["host_config"]["Memory"]), (&"web".into(), &1.into()));
        assert!(spec("{").is_err());
    }
}

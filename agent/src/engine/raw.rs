//! Calls that carry JSON as it is.
//!
//! Making a container anew must lose no setting, also none that this agent or
//! the client library has not heard of. So what says how a container is made
//! never passes through types here, which would drop unknown fields and make
//! absent ones of empty ones. The API version stays pinned, as for all calls:
//! it decides what the JSON means.

use std::time::Duration;

use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::containers::checked;
use super::transport::Transport;
use super::volumes::shorten;
use super::{CHANGE_LIMIT, Engine, EngineError, EngineErrorKind, LOOKUP_LIMIT};

/// How long fetching an image may take.
const PULL_LIMIT: Duration = Duration::from_secs(60 * 60);

/// How long making an image of a container may take.
const COMMIT_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Bytes of a command's output that are kept: the last ones.
const OUTPUT_BYTES: usize = 4 << 10;

/// A container just made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CreatedContainer {
    #[serde(rename = "Id")]
    pub id: String,
    #[serde(rename = "Warnings", default, deserialize_with = "null_is_empty")]
    pub warnings: Vec<String>,
}

/// A path of a container's own filesystem that is not as its image has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    pub path: String,
    pub kind: PathChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathChangeKind {
    Modified,
    Added,
    Deleted,
}

/// How a command inside a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    pub exit_code: i64,
    /// The last few KiB of what it wrote, both streams as they came.
    pub output: String,
}

impl Engine {
    /// The minor version of API 1 that is on the wire.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn api_minor(&self) -> Result<u32, EngineError> {
        self.call("say its API version", LOOKUP_LIMIT, async {
            self.pinned.minor().ok_or(Error::APIVersionParseError {})
        })
        .await
    }

    /// A container as the Engine reports it, by name or id.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn inspect_container_json(&self, id: &str) -> Result<Value, EngineError> {
        let (id, operation) = (checked(id)?, format!("inspect container `{}`", shorten(id)));
        self.ask(&operation, LOOKUP_LIMIT, Method::GET, format!("/containers/{id}/json"), None).await
    }

    /// An image as the Engine reports it, by reference or id.
    ///
    /// # Errors
    /// `NotFound` when it is not on this host.
    pub async fn inspect_image_json(&self, reference: &str) -> Result<Value, EngineError> {
        let operation = format!("inspect image `{}`", shorten(reference));
        let path = format!("/images/{}/json", checked_reference(reference)?);
        self.ask(&operation, LOOKUP_LIMIT, Method::GET, path, None).await
    }

    /// Every image of this host, as the Engine lists them.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn list_images_json(&self) -> Result<Vec<Value>, EngineError> {
        self.ask("list images", LOOKUP_LIMIT, Method::GET, "/images/json".to_owned(), None).await
    }

    /// The Engine's versions, whole.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn version_json(&self) -> Result<Value, EngineError> {
        self.ask("say its version", LOOKUP_LIMIT, Method::GET, "/version".to_owned(), None).await
    }

    /// The Engine's own facts, whole.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn info_json(&self) -> Result<Value, EngineError> {
        self.ask("say its facts", LOOKUP_LIMIT, Method::GET, "/info".to_owned(), None).await
    }

    /// Makes a container, stopped, of the body the Engine's API describes.
    /// Without a name the Engine gives it one.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `NotFound` when the image is not
    /// here, `Invalid` when the Engine refuses a setting.
    pub async fn create_container_json(
        &self,
        name: &str,
        platform: Option<&str>,
        body: &Value,
    ) -> Result<CreatedContainer, EngineError> {
        let operation = format!("create container `{}`", shorten(name));
        let mut path = "/containers/create?".to_owned();
        if !name.is_empty() {
            path = format!("{path}name={}", checked(name)?);
        }
        if let Some(platform) = platform {
            path.push_str("&platform=");
            path.push_str(checked_reference(platform)?);
        }
        self.ask(&operation, CHANGE_LIMIT, Method::POST, path, Some(body)).await
    }

    /// Makes an image of a container as it is, without its volumes and without
    /// pausing it, and gives its id. Its configuration is the container's, with
    /// `labels` over its labels.
    ///
    /// # Errors
    /// `NotFound` when the container is gone; `Failed` when there is no space.
    pub async fn commit_container(
        &self,
        id: &str,
        repository: &str,
        tag: &str,
        labels: &Map<String, Value>,
    ) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        struct Committed {
            #[serde(rename = "Id")]
            id: String,
        }
        let operation = format!("make an image of container `{}`", shorten(id));
        let (id, repository, tag) = (checked(id)?, checked_reference(repository)?, checked_reference(tag)?);
        let path = format!("/commit?container={id}&repo={repository}&tag={tag}&pause=false");
        let body = json!({ "Labels": labels });
        let made: Committed = self.ask(&operation, COMMIT_LIMIT, Method::POST, path, Some(&body)).await?;
        Ok(made.id)
    }

    /// Removes an image, or one of its names where it has more.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` when a container is made of it.
    pub async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        let operation = format!("remove image `{}`", shorten(reference));
        let path = format!("/images/{}", checked_reference(reference)?);
        self.act(&operation, Method::DELETE, path, None).await
    }

    /// A network as the Engine reports it, by name or id.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn inspect_network_json(&self, network: &str) -> Result<Value, EngineError> {
        let operation = format!("inspect network `{}`", shorten(network));
        let path = format!("/networks/{}", checked(network)?);
        self.ask(&operation, LOOKUP_LIMIT, Method::GET, path, None).await
    }

    /// Connects a container to a network with the settings of an endpoint. To a
    /// container that does not run the Engine connects any name: look at the
    /// network before.
    ///
    /// # Errors
    /// `NotFound` when the container is gone; `Failed` or `Permission` when
    /// the network does not take it.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        endpoint: &Value,
    ) -> Result<(), EngineError> {
        let operation =
            format!("connect container `{}` to network `{}`", shorten(container), shorten(network));
        let path = format!("/networks/{}/connect", checked(network)?);
        let body = json!({ "Container": checked(container)?, "EndpointConfig": endpoint });
        self.act(&operation, Method::POST, path, Some(&body)).await
    }

    /// Disconnects a container from a network. One that is not connected is
    /// success.
    ///
    /// # Errors
    /// When the Engine cannot do it.
    pub async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let operation =
            format!("disconnect container `{}` from network `{}`", shorten(container), shorten(network));
        let path = format!("/networks/{}/disconnect", checked(network)?);
        let body = json!({ "Container": checked(container)?, "Force": true });
        match self.act(&operation, Method::POST, path, Some(&body)).await {
            // The Engine has no status of its own for that.
            Err(error) if !error.to_string().contains("is not connected to") => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `NotFound` when it is gone.
    pub async fn rename_container(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let operation = format!("rename container `{}` to `{}`", shorten(id), shorten(name));
        let path = format!("/containers/{}/rename?name={}", checked(id)?, checked(name)?);
        self.act(&operation, Method::POST, path, None).await
    }

    /// Sets when the Engine starts a container again: as `RestartPolicy` in
    /// `HostConfig`, which is all that changes.
    ///
    /// # Errors
    /// `NotFound` when it is gone; `Failed` for one that the Engine removes
    /// when it stops, unless the policy is `no`.
    pub async fn set_restart_policy(&self, id: &str, policy: &Value) -> Result<(), EngineError> {
        let operation = format!("set the restart policy of container `{}`", shorten(id));
        let path = format!("/containers/{}/update", checked(id)?);
        let body = json!({ "RestartPolicy": policy });
        self.act(&operation, Method::POST, path, Some(&body)).await
    }

    /// What is in a container's own filesystem that its image does not have,
    /// mounts left out.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn container_changes(&self, id: &str) -> Result<Vec<PathChange>, EngineError> {
        let (id, operation) = (checked(id)?, format!("compare container `{}` with its image", shorten(id)));
        let path = format!("/containers/{id}/changes");
        let listed: Option<Vec<ListedChange>> =
            self.ask(&operation, CHANGE_LIMIT, Method::GET, path, None).await?;
        Ok(listed.unwrap_or_default().into_iter().map(PathChange::from).collect())
    }

    /// Fetches an image. A reference without tag and digest means `latest`.
    ///
    /// # Errors
    /// `NotFound` when no registry has it; `Failed` also for what the Engine
    /// reports only after it began to answer.
    pub async fn pull_image(&self, reference: &str, platform: Option<&str>) -> Result<(), EngineError> {
        let operation = format!("fetch image `{}`", shorten(reference));
        let mut path = format!("/images/create?fromImage={}", with_tag(checked_reference(reference)?));
        if let Some(platform) = platform {
            path.push_str("&platform=");
            path.push_str(checked_reference(platform)?);
        }
        // The status says only that the Engine began. The stream has to be read to its
        // end: an Engine gives up a pull whose caller goes away.
        let failure = self
            .call(&operation, PULL_LIMIT, async {
                let mut body = self.request(Method::POST, path, None).await?.into_body();
                let mut failure = Progress::default();
                while let Some(frame) = body.frame().await {
                    if let Ok(data) = frame?.into_data() {
                        failure.read(&data);
                    }
                }
                Ok(failure.end())
            })
            .await?;
        match failure {
            None => Ok(()),
            Some(message) => {
                let missing = ["not found", "manifest unknown", "does not exist"];
                let kind = match missing.iter().any(|words| message.contains(words)) {
                    true => EngineErrorKind::NotFound,
                    false => EngineErrorKind::Failed,
                };
                Err(EngineError::new(kind, format!("the Docker Engine could not {operation}: {message}")))
            }
        }
    }

    /// Runs a command inside a container and waits for its end. One that takes
    /// longer than `within` goes on inside: the Engine cannot end it.
    ///
    /// # Errors
    /// `Timeout` when it has not ended in time; `Conflict` when the container
    /// does not run.
    pub async fn exec(
        &self,
        id: &str,
        argv: &[String],
        within: Duration,
    ) -> Result<ExecOutcome, EngineError> {
        let program = argv.first().map_or("", String::as_str);
        let operation = format!("run `{}` in container `{}`", shorten(program).escape_debug(), shorten(id));
        let id = checked(id)?;
        let wanted = CreateExecOptions::<String> {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..Default::default()
        };
        self.call(&operation, within, async {
            let exec = self.docker.create_exec(id, wanted).await?;
            let mut tail = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                self.docker.start_exec(&exec.id, None).await?
            {
                while let Some(chunk) = output.try_next().await? {
                    tail.extend_from_slice(&chunk.into_bytes());
                    // All of it is read, and the end kept: a command that writes for ever
                    // must not fill the agent's memory, nor block on a full pipe.
                    tail.drain(..tail.len().saturating_sub(OUTPUT_BYTES));
                }
            }
            let ended = self.docker.inspect_exec(&exec.id).await?;
            let output = String::from_utf8_lossy(&tail).into_owned();
            Ok(ExecOutcome { exit_code: ended.exit_code.unwrap_or(-1), output })
        })
        .await
    }

    /// One request whose answer is JSON.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        operation: &str,
        limit: Duration,
        method: Method,
        path: String,
        body: Option<&Value>,
    ) -> Result<T, EngineError> {
        self.call(operation, limit, async {
            let answer = self.request(method, path, body).await?.into_body().collect().await?;
            Ok(serde_json::from_slice(&answer.to_bytes())?)
        })
        .await
    }

    /// One request that changes something and whose answer says nothing.
    async fn act(
        &self,
        operation: &str,
        method: Method,
        path: String,
        body: Option<&Value>,
    ) -> Result<(), EngineError> {
        self.call(operation, CHANGE_LIMIT, async {
            // Read to its end: the connection is dropped with it.
            self.request(method, path, body).await?.into_body().collect().await?;
            Ok(())
        })
        .await
    }

    /// Runs inside [`Engine::call`], which knows the API version by then.
    async fn request(
        &self,
        method: Method,
        path: String,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(bollard::body_full(bytes))?;
        let transport = Transport::new(self.socket.to_path_buf(), self.pinned.clone());
        let answer = transport.send(request).await?;
        let status = answer.status();
        // 304: it is in that state already, as after a start that was answered late.
        if status.is_success() || status.as_u16() == 304 {
            return Ok(answer);
        }
        let bytes = answer.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice::<Refusal>(&bytes)
            .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |refusal| refusal.message);
        Err(Error::DockerResponseServerError { status_code: status.as_u16(), message })
    }
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedChange {
    path: String,
    kind: u8,
}

impl From<ListedChange> for PathChange {
    fn from(listed: ListedChange) -> Self {
        let kind = match listed.kind {
            1 => PathChangeKind::Added,
            2 => PathChangeKind::Deleted,
            _ => PathChangeKind::Modified,
        };
        Self { path: listed.path, kind }
    }
}

/// The stream of a pull: a JSON object a line, cut anywhere. An Engine that
/// has begun to answer can report a failure only in there.
#[derive(Default)]
struct Progress {
    line: Vec<u8>,
    failure: Option<String>,
}

impl Progress {
    fn read(&mut self, data: &[u8]) {
        for &byte in data {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let Ok(object) = serde_json::from_slice::<Value>(&line) else { return };
        if let Some(message) = object.get("error").and_then(Value::as_str) {
            self.failure.get_or_insert_with(|| message.to_owned());
        }
    }

    fn end(mut self) -> Option<String> {
        self.end_line();
        self.failure
    }
}

/// Refuses what could leave its place in a path or a query.
fn checked_reference(reference: &str) -> Result<&str, EngineError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@".contains(&byte);
    let fits = !reference.is_empty()
        && reference.len() <= 1024
        && reference.bytes().all(plain)
        && reference.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if fits {
        return Ok(reference);
    }
    let message =
        format!("`{}` cannot be the name of an image or a platform", shorten(reference).escape_debug());
    Err(EngineError::new(EngineErrorKind::Invalid, message))
}

/// Without a tag the Engine would fetch every tag there is.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    match last.contains([':', '@']) {
        true => reference.to_owned(),
        false => format!("{reference}:latest"),
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;

//! One connection an agent has dialled, from the handshake to its end.
//!
//! The agent is asked who it is before it is told that it was accepted: a
//! clone that is refused must never believe it was in. Accepting ends with
//! `Hello`; whoever does not hear one hangs up and dials again.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::closable::Closable;
use holdfast_proto::v1::agent_service_client::AgentServiceClient;
use holdfast_proto::v1::{GetAgentRequest, HelloRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::registry::{Fleet, Member};
use crate::catalog::audit::{AuditEntry, Outcome};
use crate::catalog::standing::Standing;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::identity::certificate::HostCertificate;
use crate::limits::AGENT_MESSAGE;
use crate::model::agent::Agent;
use holdfast_archive::text::causes;

/// How long an agent may take to say who it is, and to answer `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an agent is asked for news, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the first of two instances has to prove that it is alive.
const RIVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// HTTP/2 keepalive on the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection did not become, or did not stay, a host's.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    #[error("the certificate is not valid now")]
    Expired,
    #[error("the certificate names a host that is not known")]
    UnknownHost,
    #[error("host `{0}` was revoked")]
    Revoked(String),
    #[error("this certificate of host `{0}` was replaced by another")]
    Denied(String),
    #[error(
        "another agent with the identity of host `{0}` is connected and answers: is this a cloned machine?"
    )]
    Rival(String),
    #[error("the agent could not be reached on the connection it made")]
    Connect(#[from] tonic::transport::Error),
    #[error("the agent did not answer within {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    #[error("the agent answered `{}`", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
}

/// Takes a connection whose TLS handshake is done and keeps it for the host
/// its certificate names, until either side ends it.
///
/// # Errors
/// The certificate does not count, the agent does not answer, another one with
/// its identity does, or the catalogue fails.
pub async fn serve<IO>(
    io: IO,
    peer: SocketAddr,
    certificate: HostCertificate,
    fleet: Fleet,
    catalog: Catalog,
) -> Result<(), Rejected>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = certificate.host;
    // Before any message: a host that was revoked is not asked anything.
    let name = check(&catalog, &certificate).await?;
    let (close, gone) = (CancellationToken::new(), CancellationToken::new());
    // Closes the connection on every way out, also where this future is dropped.
    let closing = close.clone().drop_guard();
    let channel = channel(Closable::new(io, (), close.clone(), gone.clone())).await?;
    let client = agent_client(channel.clone());

    // Who it is, before it is told that it was accepted: a clone is told nothing.
    let agent = ask(&client, HELLO_TIMEOUT).await?;
    let replacing = contest(&fleet, &catalog, host, &name, &agent, peer).await?;
    let agent = hello(&client, &fleet, host, &name).await?.unwrap_or(agent);
    // Written down before anybody can find the connection: what is known of a host
    // is never older than its connection.
    seen(&catalog, host, &agent).await?;
    let Some(number) =
        fleet.register(host, channel, agent.instance_id.clone(), close.clone(), replacing.as_ref())
    else {
        return Err(Rejected::Rival(name));
    };
    tracing::info!(host.id = %host, host.name = %name, peer = %peer, "host connected");

    // Revoked between the first check and the registration: `disconnect` came
    // too early to find this connection.
    let ended = match check(&catalog, &certificate).await {
        Ok(_) => watch(&client, &catalog, &certificate, &gone).await,
        Err(rejected) => Err(rejected),
    };
    fleet.unregister(host, number);
    drop(closing);
    tracing::info!(host.id = %host, host.name = %name, "host disconnected");
    ended
}

/// What an agent says of itself is written down every few seconds.
fn agent_client(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel).max_decoding_message_size(AGENT_MESSAGE)
}

/// The channel over the one connection there is; it cannot dial another.
async fn channel<IO>(io: IO) -> Result<Channel, tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    // TLS is done: hence http.
    Endpoint::from_static("http://agent")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector(tower::service_fn(move |_| {
            let io = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move { io.ok_or_else(|| io::Error::other("the agent's connection is gone")) }
        }))
        .await
}

async fn check(catalog: &Catalog, certificate: &HostCertificate) -> Result<String, Rejected> {
    let now = now_ms();
    if !certificate.is_valid_at(now) {
        return Err(Rejected::Expired);
    }
    match catalog.certificate_standing(certificate.host, &certificate.serial, now).await? {
        Standing::Good { name } => Ok(name),
        Standing::Unknown => Err(Rejected::UnknownHost),
        Standing::Revoked { name } => Err(Rejected::Revoked(name)),
        Standing::Denied { name } => Err(Rejected::Denied(name)),
    }
}

async fn ask(client: &AgentServiceClient<Channel>, within: Duration) -> Result<Agent, Rejected> {
    let mut request = Request::new(GetAgentRequest {});
    request.set_timeout(within);
    let answer = timeout(within, client.clone().get_agent(request)).await;
    let answer = answer.map_err(|_| Rejected::Silent)?;
    Ok(answer.map_err(|status| Rejected::Refused(Box::new(status)))?.into_inner().into())
}

/// Whoever is in place stays, if it answers: an agent hangs up before it dials
/// again, so one that is alive and another that dials are two.
async fn contest(
    fleet: &Fleet,
    catalog: &Catalog,
    host: HostId,
    name: &str,
    agent: &Agent,
    peer: SocketAddr,
) -> Result<Option<Member>, Rejected> {
    let Some(member) = fleet.member(host) else { return Ok(None) };
    // No answer: the old connection is dead, as after a restart of the host, and gives way.
    if ask(&agent_client(member.channel.clone()), RIVAL_TIMEOUT).await.is_err() {
        return Ok(Some(member));
    }
    alarm_of_two(catalog, host, name, agent, &member, peer).await?;
    Err(Rejected::Rival(name.to_owned()))
}

async fn alarm_of_two(
    catalog: &Catalog,
    host: HostId,
    name: &str,
    agent: &Agent,
    member: &Member,
    peer: SocketAddr,
) -> Result<(), CatalogError> {
    let detail = format!(
        "alarm: instance {} from {peer} shows the identity of {name}, which instance {} holds and answers to",
        agent.instance_id, member.instance_id
    );
    tracing::warn!(host.id = %host, host.name = %name, peer = %peer, "two agents with one identity");
    catalog
        .audit(&AuditEntry {
            at_ms: now_ms(),
            actor: &format!("agent:{name}"),
            action: "agent.connect",
            subject: &format!("host={name}"),
            outcome: Outcome::Denied,
            detail: &detail,
        })
        .await
}

async fn hello(
    client: &AgentServiceClient<Channel>,
    fleet: &Fleet,
    host: HostId,
    name: &str,
) -> Result<Option<Agent>, Rejected> {
    let mut request = Request::new(HelloRequest {
        controller_version: env!("CARGO_PKG_VERSION").to_owned(),
        host_id: host.to_string(),
        host_name: name.to_owned(),
        now_unix_ms: now_ms(),
        boot_id: boot_id(),
        own: fleet.own().into_iter().map(Into::into).collect(),
    });
    request.set_timeout(HELLO_TIMEOUT);
    let answer = timeout(HELLO_TIMEOUT, client.clone().hello(request)).await;
    let answer = answer.map_err(|_| Rejected::Silent)?;
    let answer = answer.map_err(|status| Rejected::Refused(Box::new(status)))?;
    Ok(answer.into_inner().agent.map(Agent::from))
}

/// Of the kernel this runs on; empty where it is not known.
fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Asks for news until the connection ends. An agent that is slow to answer
/// stays: whether its transport lives is keepalive's question.
async fn watch(
    client: &AgentServiceClient<Channel>,
    catalog: &Catalog,
    certificate: &HostCertificate,
    gone: &CancellationToken,
) -> Result<(), Rejected> {
    loop {
        tokio::select! {
            () = gone.cancelled() => return Ok(()),
            () = tokio::time::sleep(PING_INTERVAL) => {}
        }
        match ask(client, PING_TIMEOUT).await {
            Ok(agent) => seen(catalog, certificate.host, &agent).await?,
            Err(error) => {
                tracing::debug!(host.id = %certificate.host, error = %causes(&error), "no news from the host");
            }
        }
        check(catalog, certificate).await?;
    }
}

async fn seen(catalog: &Catalog, host: HostId, agent: &Agent) -> Result<(), CatalogError> {
    let now = now_ms();
    let skew = if agent.now_unix_ms == 0 { 0 } else { agent.now_unix_ms.saturating_sub(now) };
    catalog.host_seen(host, now, agent, skew).await
}

//! The one place that decides who calls and whether they may.
//!
//! It stands in front of every service of the controller and of every call
//! that goes on to a host. A host's certificate wins over any header: what an
//! agent sends in `authorization` means nothing. A mutating call is recorded
//! *before* it is made: if the record cannot be written, the call is not made,
//! so there is no change without a row. `Caller` in the request's extensions
//! is what services believe, and nothing a client sends can put one there.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::{ACTOR_METADATA, HOST_METADATA, MAX_MESSAGE_BYTES};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::denials::Denials;
use super::roles::{About, Access, AdminField, AnsweredBy, Names, NeedsAdmin, Rule, rule};
use super::scope::{Call, refuse_other_hosts};
use super::sessions::Sessions;
use super::status_map::catalog_failed;
use super::subject::{UnreadableRequest, admin_field, describe, field_texts};
use super::timed::Timed;
use crate::api::forward::forward;
use crate::catalog::Catalog;
use crate::catalog::audit::{AuditEntry, Outcome};
use crate::catalog::operators::Operator;
use crate::catalog::standing::Standing;
use crate::catalog::upgrades::PlanRecord;
use crate::clock::now_ms;
use crate::coverage::ago;
use crate::fleet::Fleet;
use crate::identity::certificate::HostCertificate;
use crate::identity::token;
use crate::limits::{self, clipped};
use crate::listen::Peer;
use crate::model::caller::{Caller, Role};
use crate::places::Owner;
use crate::share::Turns;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

/// How long the one message of an audited call may take to arrive.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Flag and length in front of a gRPC message.
const FRAME_HEADER_LEN: usize = 5;

/// Puts [`Auth`] in front of services.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    gate: Gate,
}

impl AuthLayer {
    pub fn new(catalog: Catalog, fleet: Fleet, denials: Denials) -> Self {
        let calls = Arc::new(Turns::new(limits::HOST_CALLS));
        Self { gate: Gate { catalog, fleet, denials, calls, sessions: Sessions::default() } }
    }

    /// Connections on which operators' tokens were shown.
    pub fn sessions(&self) -> Sessions {
        self.gate.sessions.clone()
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { gate: self.gate.clone(), inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Auth<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Auth<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The clone may not be ready; the one that was polled is.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let gate = self.gate.clone();
        Box::pin(
            async move { Ok(gate.handle(inner, request).await.unwrap_or_else(|status| status.into_http())) },
        )
    }
}

#[derive(Debug, Clone)]
struct Gate {
    catalog: Catalog,
    fleet: Fleet,
    denials: Denials,
    /// Places for calls of each host, on all its connections.
    calls: Arc<Turns>,
    sessions: Sessions,
}

impl Gate {
    async fn handle<S>(
        &self,
        mut inner: S,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let (parts, body) = request.into_parts();
        // First of all: a path without a rule gets no further, so no call can lack one.
        let Some(rule) = rule(parts.uri.path()) else {
            return Err(Status::unimplemented("there is no such call"));
        };
        let peer = parts.extensions.get::<Peer>().cloned();
        let nobody_known = anonymous_place(peer.as_ref()).await;
        let caller = self.identify(rule, &parts).await?;
        let answering = answering_host(rule, &parts.headers);
        // Before the body is read: who may not call this cannot make the controller hold a message.
        if !rule.admits(&caller) {
            return Err(self.refuse(rule, &caller, answering).await);
        }
        make_known(peer.as_ref(), &caller)?;
        if caller != Caller::Anonymous {
            drop(nobody_known);
        }
        let _place = self.call_place(&caller).await;
        let body = timed(rule, &caller, body);
        let (body, message) = whole(rule, &caller, body).await?;
        let call = Call { rule, message: message.as_deref(), answering };
        self.refuse_out_of_scope(&caller, call).await?;
        // The audit row comes before the act: no change is made that it does not show.
        let subject = self.record(&caller, call).await?;
        let mut request = http::Request::from_parts(parts, body);
        request.extensions_mut().insert(caller.clone());
        let response = match rule.answered_by {
            AnsweredBy::Host => forward(&self.fleet, &self.catalog, request, &caller).await,
            AnsweredBy::Controller => {
                // Services go by the caller in the extensions: none of them sees a token.
                request.headers_mut().remove(http::header::AUTHORIZATION);
                request.headers_mut().remove(ACTOR_METADATA);
                answered(rule, inner.call(request)).await
            }
        };
        let failure = match &response {
            Ok(response) => Status::from_header_map(response.headers()).filter(|s| s.code() != Code::Ok),
            Err(status) => Some(status.clone()),
        };
        if let Some(failure) = failure {
            self.record_failure(rule, &caller, &subject, &failure).await;
        }
        response
    }

    /// A host has so many calls at work at once; a further one waits, its body
    /// unread.
    async fn call_place(&self, caller: &Caller) -> Option<OwnedSemaphorePermit> {
        let Caller::Agent { host, .. } = caller else { return None };
        Some(self.calls.take(*host).await)
    }

    async fn identify(&self, rule: &Rule, request: &http::request::Parts) -> Result<Caller, Status> {
        if rule.access == Access::Anyone {
            return Ok(Caller::Anonymous);
        }
        let certificate = request.extensions.get::<Peer>().and_then(|peer| peer.certificate.as_deref());
        if let Some(certificate) = certificate {
            return self.identify_host(rule, certificate).await;
        }
        let Some(token) = bearer(&request.headers) else { return Ok(Caller::Anonymous) };
        let hash = token::hash(token);
        let found = self.catalog.operator_by_token(&hash).await;
        match found.map_err(|error| catalog_failed(&error))? {
            Some(operator) => {
                let caller = self.identify_operator(rule, operator).await?;
                // One that ends from now on is seen by the next look at it.
                if let Some(peer) = request.extensions.get::<Peer>() {
                    self.sessions.note(&hash, &peer.ticket);
                }
                Ok(caller)
            }
            None => {
                self.denials
                    .record("anonymous", rule.path, "", "the token is not known or was revoked")
                    .await;
                Err(ErrorCode::Unauthenticated.status("the token is not known or was revoked"))
            }
        }
    }

    async fn identify_operator(&self, rule: &Rule, operator: Operator) -> Result<Caller, Status> {
        let now = now_ms();
        if operator.has_expired(now) {
            let ago = ago(now.saturating_sub(operator.expires_ms.unwrap_or(now)));
            let refusal =
                ErrorCode::TokenExpired.status(format!("the token of `{}` expired {ago} ago", operator.name));
            self.denials.record(&operator.name, rule.path, "", refusal.message()).await;
            return Err(refusal);
        }
        // When it was used last is worth less than the call itself.
        if let Err(error) = self.catalog.note_use(&operator, now).await {
            tracing::warn!(error = %causes(&error), operator = operator.name, "a token's use could not be noted");
        }
        let Operator { name, role, hosts, .. } = operator;
        Ok(Caller::Operator { name, role, hosts })
    }

    async fn identify_host(&self, rule: &Rule, certificate: &HostCertificate) -> Result<Caller, Status> {
        let host = certificate.host;
        let now = now_ms();
        let refusal = if certificate.is_valid_at(now) {
            let standing = self.catalog.certificate_standing(host, &certificate.serial, now).await;
            match standing.map_err(|error| catalog_failed(&error))? {
                Standing::Good { name } => return Ok(Caller::Agent { host, host_name: name }),
                Standing::Unknown => {
                    ErrorCode::CertificateRefused.status("the certificate's host is not known")
                }
                Standing::Revoked { name } => {
                    ErrorCode::HostRevoked.status(format!("host `{name}` was revoked"))
                }
                Standing::Denied { name } => ErrorCode::CertificateRefused
                    .status(format!("this certificate of host `{name}` was replaced by another")),
            }
        } else {
            ErrorCode::CertificateRefused.status("the certificate is not valid now")
        };
        self.denials.record(&format!("agent:{host}"), rule.path, "", refusal.message()).await;
        Err(refusal)
    }

    async fn refuse(&self, rule: &Rule, caller: &Caller, answering: Option<&str>) -> Status {
        let status = match (rule.access, caller) {
            (_, Caller::Anonymous) => {
                ErrorCode::Unauthenticated.status("this call needs a token or certificate")
            }
            (Access::Role(needed), Caller::Operator { name, role, .. }) => ErrorCode::RoleTooLow
                .status(format!("`{name}` is {}, this call needs {}", role.as_str(), needed.as_str())),
            (Access::Role(_), Caller::Agent { .. }) => {
                ErrorCode::RoleTooLow.status("hosts may not make this call")
            }
            (Access::Agent, _) => ErrorCode::AgentOnly.status("only an agent may make this call"),
            (Access::Nobody | Access::Anyone, _) => {
                ErrorCode::NotForwardable.status("this call is made to hosts by jobs alone")
            }
        };
        self.denials.record(&caller.actor(), rule.path, &on(answering), status.message()).await;
        status
    }

    /// Refuses what a token is not good for that is limited to some hosts.
    async fn refuse_out_of_scope(&self, caller: &Caller, call: Call<'_>) -> Result<(), Status> {
        let Err(status) = refuse_other_hosts(&self.catalog, caller, call).await else { return Ok(()) };
        if status.code() == Code::PermissionDenied {
            let subject = subject(call).unwrap_or_default();
            self.denials.record(&caller.actor(), call.rule.path, &subject, status.message()).await;
        }
        Err(status)
    }

    /// Writes the row of a mutating call; gives what it is about.
    async fn record(&self, caller: &Caller, call: Call<'_>) -> Result<String, Status> {
        let rule = call.rule;
        let (Some(_), Some(message)) = (rule.audit, call.message) else { return Ok(String::new()) };
        let mut subject =
            subject(call).map_err(|error| ErrorCode::InvalidRequest.status(error.to_string()))?;
        self.refuse_admin_fields(caller, call, message, &subject).await?;
        subject.push_str(&self.planned(rule, message).await?);
        let entry = AuditEntry {
            at_ms: now_ms(),
            actor: &caller.actor(),
            action: rule.path,
            subject: &subject,
            outcome: Outcome::Allowed,
            detail: "",
        };
        self.catalog.audit(&entry).await.map_err(|error| catalog_failed(&error))?;
        Ok(subject)
    }

    /// What a plan is about that a call names by its id alone.
    async fn planned(&self, rule: &Rule, message: &[u8]) -> Result<String, Status> {
        let About::Named(fields) = rule.about else { return Ok(String::new()) };
        let Some((name, _)) = fields.iter().find(|(_, names)| *names == Names::UpgradePlan) else {
            return Ok(String::new());
        };
        let ids = field_texts(rule.path, &[name], message).unwrap_or_default();
        let Some(id) = ids.first().filter(|id| !id.is_empty()) else { return Ok(String::new()) };
        let plan = self.catalog.upgrade_plan(id).await.map_err(|error| catalog_failed(&error))?;
        let Some(PlanRecord { host, plan, .. }) = plan else { return Ok(String::new()) };
        let host = self.catalog.host(host).await.map_err(|error| catalog_failed(&error))?;
        let host = host.map(|host| host.name).unwrap_or_default();
        let text = format!(" host={host} container={} image={}", plan.container_name, plan.to_image);
        Ok(clipped(&text.escape_debug().to_string()).to_owned())
    }

    /// Some settings are an administrator's, whoever else may make the call.
    async fn refuse_admin_fields(
        &self,
        caller: &Caller,
        call: Call<'_>,
        message: &[u8],
        subject: &str,
    ) -> Result<(), Status> {
        let Caller::Operator { name, role, .. } = caller else { return Ok(()) };
        if *role >= Role::Admin {
            return Ok(());
        }
        let field = admin_field(call.rule.path, call.rule.admin_fields, message)
            .map_err(|error| ErrorCode::InvalidRequest.status(error.to_string()))?;
        let Some(AdminField { name: field, needs }) = field else { return Ok(()) };
        let done = if *needs == NeedsAdmin::Unset { "left out" } else { "set" };
        let status = ErrorCode::RoleTooLow.status(format!(
            "`{name}` is {}, and `{field}` can only be {done} by {}",
            role.as_str(),
            Role::Admin.as_str()
        ));
        let subject = format!("{field} {subject}");
        self.denials.record(&caller.actor(), call.rule.path, subject.trim_end(), status.message()).await;
        Err(status)
    }

    async fn record_failure(&self, rule: &Rule, caller: &Caller, subject: &str, failure: &Status) {
        if rule.audit.is_some() {
            self.append(&caller.actor(), rule.path, subject, Outcome::Failed, failure.message()).await;
        } else if failure.code() == Code::PermissionDenied && matches!(caller, Caller::Agent { .. }) {
            // A service found that a host asked for what is not its own.
            self.denials.record(&caller.actor(), rule.path, subject, failure.message()).await;
        }
    }

    async fn append(&self, actor: &str, action: &str, subject: &str, outcome: Outcome, detail: &str) {
        let entry = AuditEntry { at_ms: now_ms(), actor, action, subject, outcome, detail };
        if let Err(error) = self.catalog.audit(&entry).await {
            tracing::error!(error = %causes(&error), actor, action, "an audit row could not be written");
        }
    }
}

/// The host a call is to go on to, by the name its caller gave.
fn answering_host<'a>(rule: &Rule, headers: &'a HeaderMap) -> Option<&'a str> {
    if rule.answered_by != AnsweredBy::Host {
        return None;
    }
    headers.get(HOST_METADATA)?.to_str().ok()
}

/// "on=web-1", as it goes in front of what a call is about.
fn on(answering: Option<&str>) -> String {
    let Some(host) = answering else { return String::new() };
    let host: String = host.chars().take(80).collect();
    format!("on={}", host.escape_debug())
}

/// What an audited call is about; nothing where its message was not read.
fn subject(call: Call<'_>) -> Result<String, UnreadableRequest> {
    let on = on(call.answering);
    let (Some(fields), Some(message)) = (call.rule.audit, call.message) else { return Ok(on) };
    let fields = describe(call.rule.path, fields, message)?;
    Ok([on, fields].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" "))
}

/// Reads the message of a call that is recorded, or that has to be about hosts
/// its caller may see. `None`: the body is as it was.
async fn whole(rule: &Rule, caller: &Caller, body: Body) -> Result<(Body, Option<Bytes>), Status> {
    let is_looked_at = caller.limits().is_some() && matches!(rule.about, About::Named(_));
    if rule.audit.is_none() && !is_looked_at {
        return Ok((body, None));
    }
    let bytes = read_message(body).await?;
    Ok((Body::new(Full::new(bytes.clone())), Some(bytes)))
}

/// One of the few calls a connection may have at once while nobody is known
/// on it; a further one waits, its body unread. `None` once somebody is known.
async fn anonymous_place(peer: Option<&Peer>) -> Option<OwnedSemaphorePermit> {
    let ticket = &peer.filter(|peer| !peer.ticket.is_known())?.ticket;
    // Never closed.
    ticket.calls().clone().acquire_owned().await.ok()
}

/// Moves the connection out of the anonymous ones.
fn make_known(peer: Option<&Peer>, caller: &Caller) -> Result<(), Status> {
    let owner = match caller {
        Caller::Anonymous => return Ok(()),
        Caller::Agent { host, .. } => Owner::Host(*host),
        Caller::Operator { name, .. } => Owner::Operator(name.clone()),
    };
    match peer {
        Some(peer) if !peer.ticket.belongs_to(owner) => {
            Err(ErrorCode::TooMany.status("there is no place for a further connection; try again"))
        }
        _ => Ok(()),
    }
}

/// A host's one message has to arrive in time. The bytes of a pack have a
/// deadline that goes with their length, set where that is known.
fn timed(rule: &Rule, caller: &Caller, body: Body) -> Body {
    match caller {
        Caller::Agent { .. } if !rule.path.ends_with("/UploadPack") => {
            Body::new(Timed::new(body, limits::HOST_MESSAGE_TIME))
        }
        _ => body,
    }
}

/// The service's answer; in time, where anybody may ask and for renewals.
async fn answered(
    rule: &Rule,
    answer: impl Future<Output = Result<http::Response<Body>, Infallible>>,
) -> Result<http::Response<Body>, Status> {
    let enrolment = rule.path.starts_with("/holdfast.v1.EnrolmentService/");
    if rule.access != Access::Anyone && !enrolment {
        let Ok(response) = answer.await;
        return Ok(response);
    }
    match tokio::time::timeout(limits::ANONYMOUS_CALL, answer).await {
        Ok(Ok(response)) => Ok(response),
        Err(_) => Err(Status::deadline_exceeded("the call was not made in time")),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

async fn read_message(body: Body) -> Result<Bytes, Status> {
    let limited = Limited::new(body, MAX_MESSAGE_BYTES + FRAME_HEADER_LEN);
    let read = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, limited.collect()).await;
    match read {
        Err(_) => Err(Status::deadline_exceeded("the request did not arrive in time")),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ErrorCode::MessageTooLarge
            .status(format!("the request is larger than {MAX_MESSAGE_BYTES} bytes"))),
        Ok(Err(_)) => Err(Status::cancelled("the request was cut off")),
    }
}

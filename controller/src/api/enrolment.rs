//! `EnrolmentService`: a join token becomes a host with a certificate, and a
//! certificate becomes a newer one.

use std::sync::Arc;

use holdfast_archive::ids::HostId;
use holdfast_archive::store::StorePlace;
use holdfast_proto::join_token::JoinToken;
use holdfast_proto::v1::enrolment_service_server::EnrolmentService;
use holdfast_proto::v1::{self, JoinRequest, JoinResponse, RenewRequest, RenewResponse};
use rcgen::PublicKey;
use tonic::{Request, Response, Status};

use super::denials::Denials;
use super::status_map::catalog_failed;
use crate::catalog::Catalog;
use crate::catalog::audit::{AuditEntry, Outcome};
use crate::catalog::enrolment::{Enrolled, Enrolment, JoinRecord};
use crate::clock::now_ms;
use crate::fleet::Fleet;
use crate::identity::ca::{Authority, AuthorityError, HOST_CERTIFICATE_LIFETIME, Serial, Validity};
use crate::identity::{csr, token};
use crate::listen::Peer;
use crate::model::caller::Caller;
use crate::quota::{Quotas, Usage, day_of};
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

const JOIN: &str = "/holdfast.v1.EnrolmentService/Join";
const RENEW: &str = "/holdfast.v1.EnrolmentService/Renew";

const UNSIGNED: &str = "the certificate could not be signed";

/// Longest instance id and version worth keeping, in bytes.
const MAX_TEXT_LEN: usize = 128;

#[derive(Debug, Clone)]
pub struct EnrolmentApi {
    catalog: Catalog,
    fleet: Fleet,
    authority: Arc<Authority>,
    denials: Denials,
    quotas: Quotas,
    /// What hosts that join keep as the place of packs.
    store: Option<StorePlace>,
}

impl EnrolmentApi {
    pub fn new(
        catalog: Catalog,
        fleet: Fleet,
        authority: Arc<Authority>,
        denials: Denials,
        quotas: Quotas,
        store: Option<StorePlace>,
    ) -> Self {
        Self { catalog, fleet, authority, denials, quotas, store }
    }

    fn store_place(&self) -> Option<v1::StorePlace> {
        let StorePlace { url, ca_pem } = self.store.as_ref()?;
        Some(v1::StorePlace { url: url.clone(), ca_pem: ca_pem.clone() })
    }

    /// Each renewal leaves rows behind.
    async fn count_renewal(&self, host: HostId, now: i64) -> Result<(), Status> {
        let (day, one) = (day_of(now), Usage { renewals: 1, ..Usage::default() });
        let failed = |error| catalog_failed(&error);
        let exceeded = self.catalog.charge(host, day, one, &self.quotas).await.map_err(failed)?;
        let Some((name, quota)) = exceeded else { return Ok(()) };
        let reason = format!("it came to its quota {name} = {quota}");
        self.catalog.alarm(host, day, &reason).await.map_err(failed)?;
        Err(ErrorCode::TooMany.status(format!("this host may renew its certificate {quota} times a day")))
    }

    /// The host that a token leads to, whether it is one that was known, and the
    /// certificate that was made for it.
    async fn enrol(
        &self,
        enrolment: &Enrolment<'_>,
        peer: &str,
        certify: impl FnOnce(HostId) -> Result<String, AuthorityError> + Send,
    ) -> Result<(HostId, bool, String), Status> {
        let name = enrolment.host_name;
        let certify = |host| certify(host).inspect_err(log_signing).ok();
        match self.catalog.enrol(enrolment, certify).await.map_err(|error| catalog_failed(&error))? {
            Enrolled::Host { id, again, certificate } => Ok((id, again, certificate)),
            Enrolled::Uncertified => Err(ErrorCode::Internal.status(UNSIGNED)),
            Enrolled::Unknown => {
                // Whoever sends these knows no secret: worth a log line, no row.
                tracing::warn!(peer, "an unknown join token was shown");
                Err(ErrorCode::JoinTokenInvalid.status("this join token is not known here"))
            }
            Enrolled::Used { .. } => {
                let message = "alarm: this join token was used before; if that was not you, revoke the host";
                Err(self.refuse(ErrorCode::JoinTokenUsed, peer, name, message).await)
            }
            Enrolled::Expired { .. } => {
                let message = "this join token has expired";
                Err(self.refuse(ErrorCode::JoinTokenExpired, peer, name, message).await)
            }
        }
    }

    async fn refuse(&self, code: ErrorCode, peer: &str, host_name: &str, message: &str) -> Status {
        self.denials.record(peer, JOIN, &format!("host={host_name}"), message).await;
        code.status(message)
    }

    async fn record_renewal(&self, actor: &str, host: HostId) -> Result<(), Status> {
        let entry = AuditEntry {
            at_ms: now_ms(),
            actor,
            action: RENEW,
            subject: &format!("host={host}"),
            outcome: Outcome::Ok,
            detail: "renewed",
        };
        self.catalog.audit(&entry).await.map_err(|error| catalog_failed(&error))
    }
}

#[tonic::async_trait]
impl EnrolmentService for EnrolmentApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let peer = match request.extensions().get::<Peer>() {
            Some(peer) => format!("joining from {}", peer.address.ip()),
            None => "joining".to_owned(),
        };
        // All that can be refused without the token is, before the token is used up.
        let request = request.into_inner();
        let (token, key) = read_join(&request)?;
        let JoinRequest { instance_id, agent_version, .. } = request;
        let now = now_ms();
        let serial = Serial::generate();
        let validity = Validity::starting(now, HOST_CERTIFICATE_LIFETIME);
        let enrolment = Enrolment {
            token_hash: &token::hash(&token.secret),
            host_name: &token.host_name,
            serial: serial.as_str(),
            not_after_ms: validity.not_after_ms,
            instance_id: &instance_id,
            now_ms: now,
            record: JoinRecord { actor: &peer, action: JOIN, agent_version: &agent_version },
        };
        let certify = |host| self.authority.issue_host(&key, host, &serial, validity);
        let (host, again, certificate_pem) = self.enrol(&enrolment, &peer, certify).await?;
        // Its older certificates are denied by now: what is connected with one of them
        // is not this host any more.
        if again {
            self.fleet.disconnect(host);
        }
        tracing::info!(host.id = %host, host.name = %token.host_name, again, "host joined");
        Ok(Response::new(JoinResponse {
            host_id: host.to_string(),
            host_name: token.host_name,
            certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            not_after_unix_ms: validity.not_after_ms,
            store: self.store_place(),
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let caller = Caller::of(&request);
        let host = Caller::host(&request)?;
        let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificate.clone());
        let Some(certificate) = certificate else {
            return Err(ErrorCode::CertificateRefused.status("renewal needs the certificate it replaces"));
        };
        let key = csr::public_key(&request.into_inner().csr_pem)
            .map_err(|error| ErrorCode::CsrInvalid.status(causes(&error)))?;
        // Counted first: a signature costs more than the row that bounds them.
        let now = now_ms();
        self.count_renewal(host, now).await?;
        let serial = Serial::generate();
        let validity = Validity::starting(now, HOST_CERTIFICATE_LIFETIME);
        let certificate_pem = self
            .authority
            .issue_host(&key, host, &serial, validity)
            .inspect_err(log_signing)
            .map_err(|_| ErrorCode::Internal.status(UNSIGNED))?;
        let renewed = self
            .catalog
            .renew_certificate(host, &certificate.serial, serial.as_str(), validity.not_after_ms, now)
            .await
            .map_err(|error| catalog_failed(&error))?;
        if !renewed {
            return Err(ErrorCode::CertificateRefused.status("this certificate was replaced by another"));
        }
        // Where this fails the certificate is not given away: the host asks again with the
        // one it has, which is good until another is used.
        self.record_renewal(&caller.actor(), host).await?;
        Ok(Response::new(RenewResponse {
            certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            not_after_unix_ms: validity.not_after_ms,
        }))
    }
}

/// The token that is shown and the key that wants a certificate.
fn read_join(request: &JoinRequest) -> Result<(JoinToken, PublicKey), Status> {
    let token = request.token.parse::<JoinToken>();
    let token = token.map_err(|error| ErrorCode::JoinTokenInvalid.status(format!("{error}")))?;
    let key =
        csr::public_key(&request.csr_pem).map_err(|error| ErrorCode::CsrInvalid.status(causes(&error)))?;
    if request.instance_id.len() > MAX_TEXT_LEN || request.agent_version.len() > MAX_TEXT_LEN {
        return Err(ErrorCode::InvalidRequest.status("instance id or version is too long"));
    }
    Ok((token, key))
}

fn log_signing(error: &AuthorityError) {
    tracing::error!(error = %causes(error), "a certificate could not be signed");
}

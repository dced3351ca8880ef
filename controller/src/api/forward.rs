//! A call to an agent's service made on the controller goes on to the host as
//! raw HTTP/2: no message is decoded and encoded again, streams stay streams.
//!
//! What tells the operator apart stays here. The host learns a name, never a
//! token: a host that was taken over must not be able to act as whoever asks
//! it something.

use holdfast_proto::{ACTOR_METADATA, HOST_METADATA, ROLE_METADATA};
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tonic::body::Body;
use tower::{Service as _, ServiceExt as _};

use crate::api::status_map::catalog_failed;
use crate::catalog::Catalog;
use crate::catalog::hosts::HostRecord;
use crate::fleet::Fleet;
use crate::model::caller::Caller;
use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The deadline of a forwarded call that came without one.
const DEFAULT_TIMEOUT: HeaderValue = HeaderValue::from_static("60S");

/// Sends `request` to the host it names and returns its answer.
///
/// # Errors
/// No host is named, it is not known or not connected, or the connection breaks
/// before it answers.
pub async fn forward(
    fleet: &Fleet,
    catalog: &Catalog,
    mut request: http::Request<Body>,
    caller: &Caller,
) -> Result<http::Response<Body>, Status> {
    let name = request.headers().get(HOST_METADATA).and_then(|value| value.to_str().ok());
    let Some(name) = name else {
        return Err(ErrorCode::HostRequired.status("this call is answered by a host, and none was named"));
    };
    let host = find_host(catalog, name).await?;
    let Some(mut channel) = fleet.channel(host.id) else { return Err(not_connected(&host)) };
    clean(request.headers_mut(), caller);
    // Extensions are of the server's side of the call, the caller's identity among them.
    request.extensions_mut().clear();
    let channel = channel.ready().await.map_err(|_| not_connected(&host))?;
    channel.call(request).await.map_err(|error| {
        tracing::debug!(host.id = %host.id, error = %holdfast_archive::text::causes(&error), "forwarding failed");
        not_connected(&host)
    })
}

/// Removes what is ours and leaves the rest as it came.
fn clean(headers: &mut HeaderMap, caller: &Caller) {
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            // Ours are set below: a caller must not bring its own actor or role to the host.
            name.starts_with("holdfast-")
                || matches!(name, "authorization" | "cookie" | "proxy-authorization")
        })
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
    if let Ok(actor) = HeaderValue::from_str(&caller.actor()) {
        headers.insert(ACTOR_METADATA, actor);
    }
    if let Some(role) = caller.role() {
        headers.insert(ROLE_METADATA, HeaderValue::from_static(role.as_str()));
    }
    headers.entry(TIMEOUT_HEADER).or_insert(DEFAULT_TIMEOUT);
}

/// The host of that name or id; the error offers the nearest names.
///
/// # Errors
/// No host has that name or id, or the catalogue fails.
pub async fn find_host(catalog: &Catalog, name: &str) -> Result<HostRecord, Status> {
    let found = catalog.host_by_name(name).await.map_err(|error| catalog_failed(&error))?;
    if let Some(host) = found {
        return Ok(host);
    }
    let names = catalog.host_names().await.map_err(|error| catalog_failed(&error))?;
    // The name is the caller's text, and the answer is shown in terminals and logs.
    let shown: String = name.chars().take(80).collect::<String>().escape_debug().to_string();
    let near = did_you_mean(name, names.iter().map(String::as_str));
    Err(ErrorCode::HostUnknown.status(format!("host `{shown}` is not known{near}")))
}

fn not_connected(host: &HostRecord) -> Status {
    if host.revoked_ms.is_some() {
        let hint = ErrorCode::HostRevoked.hint();
        return ErrorCode::HostNotConnected
            .status_with_hint(format!("host `{}` was revoked", host.name), hint);
    }
    let seen = match host.last_seen_ms.and_then(chrono::DateTime::from_timestamp_millis) {
        Some(at) => format!("last seen {}", at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        None => "it never was".to_owned(),
    };
    ErrorCode::HostNotConnected.status(format!("host `{}` is not connected; {seen}", host.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::caller::{HostScope, Role};

    #[test]
    fn r12_no_token_and_no_forged_actor_goes_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer hfo_secret"),
            ("holdfast-host", "web-1"),
            ("holdfast-actor", "somebody-else"),
            ("holdfast-role", "admin"),
            ("holdfast-anything", "x"),
            ("cookie", "hfo_secret"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("authorization", HeaderValue::from_static("Bearer hfo_second"));
        clean(
            &mut headers,
            &Caller::Operator { name: "anna".to_owned(), role: Role::Viewer, hosts: HostScope::default() },
        );
        assert!(!format!("{headers:?}").contains("hfo_"));
        assert_eq!(
            (&headers[ACTOR_METADATA], &headers[ROLE_METADATA]),
            (&HeaderValue::from_static("anna"), &HeaderValue::from_static("viewer"))
        );
        assert_eq!(headers[TIMEOUT_HEADER], "60S");
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers.len(), 5);
    }
}

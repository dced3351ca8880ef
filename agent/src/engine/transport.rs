//! Requests to the Engine's unix socket, with the API version on the wire.
//!
//! The client library sends paths without a version, and an Engine answers
//! those with its own newest API, so that the same call changes meaning when
//! the Engine is upgraded. Here `/v1.NN` is put in front of every path: the
//! lower of what the Engine speaks and [`NEWEST_MINOR`], once that is known.
//! Only `/version` and `/_ping`, which find it out, go without.
//!
//! Every request has a connection of its own. The socket is local, so that
//! costs microseconds, and no pooled connection of an Engine that restarted
//! can be handed out. A request that is given up drops its connection, which
//! ends the task that drives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bollard::BollardRequest;
use bollard::errors::Error;
use http::header::{HOST, HeaderValue};
use http::{Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Newest minor version of API 1 this agent was written against.
pub(super) const NEWEST_MINOR: u32 = 51;

/// Oldest minor version of API 1 this agent works with: Docker 20.10.
pub(super) const OLDEST_MINOR: u32 = 41;

/// The API version on the wire; none until the Engine has been asked.
///
/// One that is in doubt stays on the wire until it was asked for again: calls of
/// other tasks may be between their look at it and their request.
#[derive(Debug, Clone, Default)]
pub(super) struct PinnedVersion(Arc<AtomicU32>);

/// Set beside a minor version that is in doubt.
const IN_DOUBT: u32 = 1 << 31;

impl PinnedVersion {
    pub(super) fn minor(&self) -> Option<u32> {
        match self.0.load(Ordering::Acquire) & !IN_DOUBT {
            0 => None,
            minor => Some(minor),
        }
    }

    /// Whether it is known, and nothing happened since that puts it in doubt.
    pub(super) fn is_current(&self) -> bool {
        self.minor().is_some() && self.0.load(Ordering::Acquire) & IN_DOUBT == 0
    }

    pub(super) fn set(&self, minor: u32) {
        self.0.store(minor, Ordering::Release);
    }

    /// The next call asks the Engine again.
    pub(super) fn doubt(&self) {
        self.0.fetch_or(IN_DOUBT, Ordering::AcqRel);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Transport {
    socket: PathBuf,
    pinned: PinnedVersion,
}

impl Transport {
    pub(super) fn new(socket: PathBuf, pinned: PinnedVersion) -> Self {
        Self { socket, pinned }
    }

    pub(super) async fn send(self, request: BollardRequest) -> Result<Response<Incoming>, Error> {
        let (mut parts, body) = request.into_parts();
        parts.uri = versioned(&parts.uri, self.pinned.minor())?;
        parts.headers.insert(HOST, HeaderValue::from_static("docker"));
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the response body, or when both are dropped.
        tokio::spawn(connection.with_upgrades());
        Ok(sender.send_request(http::Request::from_parts(parts, body)).await?)
    }
}

fn versioned(uri: &Uri, minor: Option<u32>) -> Result<Uri, Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if matches!(uri.path(), "/version" | "/_ping") {
        return Ok(path.parse()?);
    }
    let minor = minor.ok_or(Error::APIVersionParseError {})?;
    Ok(format!("/v1.{minor}{path}").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_wire(uri: &str, minor: Option<u32>) -> Result<String, Error> {
        versioned(&uri.parse().expect("a URI"), minor).map(|uri| uri.to_string())
    }

    #[test]
    fn the_version_is_put_before_the_path_and_the_query_is_kept() {
        let path = on_wire("http://docker/volumes?filters=%7B%7D", Some(41)).unwrap();
        assert_eq!(path, "/v1.41/volumes?filters=%7B%7D");
    }

    #[test]
    fn a_version_in_doubt_is_on_the_wire_until_another_is_known() {
        let pinned = PinnedVersion::default();
        pinned.doubt();
        assert_eq!((pinned.minor(), pinned.is_current()), (None, false));
        pinned.set(41);
        assert_eq!((pinned.minor(), pinned.is_current()), (Some(41), true));
        pinned.doubt();
        assert_eq!((pinned.minor(), pinned.is_current()), (Some(41), false));
        pinned.set(43);
        assert_eq!((pinned.minor(), pinned.is_current()), (Some(43), true));
    }

    #[test]
    fn only_the_question_for_the_version_goes_without() {
        assert_eq!(on_wire("http://docker/version", None).unwrap(), "/version");
        assert!(on_wire("http://docker/volumes", None).is_err());
    }
}

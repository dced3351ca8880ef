//! The connection on which the agent is the server.
//!
//! A TLS 1.3 client whose certificate is refused does not learn it from the
//! handshake, so a connection counts only once the controller has greeted it;
//! one without a greeting is given up and dialled again. Pauses between dials
//! grow and are jittered, so that a controller that comes back is not run over
//! by its whole fleet at once.

use std::time::Duration;

use holdfast_archive::backoff::Backoff;
use holdfast_archive::text::causes;
use holdfast_proto::AGENT_ALPN;
use holdfast_proto::closable::Closable;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use super::connection::ConnectionFile;
use super::dial::dial;
use super::identity::{Identity, IdentityError};
use super::{Held, tls};
use crate::controller::Controller;

/// How long the controller may take to greet.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long calls under way may take when the agent stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

/// In the extensions of a call that came from the controller, over the link;
/// calls over the local socket have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FromController;

/// Serves one connection after another until `stop`. An identity that came by
/// joining ends the connection of the one before.
pub(super) async fn serve<R>(
    mut held: watch::Receiver<Held>,
    router: R,
    controller: Controller,
    connection_file: &ConnectionFile,
    stop: CancellationToken,
) where
    R: Fn() -> Router,
{
    let mut failures = 0;
    loop {
        let Held { identity, joined } = held.borrow_and_update().clone();
        // Ends what is done for this identity, when it is over or `stop` is.
        let over = stop.child_token();
        let another = async {
            if held.wait_for(|held| held.joined != joined).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let before = failures;
        let attempt = async {
            let Some(identity) = identity else {
                over.cancelled().await;
                return 0;
            };
            // A connection that was accepted and broke is dialled again soon; one that was
            // not is waited for longer each time.
            let greeted = serve_next(&identity, &router, &controller, connection_file, &over).await;
            let failures = if greeted { 1 } else { u32::saturating_add(before, 1) };
            tokio::select! {
                () = over.cancelled() => {}
                () = tokio::time::sleep(PAUSES.pause(failures)) => {}
            }
            failures
        };
        tokio::pin!(attempt);
        let changed = tokio::select! {
            () = stop.cancelled() => false,
            () = another => true,
            next = &mut attempt => {
                failures = next;
                continue;
            }
        };
        // A connection that is served is drained first; a dial is given up.
        over.cancel();
        let drained = tokio::time::timeout(DRAIN_LIMIT * 2, attempt).await;
        // Whatever hangs in it must not keep the agent from ending.
        if drained.is_err() {
            tracing::debug!("the connection to the controller did not end in time");
        }
        if !changed {
            return;
        }
        failures = 0;
    }
}

/// Makes one connection and serves it to its end. True: the controller had
/// accepted it.
async fn serve_next<R>(
    identity: &Identity,
    router: &R,
    controller: &Controller,
    connection_file: &ConnectionFile,
    over: &CancellationToken,
) -> bool
where
    R: Fn() -> Router,
{
    let connected = tokio::select! {
        () = over.cancelled() => return false,
        connected = connect(identity) => connected,
    };
    match connected {
        Ok(stream) => serve_one(stream, router(), controller, connection_file, over).await,
        Err(error) => {
            let error = causes(&error);
            tracing::warn!(error, "the controller cannot be reached; will dial again");
            connection_file.away(format!("it cannot be reached: {error}"));
            false
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Dial(#[from] super::DialError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

async fn connect(identity: &Identity) -> Result<TlsStream<TcpStream>, ConnectError> {
    let config = tls::config(identity, AGENT_ALPN)?;
    Ok(dial(&identity.addresses, &config).await?)
}

/// Serves one connection to its end. True: the controller had accepted it.
async fn serve_one(
    stream: TlsStream<TcpStream>,
    router: Router,
    controller: &Controller,
    connection_file: &ConnectionFile,
    stop: &CancellationToken,
) -> bool {
    // Subscribed before the first call can come: a greeting must not be missed.
    let mut greetings = controller.greetings();
    let (close, gone) = (CancellationToken::new(), CancellationToken::new());
    let io = Closable::new(stream, FromController, close.clone(), gone.clone());
    // A stream of one item would end at once, and the server with it.
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io)).chain(tokio_stream::pending());
    let (ended, stopped) = (gone.clone(), stop.clone());
    let serving = router.serve_with_incoming_shutdown(incoming, async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = stopped.cancelled() => {}
        }
    });
    let watching = async {
        let greeted = tokio::select! {
            () = gone.cancelled() => false,
            () = stop.cancelled() => false,
            greeted = tokio::time::timeout(HELLO_TIMEOUT, greetings.changed()) => matches!(greeted, Ok(Ok(()))),
        };
        if greeted {
            tracing::info!("connected to the controller");
            connection_file.connected();
            tokio::select! {
                () = gone.cancelled() => {}
                () = stop.cancelled() => drain(&gone).await,
            }
        } else if !stop.is_cancelled() {
            tracing::warn!(
                "the controller did not accept this agent: was the host revoked, or does another agent use \
                 its identity? `holdfast host ls` there says more"
            );
            connection_file.away(
                "it does not accept this host: was it revoked? holdfast host token NAME there, \
                 holdfast-agent join TOKEN-FILE here",
            );
        }
        close.cancel();
        greeted
    };
    let (served, greeted) = tokio::join!(serving, watching);
    if let Err(error) = served {
        tracing::warn!(error = %causes(&error), "serving the controller failed");
    } else if greeted && !stop.is_cancelled() {
        tracing::warn!("the connection to the controller ended; will dial again");
        connection_file.away("the connection ended");
    }
    greeted
}

/// Jobs were told to stop by the same token; this is for their last words.
async fn drain(gone: &CancellationToken) {
    let ended = tokio::time::timeout(DRAIN_LIMIT, gone.cancelled()).await;
    if ended.is_err() {
        tracing::debug!("the connection to the controller is closed");
    }
}

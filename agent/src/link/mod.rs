//! The agent's way to its controller: joining once, then two connections that
//! the agent makes and nobody makes to it.
//!
//! On the first the agent is the gRPC server and answers what the controller
//! asks. The second is an ordinary client channel for the data plane and for
//! renewing the certificate; it connects when it is first used and again
//! whenever it was lost. Both prove the host with one certificate, and both
//! accept nobody but a server that this controller's CA vouches for.
//!
//! Run by `app`. Writes the identity and the state of the connection, and hands
//! the channel to `session`; what is served over the first connection it does not
//! know.
//!
//! What lies in the state directory settles who this host is, also while the
//! agent runs: joining, joining anew and leaving write or remove one file.

mod connection;
mod dial;
mod identity;
mod join;
mod renew;
mod reverse;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use crate::controller::Controller;
use crate::session::Line;

use self::connection::ConnectionFile;
pub(crate) use self::connection::ConnectionState;
pub(crate) use self::dial::DialError;
pub(crate) use self::identity::{Identity, IdentityError};
pub(crate) use self::join::join;

/// How often the identity is looked for: one `stat`, so that a host that joins,
/// joins anew or leaves needs no restart.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Who this host is to a controller, and since which change from outside.
#[derive(Debug, Clone, Default)]
struct Held {
    identity: Option<Arc<Identity>>,
    /// Counts the identities that came by `join`, or went; a renewal is the
    /// same identity. Connections of an earlier one are given up.
    joined: u64,
}

/// The link of a host to its controller, if it has one: that is settled by
/// what lies in the state directory at any time.
#[derive(Debug)]
pub(crate) struct Link {
    state_dir: PathBuf,
    held: watch::Sender<Held>,
    /// A new one with each certificate; none while the host has not joined.
    line: watch::Sender<Option<Line>>,
}

impl Link {
    /// The link of the host whose identity lies in `state_dir`, or will.
    ///
    /// # Errors
    /// When an identity is there and cannot be used.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        let identity = Identity::load(state_dir)?;
        let line = identity.as_ref().map(line).transpose()?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            held: watch::Sender::new(Held { identity: identity.map(Arc::new), joined: 0 }),
            line: watch::Sender::new(line),
        })
    }

    /// Whether the host has joined a controller.
    pub(crate) fn has_joined(&self) -> bool {
        self.held.borrow().identity.is_some()
    }

    /// The ordinary connection, for calls to the controller, and what is kept
    /// beside it. Calls need a deadline of their own.
    pub(crate) fn line(&self) -> watch::Receiver<Option<Line>> {
        self.line.subscribe()
    }

    /// Serves `router` to the controller, over one connection after another,
    /// keeps the certificate fresh and takes up an identity that appears,
    /// until `stop`. `rights` is called before an identity is used that was
    /// not there at the start: a host that has joined must never run with
    /// other rights than it was joined with. Where `rights` fails, the identity
    /// is left alone and looked at again.
    pub(crate) async fn run<R, A>(self, router: R, rights: A, controller: Controller, stop: CancellationToken)
    where
        R: Fn() -> Router,
        A: Fn() -> anyhow::Result<()>,
    {
        let connection_file = ConnectionFile::new(&self.state_dir);
        let serving =
            reverse::serve(self.held.subscribe(), router, controller, &connection_file, stop.clone());
        tokio::select! {
            () = serving => {}
            // End by being dropped: a renewal that is cut off is asked for again.
            () = self.keep_fresh() => {}
            () = self.follow(rights) => {}
        }
    }

    async fn keep_fresh(&self) {
        let mut held = self.held.subscribe();
        loop {
            let Held { identity, joined } = held.borrow_and_update().clone();
            let another = async {
                // The sender is ours: this resolves with another identity only.
                let _ = held.wait_for(|held| held.joined != joined).await;
            };
            match identity {
                None => another.await,
                Some(identity) => tokio::select! {
                    () = another => {}
                    () = self.renew_when_due(&identity, joined) => {}
                },
            }
        }
    }

    async fn renew_when_due(&self, identity: &Identity, joined: u64) {
        renew::wait_until_due(identity).await;
        // That of the certificate which is to be renewed: it proves who asks.
        let channel = self.line.borrow().as_ref().map(|line| line.channel.clone());
        let Some(channel) = channel else { return };
        match renew::renew(EnrolmentServiceClient::new(channel), identity, &self.state_dir).await {
            Ok(renewed) => {
                tracing::info!("the certificate was renewed");
                self.take(Some(renewed), joined);
            }
            Err(error) => {
                tracing::warn!(error = %causes(&error), "the certificate could not be renewed; will try again");
                tokio::time::sleep(renew::RETRY_PAUSE).await;
            }
        }
    }

    /// Takes up what `join` writes, and gives up what was taken away.
    async fn follow(&self, rights: impl Fn() -> anyhow::Result<()>) {
        // Nothing was seen yet: the first look compares with what is held.
        let mut seen = None;
        let mut complaint = String::new();
        loop {
            let look = Identity::stamp(&self.state_dir);
            if seen != Some(look) {
                match self.look(&rights) {
                    Ok(()) => {
                        seen = Some(look);
                        complaint.clear();
                    }
                    Err(error) => {
                        let text = format!("{error:#}");
                        if text != complaint {
                            tracing::error!(error = %text, "this host's new identity is not taken up; will look again");
                        }
                        // Said once, not every two seconds.
                        complaint = text;
                    }
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&self, rights: &impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let found = Identity::load(&self.state_dir)?;
        let Held { identity, joined } = self.held.borrow().clone();
        // A renewal of our own changes the file too.
        if found.as_ref() == identity.as_deref() {
            return Ok(());
        }
        match &found {
            Some(new) => {
                // Not even a connection may be made with what cannot be used.
                dial::channel(new)?;
                rights()?;
                tracing::info!(host = %new.host_name, addresses = ?new.addresses, "this host has joined");
            }
            None => tracing::info!("this host has left its controller; only the socket is served"),
        }
        self.take(found, joined + 1);
        Ok(())
    }

    /// From now on new connections show this certificate. Calls under way on
    /// the old channel go on; the controller asked who made them at their
    /// start.
    fn take(&self, identity: Option<Identity>, joined: u64) {
        let line = match identity.as_ref().map(line).transpose() {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(error = %causes(&error), "the new certificate cannot be used");
                return;
            }
        };
        // The connection first: whoever is woken by the identity has it.
        self.line.send_replace(line);
        self.held.send_replace(Held { identity: identity.map(Arc::new), joined });
    }
}

fn line(identity: &Identity) -> Result<Line, IdentityError> {
    Ok(Line { channel: dial::channel(identity)?, store: identity.store.clone().map(Arc::new) })
}

//! The agent's way to its controller: joining once, then two connections that
//! the agent makes and nobody makes to it.
//!
//! On the first the agent is the gRPC server and answers what the controller
//! asks. The second is an ordinary client channel for the data plane and for
//! renewing the certificate; it connects when it is first used and again
//! whenever it was lost. Both prove the host with one certificate, and both
//! accept nobody but a server that this controller's CA vouches for.

mod dial;
mod identity;
mod join;
mod renew;
mod reverse;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::server::Router;

use crate::controller::Controller;
use crate::services::status::causes;

pub use self::dial::DialError;
pub use self::identity::{Identity, IdentityError};
pub use self::join::{JoinError, join};
pub use self::reverse::FromController;

/// The link of a host that has joined.
#[derive(Debug)]
pub struct Link {
    state_dir: PathBuf,
    /// Replaced when the certificate is renewed.
    identity: watch::Sender<Arc<Identity>>,
    /// A new one with each certificate.
    channel: watch::Sender<Option<Channel>>,
}

impl Link {
    /// The link of the host whose identity lies in `state_dir`; none, if it
    /// has not joined. Connects to nobody yet.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn open(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(identity) = Identity::load(state_dir)? else { return Ok(None) };
        let identity = Arc::new(identity);
        let channel = dial::channel(&identity)?;
        Ok(Some(Self {
            state_dir: state_dir.to_owned(),
            identity: watch::Sender::new(identity),
            channel: watch::Sender::new(Some(channel)),
        }))
    }

    /// Who this host is to its controller.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.borrow().clone()
    }

    /// The ordinary connection, for calls to the controller. Calls need a
    /// deadline of their own.
    pub fn channel(&self) -> watch::Receiver<Option<Channel>> {
        self.channel.subscribe()
    }

    /// Serves `router` to the controller, over one connection after another,
    /// and keeps the certificate fresh, until `stop`.
    pub async fn run<R>(self, router: R, controller: Controller, stop: CancellationToken)
    where
        R: Fn() -> Router,
    {
        let serving = reverse::serve(self.identity.subscribe(), router, controller, stop.clone());
        tokio::select! {
            () = serving => {}
            // Ends by being dropped: a renewal that is cut off is asked for again.
            () = self.keep_fresh() => {}
        }
    }

    async fn keep_fresh(&self) {
        loop {
            let identity = self.identity();
            renew::wait_until_due(&identity).await;
            let channel = self.channel.borrow().clone();
            let Some(channel) = channel else { continue };
            match renew::renew(EnrolmentServiceClient::new(channel), &identity, &self.state_dir).await {
                Ok(renewed) => self.replace(renewed),
                Err(error) => {
                    tracing::warn!(error = %causes(&error), "the certificate could not be renewed; will try again");
                    tokio::time::sleep(renew::RETRY_PAUSE).await;
                }
            }
        }
    }

    /// From now on new connections show the new certificate. Calls under way
    /// on the old channel go on; the controller asked who made them at their
    /// start.
    fn replace(&self, identity: Identity) {
        match dial::channel(&identity) {
            Ok(channel) => {
                tracing::info!("the certificate was renewed");
                self.channel.send_replace(Some(channel));
                self.identity.send_replace(Arc::new(identity));
            }
            Err(error) => tracing::error!(error = %causes(&error), "the renewed certificate cannot be used"),
        }
    }
}

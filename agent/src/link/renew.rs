//! Renewing the certificate at a third of its life: two more thirds remain for
//! a controller that is away.

use std::path::Path;
use std::time::Duration;

use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::{RenewRequest, RenewResponse};
use rcgen::{CertificateParams, KeyPair};
use tonic::Request;
use tonic::transport::Channel;

use crate::clocks::now_unix_ms;

use super::identity::{Identity, IdentityError};
use super::tls;

/// After a renewal that failed.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(600);

/// The wall clock is read at least this often: machines are suspended, and
/// clocks are set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

const RENEW_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    #[error("a key could not be made")]
    Key(#[from] rcgen::Error),
    #[error("the controller answered `{}`", .0.message())]
    Refused(Box<tonic::Status>),
    #[error("this host has joined anew meanwhile")]
    Superseded,
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Returns when a third of the certificate's life is over.
pub(super) async fn wait_until_due(identity: &Identity) {
    loop {
        // Of a certificate that cannot be read nothing is known: it is renewed now.
        let left = match identity.validity() {
            Ok(validity) => seconds_left(validity, now_seconds()),
            Err(_) => 0,
        };
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs(left).min(LONGEST_SLEEP)).await;
    }
}

/// Makes a new key, has it certified, and writes both into `state_dir`.
pub(super) async fn renew(
    mut client: EnrolmentServiceClient<Channel>,
    identity: &Identity,
    state_dir: &Path,
) -> Result<Identity, RenewError> {
    // A new key each time: one that leaked is worth nothing after the renewal, and
    // the old pair stays valid until the new one is on disk.
    let key = KeyPair::generate()?;
    let csr_pem = CertificateParams::default().serialize_request(&key)?.pem()?;
    let mut request = Request::new(RenewRequest { csr_pem });
    request.set_timeout(RENEW_TIMEOUT);
    let answer = client.renew(request).await.map_err(|status| RenewError::Refused(Box::new(status)))?;
    let RenewResponse { certificate_pem, ca_pem, not_after_unix_ms: _ } = answer.into_inner();
    let renewed = Identity { certificate_pem, ca_pem, key_pem: key.serialize_pem(), ..identity.clone() };
    // What cannot be used must not replace what can.
    tls::config(&renewed, b"h2")?;
    // Only over the pair that was renewed: `join` may have written another meanwhile.
    match renewed.replace(identity, state_dir)? {
        true => Ok(renewed),
        false => Err(RenewError::Superseded),
    }
}

/// Until a third of the validity (first and last second) is over.
fn seconds_left((first, last): (i64, i64), now: i64) -> u64 {
    let due = first + last.saturating_sub(first) / 3;
    u64::try_from(due.saturating_sub(now)).unwrap_or(0)
}

fn now_seconds() -> i64 {
    now_unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_life_is_when_it_is_due() {
        assert_eq!(seconds_left((0, 90), 0), 30);
        assert_eq!(seconds_left((0, 90), 29), 1);
        assert_eq!(seconds_left((0, 90), 30), 0);
        assert_eq!(seconds_left((0, 90), 1000), 0);
        assert_eq!(seconds_left((0, 90), -10), 40, "a clock that is behind");
    }
}

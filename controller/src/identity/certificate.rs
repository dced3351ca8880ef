//! What a host's certificate says, read by an X.509 parser and never by text.
//!
//! rustls has checked the chain and the dates when a connection was made. A
//! connection may outlive its certificate, so the dates are kept and checked
//! again on every call; purpose and name are ours to demand, because webpki
//! accepts a certificate that states no purpose.

use holdfast_archive::ids::HostId;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ca::Validity;

const URI_PREFIX: &str = "holdfast://host/";

/// The URI that names a host in its certificate.
pub fn host_uri(host: HostId) -> String {
    format!("{URI_PREFIX}{host}")
}

/// A certificate that is no host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoHostCertificate {
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("the client certificate is not made for client authentication")]
    Purpose,
    #[error("the client certificate names no host")]
    NoHost,
}

/// The facts of a host's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCertificate {
    pub host: HostId,
    /// Lower-case hexadecimal.
    pub serial: String,
    pub validity: Validity,
}

impl HostCertificate {
    /// Reads a DER certificate whose chain was checked before.
    ///
    /// # Errors
    /// It is no certificate, or none that [`Authority`](super::ca::Authority)
    /// issues for a host.
    pub fn parse(der: &[u8]) -> Result<Self, NoHostCertificate> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| NoHostCertificate::Unreadable)?;
        if !rest.is_empty() {
            return Err(NoHostCertificate::Unreadable);
        }
        let usage = parsed.extended_key_usage().map_err(|_| NoHostCertificate::Unreadable)?;
        if parsed.is_ca() || !usage.is_some_and(|usage| usage.value.client_auth) {
            return Err(NoHostCertificate::Purpose);
        }
        let names = parsed.subject_alternative_name().map_err(|_| NoHostCertificate::Unreadable)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let [GeneralName::URI(uri)] = names else { return Err(NoHostCertificate::NoHost) };
        let host =
            uri.strip_prefix(URI_PREFIX).and_then(|id| id.parse().ok()).ok_or(NoHostCertificate::NoHost)?;
        let validity = parsed.validity();
        Ok(Self {
            host,
            serial: hex::encode(parsed.raw_serial()),
            validity: Validity {
                not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
                not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
            },
        })
    }

    /// Whether the certificate counts at that moment.
    pub fn is_valid_at(&self, now_ms: i64) -> bool {
        (self.validity.not_before_ms..=self.validity.not_after_ms).contains(&now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::identity::ca::{Authority, Serial};

    #[test]
    fn reads_back_what_the_authority_signs() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let now_ms = 1_800_000_000_123;
        let authority = Authority::create(dir.path(), now_ms).expect("created");
        let (host, serial) = (HostId::generate(), Serial::generate());
        let validity = Validity::starting(now_ms, Duration::from_secs(60));
        let key = KeyPair::generate().expect("key");
        let pem = authority.issue_host(&key, host, &serial, validity).expect("issued");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("pem");
        let read = HostCertificate::parse(&der).expect("a host's");
        assert_eq!((read.host, read.serial.as_str()), (host, serial.as_str()));
        assert_eq!(read.validity.not_after_ms, validity.not_after_ms);
        assert!(read.is_valid_at(now_ms));
        assert!(!read.is_valid_at(validity.not_after_ms + 1));
        assert!(!read.is_valid_at(now_ms - 2 * 3_600_000));
    }

    #[test]
    fn x04_wrong_purpose_or_name_is_refused() {
        let host = HostId::generate();
        let parse = |purpose: &[ExtendedKeyUsagePurpose], names: &[&str]| {
            let mut params = CertificateParams::default();
            params.extended_key_usages = purpose.to_vec();
            params.subject_alt_names =
                names.iter().map(|name| SanType::URI((*name).try_into().expect("ascii"))).collect();
            let key = KeyPair::generate().expect("key");
            HostCertificate::parse(params.self_signed(&key).expect("signed").der())
        };
        let uri = host_uri(host);
        let client = [ExtendedKeyUsagePurpose::ClientAuth];
        assert!(parse(&client, &[&uri]).is_ok());
        assert_eq!(parse(&[], &[&uri]), Err(NoHostCertificate::Purpose));
        assert_eq!(parse(&[ExtendedKeyUsagePurpose::ServerAuth], &[&uri]), Err(NoHostCertificate::Purpose));
        assert_eq!(parse(&client, &[]), Err(NoHostCertificate::NoHost));
        assert_eq!(parse(&client, &["holdfast://host/web-1"]), Err(NoHostCertificate::NoHost));
        assert_eq!(parse(&client, &[&uri, &uri]), Err(NoHostCertificate::NoHost));
    }
}

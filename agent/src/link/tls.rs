//! TLS of the agent's connections: 1.3 only, one trusted CA, and on the very
//! first contact nothing but the hash of that CA's key.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::identity::{Identity, IdentityError};

/// For a host that has joined.
pub(super) fn config(identity: &Identity, alpn: &[u8]) -> Result<Arc<ClientConfig>, IdentityError> {
    let pem = |text: &str, what| {
        CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| IdentityError::Certificate(what))
    };
    // The controller's own CA alone: a public CA must not be able to vouch for it.
    let mut roots = RootCertStore::empty();
    roots.add(pem(&identity.ca_pem, "CA")?)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|_| IdentityError::Certificate("key"))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pem(&identity.certificate_pem, "certificate")?], key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// For joining: trusts a server whose chain ends in the CA with that key.
pub(super) fn joining_config(ca_key_sha256: [u8; 32]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = PinnedCa { ca_key_sha256, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        // The host has no certificate yet: it is what the host joins for.
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub(super) fn key_sha256(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Picks the one certificate with the right key out of what the server sends
/// and then checks the chain as if it had been trusted all along: name, dates
/// and purpose count as ever.
#[derive(Debug)]
struct PinnedCa {
    ca_key_sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The server has to send its CA along: nothing else can be compared with the pin.
        let ca = intermediates.iter().find(|certificate| key_sha256(certificate) == Some(self.ca_key_sha256));
        let Some(ca) = ca else {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        };
        // Trusted for this handshake alone: later ones use the CA that joining returns.
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // The trait asks for it, but no handshake gets here: the configuration has TLS 1.3 alone.
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

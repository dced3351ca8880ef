//! The controller's own certificate authority.
//!
//! One key, made by `init`, signs two kinds of certificate and they cannot
//! stand in for each other: the controller's (EKU serverAuth) and the hosts'
//! (EKU clientAuth, the host id as URI). The controller's certificate is made
//! anew at each start and kept in memory only; what must be guarded on disk is
//! the CA key alone. The CA certificate goes along in each handshake, because
//! a joining agent knows nothing but the hash of its key.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_archive::secret_file::{self, SecretFileError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long a host's certificate lives.
pub const HOST_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// How long the controller's own certificate lives.
pub const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Certificates start this much earlier, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(3600);

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";

/// Why the CA could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{} could not be {action}", path.display())]
    File { path: PathBuf, action: &'static str, source: io::Error },
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("{} holds no certificate that can be used", .0.display())]
    Certificate(PathBuf),
    #[error("{} holds no private key that can be used", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("a certificate could not be signed")]
    Sign(#[from] rcgen::Error),
    #[error("the controller's certificate cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    #[error("`{0}` is neither a host name nor an IP address")]
    Address(String),
}

/// The CA: signs and says what it would trust.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_sha256: [u8; 32],
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA and writes `ca.crt` and `ca.key` (0600) into `dir`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(dir: &Path, now_ms: i64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("Holdfast CA {}", random_serial().1));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, Validity::starting(now_ms, AUTHORITY_LIFETIME));
        let certificate = params.self_signed(&key)?;
        write_new(&dir.join(KEY_FILE), key.serialize_pem().as_bytes(), 0o600)?;
        write_new(&dir.join(CERTIFICATE_FILE), certificate.pem().as_bytes(), 0o644)?;
        Self::open(dir)
    }

    /// Reads what `create` wrote.
    ///
    /// # Errors
    /// A file is not there, or does not hold a certificate and its key.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let certificate_pem = fs::read_to_string(&certificate_path).map_err(|source| {
            AuthorityError::File { path: certificate_path.clone(), action: "read", source }
        })?;
        let key = KeyPair::from_pem(&secret_file::read(&key_path)?)
            .map_err(|source| AuthorityError::Key { path: key_path, source })?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Certificate(certificate_path.clone()))?;
        let key_sha256 =
            key_sha256(&certificate).ok_or_else(|| AuthorityError::Certificate(certificate_path.clone()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| AuthorityError::Certificate(certificate_path))?;
        Ok(Self { certificate, certificate_pem, key_sha256, issuer })
    }

    /// SHA-256 of the CA's SubjectPublicKeyInfo, for join tokens.
    pub fn key_sha256(&self) -> [u8; 32] {
        self.key_sha256
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The only root there is.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the certificate was parsed when it was opened");
        Arc::new(roots)
    }

    /// A certificate for the controller itself, valid for the local addresses,
    /// for [`holdfast_proto::SERVER_NAME`] and for each of `names`.
    ///
    /// # Errors
    /// One of `names` is neither a name nor an address.
    pub fn issue_server(&self, names: &[String], now_ms: i64) -> Result<CertifiedKey, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Holdfast controller");
        params.serial_number = Some(random_serial().0);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, Validity::starting(now_ms, SERVER_CERTIFICATE_LIFETIME));
        let local = ["localhost", "127.0.0.1", "::1", holdfast_proto::SERVER_NAME];
        for text in local.into_iter().chain(names.iter().map(String::as_str)) {
            let san = san(text)?;
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::from_der(
            vec![certificate.into(), self.certificate.clone()],
            key,
            &rustls::crypto::ring::default_provider(),
        )?)
    }

    /// A certificate, in PEM, that says its key belongs to `host`. Nothing of
    /// what the request asked for but the key goes in.
    ///
    /// # Errors
    /// The key cannot be certified.
    pub fn issue_host(
        &self,
        key: &impl PublicKeyData,
        host: HostId,
        serial: &Serial,
        validity: Validity,
    ) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("Holdfast host {host}"));
        params.serial_number = Some(serial.0.clone());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, validity);
        params.subject_alt_names = vec![SanType::URI(super::certificate::host_uri(host).try_into()?)];
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// When a certificate counts, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_ms: i64,
    pub not_after_ms: i64,
}

impl Validity {
    /// From an hour ago (for clocks that are behind) until `lifetime` from now.
    pub fn starting(now_ms: i64, lifetime: Duration) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        // X.509 counts whole seconds: what is recorded must be what is signed.
        let not_after_ms = now_ms.saturating_add(ms(lifetime)) / 1000 * 1000;
        Self { not_before_ms: now_ms - ms(BACKDATE), not_after_ms }
    }
}

/// A certificate's serial number: positive, random, 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial(SerialNumber, String);

impl Serial {
    pub fn generate() -> Self {
        let (number, text) = random_serial();
        Self(number, text)
    }

    /// Lower-case hexadecimal, as in the catalogue.
    pub fn as_str(&self) -> &str {
        &self.1
    }
}

fn random_serial() -> (SerialNumber, String) {
    let mut bytes: [u8; 16] = rand::random();
    // Positive in DER, and without a leading zero byte that an encoder might drop.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    (SerialNumber::from_slice(&bytes), hex::encode(bytes))
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn san(text: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    if text.is_empty() || !text.bytes().all(known) {
        return Err(AuthorityError::Address(text.to_owned()));
    }
    Ok(SanType::DnsName(text.try_into().map_err(|_| AuthorityError::Address(text.to_owned()))?))
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let instant = |unix_ms: i64| epoch + Duration::from_secs(u64::try_from(unix_ms / 1000).unwrap_or(0));
    params.not_before = instant(validity.not_before_ms);
    params.not_after = instant(validity.not_after_ms);
}

fn key_sha256(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    use std::io::Write as _;
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| AuthorityError::File { path: path.to_owned(), action: "written", source })
}

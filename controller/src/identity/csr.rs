//! Certificate requests: the key is taken, everything else in one is ignored.

use rcgen::{CertificateSigningRequestParams, PublicKey};

/// Longest request worth parsing, in bytes.
const MAX_CSR_LEN: usize = 16 << 10;

/// A request that proves no key.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCsr {
    #[error("the certificate request is longer than {MAX_CSR_LEN} bytes")]
    TooLong,
    #[error("the certificate request cannot be read or is not signed by its key")]
    Unreadable(#[from] rcgen::Error),
}

/// The key of a request whose signature by that key holds.
///
/// # Errors
/// It is no request, or not signed by the key in it.
pub fn public_key(csr_pem: &str) -> Result<PublicKey, InvalidCsr> {
    if csr_pem.len() > MAX_CSR_LEN {
        return Err(InvalidCsr::TooLong);
    }
    Ok(CertificateSigningRequestParams::from_pem(csr_pem)?.public_key)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    #[test]
    fn gives_the_key_and_refuses_the_rest() {
        let key = KeyPair::generate().expect("key");
        let csr = CertificateParams::default().serialize_request(&key).expect("request").pem().expect("pem");
        assert_eq!(public_key(&csr).expect("accepted").der_bytes(), key.der_bytes());
        assert!(public_key("").is_err());
        assert!(matches!(public_key(&"x".repeat(MAX_CSR_LEN + 1)), Err(InvalidCsr::TooLong)));
    }
}

//! Secrets that are shown once and stored as hashes: operators' tokens and the
//! secrets inside join tokens. 256 random bits need no slow hash.

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

/// What an operator's token starts with, so that leak scanners know one.
const OPERATOR_PREFIX: &str = "hfo_";

/// 32 bytes from a cryptographic generator seeded by the operating system.
pub fn random_secret() -> [u8; 32] {
    rand::random()
}

/// A new token for an operator, to be shown once.
pub fn generate_operator_token() -> SecretString {
    SecretString::from(format!("{OPERATOR_PREFIX}{}", hex::encode(random_secret())))
}

/// What is stored of, and looked up for, a secret.
pub fn hash(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn tokens_differ_and_hash_stably() {
        let token = generate_operator_token();
        assert_ne!(token.expose_secret(), generate_operator_token().expose_secret());
        assert_eq!(token.expose_secret().len(), OPERATOR_PREFIX.len() + 64);
        assert_eq!(hash(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(!format!("{token:?}").contains(token.expose_secret()));
    }
}

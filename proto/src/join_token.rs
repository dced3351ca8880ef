//! The text an operator carries from the controller to a new host.
//!
//! It holds all that a first contact needs: where the controller listens, the
//! hash of its CA key (so that nobody in between can answer in its place), a
//! secret that works once, and the name the host will have. The controller
//! keeps only a hash of the secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;

/// Says what the text is and which layout it has.
const PREFIX: &str = "hf1.";

/// Longest text worth decoding, in bytes.
const MAX_TEXT_LEN: usize = 8192;

/// A text that is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no join token: it must start with `{PREFIX}` and be copied whole")]
pub struct InvalidJoinToken;

/// What a join token says. The secret never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// SHA-256 of the CA's SubjectPublicKeyInfo.
    pub ca_key_sha256: [u8; 32],
    pub secret: [u8; 32],
    pub host_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Layout {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(bytes = "vec", tag = "2")]
    ca_key_sha256: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(string, tag = "4")]
    host_name: String,
}

impl JoinToken {
    /// The one-line text form: letters, digits, `.`, `-` and `_` only.
    pub fn encode(&self) -> String {
        let layout = Layout {
            addresses: self.addresses.clone(),
            ca_key_sha256: self.ca_key_sha256.to_vec(),
            secret: self.secret.to_vec(),
            host_name: self.host_name.clone(),
        };
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(layout.encode_to_vec()))
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(InvalidJoinToken)?;
        if body.len() > MAX_TEXT_LEN {
            return Err(InvalidJoinToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidJoinToken)?;
        let Layout { addresses, ca_key_sha256, secret, host_name } =
            Layout::decode(bytes.as_slice()).map_err(|_| InvalidJoinToken)?;
        if addresses.is_empty() || host_name.is_empty() {
            return Err(InvalidJoinToken);
        }
        Ok(Self {
            addresses,
            ca_key_sha256: ca_key_sha256.try_into().map_err(|_| InvalidJoinToken)?,
            secret: secret.try_into().map_err(|_| InvalidJoinToken)?,
            host_name,
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("addresses", &self.addresses)
            .field("host_name", &self.host_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            addresses: vec!["controller.example:7443".to_owned()],
            ca_key_sha256: [1; 32],
            secret: [2; 32],
            host_name: "web-1".to_owned(),
        }
    }

    #[test]
    fn round_trips_through_its_text() {
        let text = token().encode();
        assert_eq!(format!("{text}\n").parse(), Ok(token()));
    }

    #[test]
    fn anything_else_is_refused() {
        let text = token().encode();
        for wrong in ["", "hf1.", "hf2.abc", &text[..text.len() - 9], &text[4..]] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(InvalidJoinToken), "{wrong}");
        }
    }

    #[test]
    fn debug_keeps_the_secret() {
        assert!(!format!("{:?}", token()).contains("secret"));
    }
}

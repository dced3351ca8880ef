//! `repo.json`: what a repository is.
//!
//! Plain JSON, so that a person with nothing but the bucket can read it. It
//! carries its own checksum: SHA-256 of the whole file with the 64 digits of
//! the checksum written as zeros. `features` names what a reader must know to
//! read the repository at all; one that it does not know is refused by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::RepositoryId;
use crate::keys::ObjectKey;

use crate::recovery::{RECOVERY_FILES, hash, text};

/// The format this program writes, and the only one it reads.
pub const FORMAT: u32 = 1;

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How a repository keeps its content from whoever has the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CryptoMode {
    /// Not at all.
    None,
    /// Frames and snapshot bodies are sealed. Fixed by the format, not built yet.
    Aead,
}

/// How content was cut into frames. Readers need none of this: it is kept so
/// that a later writer can go on cutting alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParameters {
    pub small_file_max_bytes: u64,
    pub group_min_bytes: u64,
    pub group_max_bytes: u64,
    pub chunk_min_bytes: u64,
    pub chunk_mean_bytes: u64,
    pub chunk_max_bytes: u64,
}

impl Default for ChunkerParameters {
    fn default() -> Self {
        Self {
            small_file_max_bytes: 512 << 10,
            group_min_bytes: 768 << 10,
            group_max_bytes: 1536 << 10,
            chunk_min_bytes: 256 << 10,
            chunk_mean_bytes: 1 << 20,
            chunk_max_bytes: 4 << 20,
        }
    }
}

/// The content of `repo.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    pub format: u32,
    /// Features no reader may ignore. None exist yet.
    pub features: Vec<String>,
    pub id: RepositoryId,
    /// The controller that may write and delete.
    pub owner: String,
    pub created_unix_ms: i64,
    pub crypto: CryptoMode,
    pub chunker: ChunkerParameters,
    /// SHA-256 of each file under `RECOVERY/` as it was first written, by its
    /// object's name. No proof of what lies there: see [`super::is_released`].
    pub recovery: BTreeMap<String, String>,
    /// Only while it is text.
    checksum: String,
}

/// A `repo.json` this program cannot go by.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    #[error("repo.json is damaged: {0}")]
    Damaged(String),
    #[error("the repository has format {0} and this program reads format 1: use a newer program")]
    Format(u64),
    #[error("the repository uses {}, which this program does not know: use a newer program", .0.join(", "))]
    Features(Vec<String>),
    #[error(
        "the repository is encrypted (mode `{0}`), and this program has no encryption yet: use a newer program"
    )]
    Crypto(String),
}

impl RepositoryInfo {
    /// A new repository's.
    pub fn new(id: RepositoryId, owner: String, created_unix_ms: i64, crypto: CryptoMode) -> Self {
        Self {
            format: FORMAT,
            features: Vec::new(),
            id,
            owner,
            created_unix_ms,
            crypto,
            chunker: ChunkerParameters::default(),
            recovery: RECOVERY_FILES
                .map(|file| (ObjectKey::Recovery(file).to_string(), hash(text(file))))
                .into(),
            checksum: String::new(),
        }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let zeroed = Self { checksum: ZEROS.to_owned(), ..self.clone() };
        let json = serde_json::to_string_pretty(&zeroed).expect("plain fields always are JSON") + "\n";
        // The last one, as the reader looks for it: the fields before may hold the same text.
        let at = json.rfind(ZEROS).expect("the checksum was just written");
        let mut bytes = json.clone().into_bytes();
        bytes[at..at + ZEROS.len()].copy_from_slice(hash(&json).as_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If it is damaged, or of a kind this program cannot read.
    pub fn decode(bytes: &[u8]) -> Result<Self, InfoError> {
        let damaged = |reason: String| InfoError::Damaged(reason);
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text".into()))?;
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        let checksum = value["checksum"].as_str().ok_or_else(|| damaged("it has no checksum".into()))?;
        let at = text.rfind(checksum).filter(|_| checksum.len() == ZEROS.len());
        let at = at.ok_or_else(|| damaged("its checksum is not one".into()))?;
        let zeroed = [&text[..at], ZEROS, &text[at + ZEROS.len()..]].concat();
        if hash(&zeroed) != checksum {
            return Err(damaged("it does not match its checksum".into()));
        }
        match value["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => return Err(InfoError::Format(format)),
            None => return Err(damaged("it has no format".into())),
        }
        // Looked at before the rest is understood: a repository of a newer program may have fields
        // of another kind.
        let features: Vec<String> = serde_json::from_value(value["features"].clone()).unwrap_or_default();
        if !features.is_empty() {
            return Err(InfoError::Features(features));
        }
        match value["crypto"].as_str() {
            Some("none") => {}
            other => return Err(InfoError::Crypto(other.unwrap_or("unknown").to_owned())),
        }
        let mut info: Self = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        info.checksum.clear();
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RepositoryInfo {
        RepositoryInfo::new(
            RepositoryId::generate(),
            "controller-1".into(),
            1_790_000_000_000,
            CryptoMode::None,
        )
    }

    fn resealed(edit: impl FnOnce(&mut RepositoryInfo)) -> Vec<u8> {
        let mut info = sample();
        edit(&mut info);
        info.encode()
    }

    #[test]
    fn it_is_read_back() {
        let info = sample();
        assert_eq!(RepositoryInfo::decode(&info.encode()), Ok(info));
    }

    #[test]
    fn s06_every_flipped_bit_is_seen() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(RepositoryInfo::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn p22_what_this_program_does_not_know_is_refused_by_name() {
        assert_eq!(RepositoryInfo::decode(&resealed(|info| info.format = 2)), Err(InfoError::Format(2)));
        let features = vec!["paged".to_owned(), "sealed".to_owned()];
        let bytes = resealed(|info| info.features.clone_from(&features));
        assert_eq!(RepositoryInfo::decode(&bytes), Err(InfoError::Features(features)));
        let bytes = resealed(|info| info.crypto = CryptoMode::Aead);
        assert_eq!(RepositoryInfo::decode(&bytes), Err(InfoError::Crypto("aead".into())));
    }
}

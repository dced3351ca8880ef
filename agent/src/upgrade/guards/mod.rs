//! What an upgrade would lose. Each guard looks for one kind of data, or of
//! promise about data, that the new container would not have; what it finds
//! blocks the upgrade until it is allowed by name. Guards change nothing.

pub(crate) mod binds;
pub(crate) mod database;
pub(crate) mod runtime;
pub(crate) mod tmpfs;
mod view;
pub(crate) mod volumes;
pub(crate) mod writable_layer;

/// Data, or a promise about data, that an upgrade would not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What to allow: a kind, for most kinds followed by `:` and a place.
    pub name: String,
    /// For the operator: what it is and what to do about it.
    pub text: String,
}

impl Loss {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Whether one of these words allows it: its name, or the kind before `:`
    /// for all of that kind.
    pub fn is_allowed(&self, words: &[String]) -> bool {
        let kind = self.name.split_once(':').map(|(kind, _)| kind);
        words.iter().any(|word| *word == self.name || Some(word.as_str()) == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_allowed_by_its_name_or_its_kind() {
        let allowed = |name: &str, words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            Loss::new(name, "").is_allowed(&words)
        };
        assert!(allowed("tmpfs:/run", &["tmpfs:/run"]));
        assert!(allowed("tmpfs:/run", &["volume:/data", "tmpfs"]));
        assert!(allowed("writable-layer", &["writable-layer"]));
        for words in [&["tmpfs:/ru"][..], &["tmp"], &["tmpfs:"], &["*"], &[""], &[]] {
            assert!(!allowed("tmpfs:/run", words), "{words:?}");
        }
        assert!(!allowed("unprotected-volume:v", &["volume"]));
    }
}

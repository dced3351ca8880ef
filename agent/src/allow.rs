//! What a host lets its controller do. Decided in the host's own file and
//! checked in the agent, so that a controller in the wrong hands can do no
//! more than was written here.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// One kind of act a host allows or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read volumes and allowed paths into snapshots; pause and stop their users for that.
    Backup,
    /// Write snapshots back; create volumes.
    Restore,
    /// Remove and prune volumes, with their data. Contained in [`Self::Container`].
    Remove,
    /// Run commands inside containers.
    Exec,
    /// Create containers of any kind. Whoever may do that is root on the host.
    Container,
}

/// What a host allows. Clones share it: whoever was given one follows what the
/// host's file says later, see [`Allow::take_over`].
#[derive(Clone)]
pub struct Allow {
    words: Arc<RwLock<Words>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Words {
    rights: Vec<Right>,
    paths: Vec<PathBuf>,
}

/// A word of `allow` that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` cannot be allowed: `backup`, `restore`, `remove`, `exec`, `container` or an absolute path without `..` is expected",
    .0.escape_debug()
)]
pub struct UnknownAllow(String);

/// A host that does not allow something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this host does not allow {what}")]
pub struct NotAllowed {
    what: String,
}

impl Right {
    /// The word in `allow`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Remove => "remove",
            Self::Exec => "exec",
            Self::Container => "container",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Backup, Self::Restore, Self::Remove, Self::Exec, Self::Container]
            .into_iter()
            .find(|right| right.as_str() == word)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

impl Default for Allow {
    /// Backup and restore of volumes, and no path.
    fn default() -> Self {
        Self::new(vec![Right::Backup, Right::Restore], Vec::new())
    }
}

impl fmt::Debug for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Allow").field(&self.words()).finish()
    }
}

impl PartialEq for Allow {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for Allow {}

impl Allow {
    fn new(rights: Vec<Right>, paths: Vec<PathBuf>) -> Self {
        Self { words: Arc::new(RwLock::new(Words { rights, paths })) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Words> {
        // Replaced as a whole: it is sound whoever panicked beside it.
        self.words.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this and all its clones allow what `other` does. An act
    /// that was checked before goes on.
    pub fn take_over(&self, other: &Self) {
        let words = other.read().clone();
        *self.words.write().unwrap_or_else(PoisonError::into_inner) = words;
    }

    /// Reads the words of an `allow` list.
    ///
    /// # Errors
    /// Names the first word that means nothing.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownAllow> {
        let (mut rights, mut paths) = (Vec::new(), Vec::new());
        for word in words {
            if let Some(right) = Right::from_word(word) {
                rights.push(right);
            } else if is_plain_absolute(Path::new(word)) {
                paths.push(PathBuf::from(word));
            } else {
                return Err(UnknownAllow(word.to_owned()));
            }
        }
        rights.sort();
        rights.dedup();
        paths.sort();
        paths.dedup();
        Ok(Self::new(rights, paths))
    }

    /// The words, rights first.
    pub fn words(&self) -> Vec<String> {
        let words = self.read();
        let rights = words.rights.iter().map(|right| right.as_str().to_owned());
        rights.chain(words.paths.iter().map(|path| path.display().to_string())).collect()
    }

    /// Refuses what the host does not allow.
    ///
    /// # Errors
    /// Names the missing right.
    pub fn check(&self, right: Right) -> Result<(), NotAllowed> {
        let words = self.read();
        // Whoever may make containers of any kind can remove volumes through one.
        let contained = right == Right::Remove && words.rights.contains(&Right::Container);
        if contained || words.rights.contains(&right) {
            return Ok(());
        }
        Err(NotAllowed { what: right.to_string() })
    }

    /// Refuses a path that is not one of those allowed or below one. Says
    /// nothing about links in it: whoever opens it follows none.
    ///
    /// # Errors
    /// Names the path.
    pub fn check_path(&self, path: &Path) -> Result<(), NotAllowed> {
        // `..` would leave the allowed path behind the comparison.
        if is_plain_absolute(path) && self.read().paths.iter().any(|allowed| path.starts_with(allowed)) {
            return Ok(());
        }
        Err(NotAllowed { what: format!("the path `{}`", path.display().to_string().escape_debug()) })
    }
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_not_allowed() {
        let allow = Allow::parse(["backup", "/srv/data"]).unwrap();
        assert!(allow.check(Right::Backup).is_ok());
        let error = allow.check(Right::Container).unwrap_err();
        assert_eq!(error.to_string(), "this host does not allow `container`");
        assert_eq!(Allow::parse([]).unwrap().check(Right::Backup).unwrap_err().what, "`backup`");
    }

    #[test]
    fn removing_volumes_is_a_right_of_its_own_and_contained_in_the_one_over_containers() {
        assert!(Allow::default().check(Right::Remove).is_err());
        for word in ["remove", "container"] {
            assert!(Allow::parse([word]).unwrap().check(Right::Remove).is_ok(), "{word}");
        }
        assert!(Allow::parse(["remove"]).unwrap().check(Right::Container).is_err());
    }

    #[test]
    fn paths_are_allowed_with_all_below_them_and_no_further() {
        let allow = Allow::parse(["/srv/data"]).unwrap();
        for path in ["/srv/data", "/srv/data/a/b"] {
            assert!(allow.check_path(Path::new(path)).is_ok(), "{path}");
        }
        for path in ["/srv", "/srv/database", "/srv/data/../secret", "srv/data", "/", ""] {
            assert!(allow.check_path(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn clones_follow_what_the_host_says_later() {
        let allow = Allow::default();
        let given = allow.clone();
        allow.take_over(&Allow::parse(["backup", "/srv"]).unwrap());
        assert_eq!(given.words(), ["backup", "/srv"]);
        assert!(given.check(Right::Restore).is_err() && given.check_path(Path::new("/srv/a")).is_ok());
    }

    #[test]
    fn words_round_trip_and_nonsense_is_named() {
        let words = ["exec", "backup", "/srv", "backup"];
        assert_eq!(Allow::parse(words).unwrap().words(), ["backup", "exec", "/srv"]);
        for word in ["Backup", "srv", "/srv/../etc", ""] {
            assert!(Allow::parse([word]).unwrap_err().to_string().starts_with(&format!("`{word}`")));
        }
    }
}

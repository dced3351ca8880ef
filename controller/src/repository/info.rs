//! `repo.json`: kept in the catalogue as well, and written again when the
//! bucket has lost it.
//!
//! Only on request. A place without `repo.json` is most likely a mount point
//! whose disk is away, and one that says it belongs to another controller may
//! be right: neither is ever overwritten.

use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::repository::{CryptoMode, InfoError, RepositoryInfo};
use holdfast_archive::store::StoreErrorKind;

use super::head::is_ours;
use super::{Repository, RepositoryError};
use crate::catalog::repository::RepositoryRow;
use crate::catalog::snapshots::SnapshotFilter;
use crate::clock::now_ms;

/// Under this name the catalogue keeps what `repo.json` says.
const KEPT: &str = "repo_json";

/// Pages of the store's listing in which something known is looked for.
const LISTED_PAGES: u32 = 20;

/// What writes it again.
pub(super) const REMEDY: &str =
    "with the controller stopped, `holdfast-controller reconcile --write-repo-json` writes it again";

impl Repository {
    /// Notes in the catalogue what a `repo.json` of this controller says.
    pub(super) async fn keep_info(&self, info: &RepositoryInfo) -> Result<(), RepositoryError> {
        let text = String::from_utf8_lossy(&info.encode()).into_owned();
        if self.catalog().setting(KEPT).await?.as_deref() != Some(text.as_str()) {
            self.catalog().set_setting(KEPT, &text).await?;
        }
        Ok(())
    }

    /// Writes `repo.json` again where it is missing or damaged; whether that
    /// was so.
    ///
    /// # Errors
    /// When the file is whole and says something else than this catalogue, the
    /// place holds nothing that this catalogue knows, or the store fails.
    /// Nothing was written then.
    pub async fn write_info_again(&self) -> Result<bool, RepositoryError> {
        let Some(row) = self.catalog().repository().await? else {
            return Err(RepositoryError::Busy(
                "this controller has never reached its repository, and does not know what repo.json said"
                    .to_owned(),
            ));
        };
        if !self.info_is_lost(&row).await? {
            return Ok(false);
        }
        // An empty mount point lacks the file, too: something known has to be there.
        self.refuse_elsewhere().await?;
        let info = self.known_info(&row).await?;
        self.store().put(&ObjectKey::Repository, info.encode().into()).await?;
        tracing::warn!(store = %self.store().location(), "repo.json was written again");
        Ok(true)
    }

    /// Whether `repo.json` is missing or damaged.
    async fn info_is_lost(&self, row: &RepositoryRow) -> Result<bool, RepositoryError> {
        let location = self.store().location();
        let bytes = match self.store().get(&ObjectKey::Repository).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() || error.kind() == StoreErrorKind::Corrupt => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        match RepositoryInfo::decode(&bytes) {
            Ok(info) if is_ours(&info, row) => Ok(false),
            Ok(info) => Err(RepositoryError::Suspended(format!(
                "{location} holds repository {} of controller {}, and this catalogue is of repository {} of \
                 controller {}; repo.json was not written",
                info.id, info.owner, row.repository, row.owner
            ))),
            Err(InfoError::Damaged(_)) => Ok(true),
            Err(error) => Err(RepositoryError::Invalid(format!("{location}: {error}"))),
        }
    }

    /// Refuses a place in which nothing lies that this catalogue knows.
    async fn refuse_elsewhere(&self) -> Result<(), RepositoryError> {
        let states = crate::model::protocol::SnapshotState::ALL.to_vec();
        let snapshots = self.list(&SnapshotFilter { states, ..SnapshotFilter::default() }).await?;
        // One that is there is enough. Where none of these is, the listing decides.
        for snapshot in snapshots.iter().take(100) {
            if self.store().head(&ObjectKey::Snapshot(snapshot.id)).await?.is_some() {
                return Ok(());
            }
        }
        let mut after = None;
        for _ in 0..LISTED_PAGES {
            let page = self.store().list(Prefix::All, after.as_deref()).await?;
            for item in page.items {
                let known = match item.key {
                    Some(ObjectKey::Pack(pack)) => self.catalog().pack(&pack).await?.is_some(),
                    // What init leaves; a catalogue without snapshots knows of nothing else.
                    Some(ObjectKey::Recovery(_)) => snapshots.is_empty(),
                    _ => false,
                };
                if known {
                    return Ok(());
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Err(RepositoryError::Damaged(format!(
            "{} holds nothing that this catalogue knows: is the disk mounted? nothing was written",
            self.store().location()
        )))
    }

    /// What `repo.json` said, or what it has to say for all that the
    /// catalogue knows.
    async fn known_info(&self, row: &RepositoryRow) -> Result<RepositoryInfo, RepositoryError> {
        let kept = self.catalog().setting(KEPT).await?;
        let kept = kept.and_then(|text| RepositoryInfo::decode(text.as_bytes()).ok());
        if let Some(mut kept) = kept.filter(|kept| kept.id == row.repository) {
            // The owner may have changed since the text was kept; the row has the present one.
            kept.owner.clone_from(&row.owner);
            return Ok(kept);
        }
        let snapshots = self.list(&SnapshotFilter::default()).await?;
        // Of all that is known, the oldest snapshot is nearest to the time of creation.
        let created_ms = snapshots.iter().map(|snapshot| snapshot.created_ms).min().unwrap_or_else(now_ms);
        Ok(RepositoryInfo::new(row.repository, row.owner.clone(), created_ms, CryptoMode::None))
    }
}

//! Prunes.

use holdfast_proto::v1;

use crate::model::job::prune::PruneReport;

to_message!(PruneReport {
    packs_deleted,
    bytes_deleted,
    packs_kept,
    bytes_kept,
    snapshots_purged,
    packs_condemned,
    packs_revived,
    notes,
});

//! Packs, from the intent that precedes the object to the row that outlives
//! it. Decisions are `repository::protocol`'s; each is applied inside the
//! transaction that loaded its facts.

use std::collections::{BTreeSet, HashMap};

use holdfast_archive::ids::{HostId, PackId};
use holdfast_archive::pack_io::PackEntry;
use roaring::RoaringTreemap;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _};

use super::frames::{FoundFrame, conditions, find_frames, make_host_number, pack_state};
use super::repository::{id, next_commit_number, next_frames, next_pack, signed, unsigned};
use super::{Catalog, CatalogError};
use crate::model::protocol::{PackCommit, PackFacts, PackState, Protocol, Verdict};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    pub number: u64,
    pub id: PackId,
    pub host: HostId,
    /// Number of its lease; 0 for one found in the bucket.
    pub lease: u64,
    pub state: PackState,
    /// Bytes.
    pub length: u64,
    /// Number of the newest lease when it was condemned.
    pub condemned_lease: Option<u64>,
}

/// Leases, by number, that hold something back.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Their committed packs stay.
    pub packs: BTreeSet<u64>,
    /// Their intents stay.
    pub intents: BTreeSet<u64>,
}

/// What one decision came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decided {
    pub revived: u64,
    pub doomed: u64,
}

impl Catalog {
    /// Writes the intent of a pack, and gives the id under which it is to be
    /// sent; none where the lease has too many open. Content that the lease has
    /// announced before and not committed keeps its id: it is sent again over a
    /// line that broke, the bytes under that name can only be the same, and
    /// nothing deletes them while the lease is open.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn intend_pack(
        &self,
        pack: &PackId,
        host: HostId,
        lease: u64,
        length: u64,
        most_open: u64,
    ) -> Result<Option<PackId>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let rows = sqlx::query("select * from packs where lease = $1 and state = 'intended'")
            .bind(signed(lease))
            .fetch_all(&mut *tx)
            .await?;
        let open: Vec<PackRecord> = rows.iter().map(read).collect::<Result<_, _>>()?;
        let same = |row: &&PackRecord| (row.id.sha256, row.length, row.host) == (pack.sha256, length, host);
        // Asked again after a lost answer: the same intent, or every repetition would
        // leave a pack that nobody sends.
        if let Some(before) = open.iter().find(same) {
            return Ok(Some(before.id));
        }
        if open.len() as u64 >= most_open {
            return Ok(None);
        }
        let number = next_pack(&mut tx).await?;
        insert_pack(&mut tx, number, pack, host, lease, PackState::Intended, length).await?;
        tx.commit().await?;
        Ok(Some(*pack))
    }

    /// The pack with that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn pack(&self, id: &PackId) -> Result<Option<PackRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        pack(&mut connection, id).await
    }

    /// Makes an intended pack live and its frames visible.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn commit_pack(
        &self,
        id: &PackId,
        table: &[PackEntry],
        object_seen: bool,
    ) -> Result<PackCommit, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let row = pack(&mut tx, id).await?;
        let outcome = Protocol::WHOLE.pack_commit(row.as_ref().map(|row| row.state), object_seen);
        let (PackCommit::Accept, Some(row)) = (outcome, row) else { return Ok(outcome) };
        // Both in one transaction: a frame that others are told of lies in a pack that
        // a collection already sees as live.
        add_frames(&mut tx, row.host, row.number, table).await?;
        make_live(&mut tx, row.number).await?;
        tx.commit().await?;
        Ok(outcome)
    }

    /// Makes an intended pack live that holds these frames of pack `old` once
    /// more, and points their rows at it. A row that points elsewhere by now
    /// stays as it is.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn move_frames(
        &self,
        new: &PackId,
        old: u64,
        frames: &[FoundFrame],
        table: &[PackEntry],
        object_seen: bool,
    ) -> Result<PackCommit, CatalogError> {
        let entries: HashMap<_, _> = table.iter().map(|entry| (entry.id, entry)).collect();
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let row = pack(&mut tx, new).await?;
        let outcome = Protocol::WHOLE.pack_commit(row.as_ref().map(|row| row.state), object_seen);
        let (PackCommit::Accept, Some(row)) = (outcome, row) else { return Ok(outcome) };
        for frame in frames {
            let Some(entry) = entries.get(&frame.location.entry.id) else { continue };
            sqlx::query(
                "update frames set pack = $2, pack_offset = $3, damaged = 0 where number = $1 and pack = $4",
            )
            .bind(signed(frame.number))
            .bind(signed(row.number))
            .bind(signed(entry.offset))
            .bind(signed(old))
            .execute(&mut *tx)
            .await?;
        }
        make_live(&mut tx, row.number).await?;
        tx.commit().await?;
        Ok(outcome)
    }

    /// A page of packs in that state, by number.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn packs_in(
        &self,
        state: PackState,
        after: u64,
        limit: u32,
    ) -> Result<Vec<PackRecord>, CatalogError> {
        let rows =
            sqlx::query("select * from packs where state = $1 and number > $2 order by number limit $3")
                .bind(state.as_str())
                .bind(signed(after))
                .bind(limit)
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(read).collect()
    }

    /// Frame numbers that lie in each of these packs.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn frames_in(
        &self,
        packs: &RoaringTreemap,
    ) -> Result<HashMap<u64, RoaringTreemap>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        frames_in(&mut connection, packs).await
    }

    /// Condemns those of the packs that are live; gives how many were.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn condemn(&self, packs: &RoaringTreemap) -> Result<u64, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let mut condemned = 0;
        for condition in conditions("number", packs) {
            let done = sqlx::query(AssertSqlSafe(format!(
                // The newest lease that may have been told of the pack's frames: the
                // decision waits for those up to it.
                "update packs set state = 'condemned',
                     condemned_lease = (select next_lease - 1 from repository)
                 where state = 'live' and {condition}"
            )))
            .execute(&mut *tx)
            .await?;
            condemned += done.rows_affected();
        }
        tx.commit().await?;
        Ok(condemned)
    }

    /// The deciding transaction of a round, over packs that were surveyed.
    /// `used` are those the survey found in use.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn decide(
        &self,
        packs: &RoaringTreemap,
        used: &RoaringTreemap,
        held: &Held,
    ) -> Result<Decided, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // The survey was read before: what has changed since decides. A commit that came in
        // between has made its packs live again, and `second_mark` leaves these.
        let mut decided = Decided::default();
        for condition in conditions("number", packs) {
            let rows = sqlx::query(AssertSqlSafe(format!("select * from packs where {condition}")))
                .fetch_all(&mut *tx)
                .await?;
            for row in &rows {
                let row = read(row)?;
                let holders = if row.state == PackState::Intended { &held.intents } else { &held.packs };
                let facts = PackFacts {
                    state: row.state,
                    used: used.contains(row.number),
                    held: holders.contains(&row.lease),
                };
                let state = match Protocol::WHOLE.second_mark(facts) {
                    Verdict::Revive => PackState::Live,
                    Verdict::Delete => PackState::Deleting,
                    Verdict::Leave => continue,
                };
                decided.revived += u64::from(state == PackState::Live);
                decided.doomed += u64::from(state == PackState::Deleting);
                set_decided(&mut tx, row.number, state).await?;
            }
        }
        // A catalogue put back from before this knows packs that are about to go: it is
        // told by the number.
        if decided.doomed > 0 {
            next_commit_number(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(decided)
    }

    /// Removes rows of packs whose objects are gone, with the frames that
    /// still point at them.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_packs(&self, packs: &RoaringTreemap) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for condition in conditions("number", packs) {
            let gone = format!("select number from packs where state = 'deleting' and {condition}");
            let frames = format!("select number from frames where pack in ({gone})");
            // From the leaves up: each statement finds its rows by those after it.
            for statement in [
                format!("delete from page_refs where frame in ({frames})"),
                format!("delete from frames where pack in ({gone})"),
                format!("delete from packs where state = 'deleting' and {condition}"),
            ] {
                sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Which of these packs have a row.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn known_packs(&self, packs: &[PackId]) -> Result<Vec<bool>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        let mut known = Vec::with_capacity(packs.len());
        for id in packs {
            let row: Option<i64> = sqlx::query_scalar("select number from packs where id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *connection)
                .await?;
            known.push(row.is_some());
        }
        Ok(known)
    }

    /// Where the search for objects without a row goes on.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn orphan_cursor(&self) -> Result<String, CatalogError> {
        Ok(sqlx::query_scalar("select orphan_cursor from repository").fetch_one(self.pool()).await?)
    }

    /// Notes objects that no row accounts for, and how far the search came.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn note_orphans(&self, names: &[String], cursor: &str) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for name in names {
            sqlx::query(
                // One that is known keeps the tick it was first seen at: its time runs on.
                "insert into orphans (name, seen_tick) values ($1, (select ticks from repository))
                 on conflict do nothing",
            )
            .bind(name)
            .execute(&mut *tx)
            .await?;
        }
        // With the names: a search that was cut off in between looks at them again.
        sqlx::query("update repository set orphan_cursor = $1").bind(cursor).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Orphans that have been known since before that tick.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn ripe_orphans(&self, seen_until_tick: u64, limit: u32) -> Result<Vec<String>, CatalogError> {
        Ok(sqlx::query_scalar(
            "select name from orphans where seen_tick <= $1 order by seen_tick, name limit $2",
        )
        .bind(signed(seen_until_tick))
        .bind(limit)
        .fetch_all(self.pool())
        .await?)
    }

    /// Forgets objects that no row accounted for.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_orphans(&self, names: &[String]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for name in names {
            sqlx::query("delete from orphans where name = $1").bind(name).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

pub(super) async fn frames_in(
    connection: &mut SqliteConnection,
    packs: &RoaringTreemap,
) -> Result<HashMap<u64, RoaringTreemap>, CatalogError> {
    let mut frames: HashMap<u64, RoaringTreemap> = HashMap::new();
    for condition in conditions("pack", packs) {
        let rows = sqlx::query(AssertSqlSafe(format!("select pack, number from frames where {condition}")))
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            let pack = unsigned(row.try_get("pack")?);
            frames.entry(pack).or_default().insert(unsigned(row.try_get("number")?));
        }
    }
    Ok(frames)
}

pub(super) async fn pack(
    connection: &mut SqliteConnection,
    id: &PackId,
) -> Result<Option<PackRecord>, CatalogError> {
    let row = sqlx::query("select * from packs where id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Of an intended pack whose object was seen.
async fn make_live(tx: &mut SqliteConnection, pack: u64) -> Result<(), CatalogError> {
    sqlx::query("update packs set state = 'live', suspect = 0 where number = $1")
        .bind(signed(pack))
        .execute(tx)
        .await?;
    Ok(())
}

/// Either way the pack waits for no lease any more.
async fn set_decided(tx: &mut SqliteConnection, pack: u64, state: PackState) -> Result<(), CatalogError> {
    sqlx::query("update packs set state = $2, condemned_lease = null where number = $1")
        .bind(signed(pack))
        .bind(state.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn insert_pack(
    tx: &mut SqliteConnection,
    number: u64,
    pack: &PackId,
    host: HostId,
    lease: u64,
    state: PackState,
    length: u64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "insert into packs (number, id, host_id, lease, state, length) values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(signed(number))
    .bind(pack.to_string())
    .bind(host.to_string())
    .bind(signed(lease))
    .bind(state.as_str())
    .bind(signed(length))
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives the frames of a pack rows, or points the rows they have at it where
/// the place they point at is not to be built upon.
pub(super) async fn add_frames(
    tx: &mut SqliteConnection,
    host: HostId,
    pack: u64,
    table: &[PackEntry],
) -> Result<(), CatalogError> {
    let ids: Vec<_> = table.iter().map(|entry| entry.id).collect();
    let known = find_frames(tx, host, &ids).await?;
    let mut new = Vec::new();
    for (entry, known) in table.iter().zip(known) {
        match known {
            None => new.push(entry),
            // A frame that was found damaged in this very pack stays marked.
            Some(frame) if Protocol::WHOLE.takes_over(Some(frame.fact)) => {
                sqlx::query(
                    "update frames set pack = $2, kind = $3, key_epoch = $4, pack_offset = $5,
                         stored_bytes = $6, raw_bytes = $7, damaged = 0
                     where number = $1 and not (pack = $2 and damaged = 1)",
                )
                .bind(signed(frame.number))
                .bind(signed(pack))
                .bind(entry.kind as i64)
                .bind(i64::from(entry.key_epoch))
                .bind(signed(entry.offset))
                .bind(i64::from(entry.stored_len))
                .bind(i64::from(entry.raw_len))
                .execute(&mut *tx)
                .await?;
            }
            Some(_) => {}
        }
    }
    let host = signed(make_host_number(tx, host).await?);
    let first = next_frames(tx, new.len() as u64).await?;
    let numbered: Vec<(u64, &PackEntry)> = (first..).zip(new).collect();
    for part in numbered.chunks(256) {
        let mut insert = QueryBuilder::new(
            "insert into frames (number, host, id, pack, kind, key_epoch, pack_offset, stored_bytes, raw_bytes) ",
        );
        insert.push_values(part, |mut row, (number, entry)| {
            row.push_bind(signed(*number))
                .push_bind(host)
                .push_bind(entry.id.as_bytes().to_vec())
                .push_bind(signed(pack))
                .push_bind(entry.kind as i64)
                .push_bind(i64::from(entry.key_epoch))
                .push_bind(signed(entry.offset))
                .push_bind(i64::from(entry.stored_len))
                .push_bind(i64::from(entry.raw_len));
        });
        // A row may be there that points at a pack without one.
        insert.push(
            " on conflict (host, id) do update set pack = excluded.pack, kind = excluded.kind,
                key_epoch = excluded.key_epoch, pack_offset = excluded.pack_offset,
                stored_bytes = excluded.stored_bytes, raw_bytes = excluded.raw_bytes, damaged = 0",
        );
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) fn read(row: &SqliteRow) -> Result<PackRecord, CatalogError> {
    Ok(PackRecord {
        number: unsigned(row.try_get("number")?),
        id: id(row.try_get("id")?, "pack id")?,
        host: id(row.try_get("host_id")?, "host id")?,
        lease: unsigned(row.try_get("lease")?),
        state: pack_state(row.try_get("state")?)?,
        length: unsigned(row.try_get("length")?),
        condemned_lease: row.try_get::<Option<i64>, _>("condemned_lease")?.map(unsigned),
    })
}

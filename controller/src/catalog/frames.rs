//! Frames: which a host has, where each lies, and what pages refer to.
//!
//! Lists of ids go in as one blob that SQLite takes apart itself: one
//! statement, prepared once, whatever the length of the list. Numbers are
//! ours, so they are written into the statement where there are many.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use holdfast_archive::ids::{FrameId, HostId, PackId};
use holdfast_archive::pack_io::{FrameKind, FrameLocation, PackEntry};
use roaring::RoaringTreemap;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::repository::{bitmap, bitmap_bytes, id, signed, unsigned};
use super::{Catalog, CatalogError};
use crate::model::protocol::{FrameFact, PackState, Protocol};

/// A frame's row and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFrame {
    pub number: u64,
    pub fact: FrameFact,
    pub location: FrameLocation,
}

/// What one manifest page refers to, as frame numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PageRefRow {
    pub pages: RoaringTreemap,
    pub data: RoaringTreemap,
}

/// Some of the frames that were found unreadable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DamagedPage {
    pub frames: Vec<FrameId>,
    /// The frame number of the first that is not in it; `None`: it has the last.
    pub next: Option<u64>,
}

/// At most this many numbers in one statement.
const NUMBERS: usize = 1000;
/// A run of at least so many neighbours is asked for as a range.
const RUN: u64 = 64;

/// What is asked of a host's frames by their ids, `$2` of them one after the
/// other in `$3`. The cross join keeps the order of the tables: left to
/// itself, SQLite 3.51 walks all frames of the host and, for each, all ids.
macro_rules! of_wanted {
    ($columns:literal) => {
        concat!(
            "with recursive wanted (at) as (select 0 union all select at + 1 from wanted where at + 1 < $2) select ",
            $columns,
            " from wanted cross join frames f join packs p on p.number = f.pack
              where f.host = $1 and f.id = substr($3, wanted.at * 32 + 1, 32)"
        )
    };
}

const HAVE: &str = of_wanted!(
    "wanted.at * 16 + p.suspect * 8 + f.damaged * 4 + case p.state
        when 'intended' then 0 when 'live' then 1 when 'condemned' then 2 else 3 end"
);
const NUMBER: &str =
    "with recursive wanted (at) as (select 0 union all select at + 1 from wanted where at + 1 < $2)
     select wanted.at, f.number from wanted cross join frames f
     where f.host = $1 and f.id = substr($3, wanted.at * 32 + 1, 32)";
const FIND: &str = of_wanted!("wanted.at, f.*, p.id as pack_id, p.state, p.suspect");

impl Catalog {
    /// Which of these frames of the host need not be sent again.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn have(&self, host: HostId, frames: &[FrameId]) -> Result<Vec<bool>, CatalogError> {
        let mut have = vec![false; frames.len()];
        if frames.is_empty() {
            return Ok(have);
        }
        let mut connection = self.pool().acquire().await?;
        let Some(host) = host_number(&mut connection, host).await? else { return Ok(have) };
        let packed: Vec<i64> = sqlx::query_scalar(HAVE)
            .bind(signed(host))
            .bind(signed(frames.len() as u64))
            .bind(joined(frames))
            .fetch_all(&mut *connection)
            .await?;
        for packed in packed.into_iter().map(unsigned) {
            // As `HAVE` packs it: the place in the question, two flags, the state.
            let pack = match packed & 3 {
                0 => PackState::Intended,
                1 => PackState::Live,
                2 => PackState::Condemned,
                _ => PackState::Deleting,
            };
            let fact = FrameFact { pack, damaged: packed & 4 != 0, suspect: packed & 8 != 0 };
            have[(packed >> 4) as usize] = Protocol::WHOLE.offers(fact);
        }
        Ok(have)
    }

    /// The rows of these frames of the host, in their order.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn find_frames(
        &self,
        host: HostId,
        frames: &[FrameId],
    ) -> Result<Vec<Option<FoundFrame>>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        find_frames(&mut connection, host, frames).await
    }

    /// The numbers of these frames of the host, in their order, also of those
    /// that lie nowhere.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn frame_numbers(
        &self,
        host: HostId,
        frames: &[FrameId],
    ) -> Result<Vec<Option<u64>>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        // `None` for all, where the host has sent nothing yet.
        let mut numbers = vec![None; frames.len()];
        let Some(host) = host_number(&mut connection, host).await? else { return Ok(numbers) };
        for (part, ids) in frames.chunks(4096).enumerate() {
            let rows: Vec<(i64, i64)> = sqlx::query_as(NUMBER)
                .bind(signed(host))
                .bind(signed(ids.len() as u64))
                .bind(joined(ids))
                .fetch_all(&mut *connection)
                .await?;
            for (at, number) in rows {
                numbers[part * 4096 + unsigned(at) as usize] = Some(unsigned(number));
            }
        }
        Ok(numbers)
    }

    /// The rows of frames with these numbers, in no order.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn frames_by_number(&self, numbers: &RoaringTreemap) -> Result<Vec<FoundFrame>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        let mut found = Vec::new();
        for condition in conditions("f.number", numbers) {
            let rows = sqlx::query(AssertSqlSafe(format!("{FOUND} where {condition}")))
                .fetch_all(&mut *connection)
                .await?;
            for row in &rows {
                found.push(read_found(row)?);
            }
        }
        Ok(found)
    }

    /// Rows of frames that lie in that pack.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn frames_of_pack(&self, pack: &PackId) -> Result<Vec<FoundFrame>, CatalogError> {
        let rows = sqlx::query(AssertSqlSafe(format!("{FOUND} where p.id = $1")))
            .bind(pack.to_string())
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read_found).collect()
    }

    /// What is known of these pages' references.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn page_refs(&self, pages: &RoaringTreemap) -> Result<HashMap<u64, PageRefRow>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        let mut known = HashMap::new();
        for condition in conditions("frame", pages) {
            let rows = sqlx::query(AssertSqlSafe(format!(
                "select frame, pages, data from page_refs where {condition}"
            )))
            .fetch_all(&mut *connection)
            .await?;
            for row in rows {
                let refs =
                    PageRefRow { pages: bitmap(row.try_get("pages")?)?, data: bitmap(row.try_get("data")?)? };
                known.insert(unsigned(row.try_get("frame")?), refs);
            }
        }
        Ok(known)
    }

    /// Keeps what these pages refer to.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn put_page_refs(&self, pages: &[(u64, PageRefRow)]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for (frame, refs) in pages {
            sqlx::query(
                "insert into page_refs (frame, pages, data) values ($1, $2, $3)
                 on conflict (frame) do update set pages = excluded.pages, data = excluded.data",
            )
            .bind(signed(*frame))
            .bind(bitmap_bytes(&refs.pages))
            .bind(bitmap_bytes(&refs.data))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Forgets what was known of these pages' references.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_page_refs(&self, pages: &RoaringTreemap) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for condition in conditions("frame", pages) {
            sqlx::query(AssertSqlSafe(format!("delete from page_refs where {condition}")))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Marks frames as unreadable: they are not offered, and who refers to one
    /// has to send it again. Gives how many were there.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn mark_damaged(&self, numbers: &RoaringTreemap) -> Result<u64, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let mut marked = 0;
        for condition in conditions("number", numbers) {
            let statement = format!("update frames set damaged = 1 where {condition}");
            marked += sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?.rows_affected();
        }
        tx.commit().await?;
        Ok(marked)
    }

    /// How many frames of each host were found unreadable and have not been
    /// sent again.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn damaged_by_host(&self) -> Result<HashMap<HostId, u64>, CatalogError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select h.host_id, count(*) from frames f join frame_hosts h on h.number = f.host
             where f.damaged = 1 group by h.host_id",
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(|(host, count)| Ok((id(host, "host id")?, unsigned(count)))).collect()
    }

    /// Frames of the host that were found unreadable, among these numbers: at
    /// most `limit` of them, from the number `from` on.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn damaged_frames(
        &self,
        host: HostId,
        among: &RoaringTreemap,
        from: u64,
        limit: usize,
    ) -> Result<DamagedPage, CatalogError> {
        let mut page = DamagedPage::default();
        let mut connection = self.pool().acquire().await?;
        let Some(host) = host_number(&mut connection, host).await? else { return Ok(page) };
        let mut rows = sqlx::query(
            "select number, id from frames where damaged = 1 and host = $1 and number >= $2 order by number",
        )
        .bind(signed(host))
        .bind(signed(from))
        .fetch(&mut *connection);
        // Streamed: of many damaged frames only one page is read.
        while let Some(row) = rows.try_next().await? {
            let number = unsigned(row.try_get("number")?);
            if !among.contains(number) {
                continue;
            }
            // One more than fits: only so is it known that there is a next page.
            if page.frames.len() == limit {
                page.next = Some(number);
                break;
            }
            page.frames.push(frame_id(row.try_get("id")?)?);
        }
        Ok(page)
    }
}

/// How many of these numbers have which facts; what no fact counts is gone.
pub(super) async fn frame_facts(
    connection: &mut SqliteConnection,
    numbers: &RoaringTreemap,
) -> Result<Vec<(FrameFact, u64)>, CatalogError> {
    let mut facts: Vec<(FrameFact, u64)> = Vec::new();
    for condition in conditions("f.number", numbers) {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "select p.state, p.suspect, f.damaged, count(*) as frames
             from frames f join packs p on p.number = f.pack where {condition} group by 1, 2, 3"
        )))
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            let (fact, count) = (read_fact(row)?, unsigned(row.try_get("frames")?));
            match facts.iter_mut().find(|(known, _)| *known == fact) {
                Some((_, sum)) => *sum += count,
                None => facts.push((fact, count)),
            }
        }
    }
    Ok(facts)
}

/// Numbers and facts, one by one, with the id and the pack's number.
pub(super) async fn frame_details(
    connection: &mut SqliteConnection,
    numbers: &RoaringTreemap,
) -> Result<Vec<(u64, FrameId, u64, FrameFact)>, CatalogError> {
    let mut details = Vec::new();
    for condition in conditions("f.number", numbers) {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "select f.number, f.id, f.pack, p.state, p.suspect, f.damaged
             from frames f join packs p on p.number = f.pack where {condition}"
        )))
        .fetch_all(&mut *connection)
        .await?;
        for row in &rows {
            let number = unsigned(row.try_get("number")?);
            let pack = unsigned(row.try_get("pack")?);
            details.push((number, frame_id(row.try_get("id")?)?, pack, read_fact(row)?));
        }
    }
    Ok(details)
}

pub(super) async fn find_frames(
    connection: &mut SqliteConnection,
    host: HostId,
    frames: &[FrameId],
) -> Result<Vec<Option<FoundFrame>>, CatalogError> {
    let mut found = vec![None; frames.len()];
    let Some(host) = host_number(connection, host).await? else { return Ok(found) };
    for (part, ids) in frames.chunks(4096).enumerate() {
        let rows = sqlx::query(FIND)
            .bind(signed(host))
            .bind(signed(ids.len() as u64))
            .bind(joined(ids))
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let at = unsigned(row.try_get("at")?) as usize;
            found[part * 4096 + at] = Some(read_found(row)?);
        }
    }
    Ok(found)
}

pub(super) async fn host_number(
    connection: &mut SqliteConnection,
    host: HostId,
) -> Result<Option<u64>, CatalogError> {
    let number: Option<i64> = sqlx::query_scalar("select number from frame_hosts where host_id = $1")
        .bind(host.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(number.map(unsigned))
}

pub(super) async fn make_host_number(
    connection: &mut SqliteConnection,
    host: HostId,
) -> Result<u64, CatalogError> {
    if let Some(number) = host_number(connection, host).await? {
        return Ok(number);
    }
    let number: i64 = sqlx::query_scalar("insert into frame_hosts (host_id) values ($1) returning number")
        .bind(host.to_string())
        .fetch_one(connection)
        .await?;
    Ok(unsigned(number))
}

const FOUND: &str = "select f.*, p.id as pack_id, p.state, p.suspect
    from frames f join packs p on p.number = f.pack";

fn read_found(row: &SqliteRow) -> Result<FoundFrame, CatalogError> {
    let kind = match row.try_get::<i64, _>("kind")? {
        1 => FrameKind::Data,
        2 => FrameKind::Page,
        other => return Err(CatalogError::Unreadable { what: "kind of frame", value: other.to_string() }),
    };
    let small = |name: &'static str| -> Result<u32, CatalogError> {
        let value: i64 = row.try_get(name)?;
        u32::try_from(value).map_err(|_| CatalogError::Unreadable { what: name, value: value.to_string() })
    };
    Ok(FoundFrame {
        number: unsigned(row.try_get("number")?),
        fact: read_fact(row)?,
        location: FrameLocation {
            pack: id(row.try_get("pack_id")?, "pack id")?,
            entry: PackEntry {
                id: frame_id(row.try_get("id")?)?,
                kind,
                key_epoch: small("key_epoch")?,
                offset: unsigned(row.try_get("pack_offset")?),
                stored_len: small("stored_bytes")?,
                raw_len: small("raw_bytes")?,
            },
        },
    })
}

fn read_fact(row: &SqliteRow) -> Result<FrameFact, CatalogError> {
    Ok(FrameFact {
        pack: pack_state(row.try_get("state")?)?,
        suspect: row.try_get("suspect")?,
        damaged: row.try_get("damaged")?,
    })
}

pub(super) fn pack_state(text: String) -> Result<PackState, CatalogError> {
    PackState::parse(&text).ok_or(CatalogError::Unreadable { what: "state of a pack", value: text })
}

fn frame_id(bytes: &[u8]) -> Result<FrameId, CatalogError> {
    FrameId::from_slice(bytes)
        .ok_or_else(|| CatalogError::Unreadable { what: "frame id", value: format!("{bytes:?}") })
}

fn joined(frames: &[FrameId]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.as_bytes()).copied().collect()
}

/// SQL conditions that together select exactly these numbers, each at most
/// once.
pub(super) fn conditions(column: &str, numbers: &RoaringTreemap) -> Vec<String> {
    let mut conditions = Vec::new();
    let mut singles: Vec<u64> = Vec::new();
    let flush = |singles: &mut Vec<u64>, conditions: &mut Vec<String>| {
        if !singles.is_empty() {
            let list = singles.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            conditions.push(format!("{column} in ({list})"));
            singles.clear();
        }
    };
    let mut run: Option<(u64, u64)> = None;
    let end_run = |(first, last): (u64, u64), singles: &mut Vec<u64>, conditions: &mut Vec<String>| {
        // A run is two numbers, however long it is; single ones fill the statement.
        if last - first + 1 >= RUN {
            conditions.push(format!("{column} between {first} and {last}"));
            return;
        }
        for number in first..=last {
            singles.push(number);
            if singles.len() == NUMBERS {
                flush(singles, conditions);
            }
        }
    };
    for number in numbers {
        run = match run {
            Some((first, last)) if last + 1 == number => Some((first, number)),
            Some(whole) => {
                end_run(whole, &mut singles, &mut conditions);
                Some((number, number))
            }
            None => Some((number, number)),
        };
    }
    if let Some(whole) = run {
        end_run(whole, &mut singles, &mut conditions);
    }
    flush(&mut singles, &mut conditions);
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_select_each_number_once() {
        let numbers: RoaringTreemap = (5..100).chain([200, 202]).chain(1000..1003).collect();
        assert_eq!(
            conditions("n", &numbers),
            ["n between 5 and 99", "n in (200,202,1000,1001,1002)"].map(str::to_owned)
        );
        let scattered: RoaringTreemap = (0..2500).map(|n| n * 2).collect();
        assert_eq!(conditions("n", &scattered).len(), 3);
        assert!(conditions("n", &RoaringTreemap::new()).is_empty());
    }

    /// Otherwise the time for a question grows with all a host has ever sent.
    #[tokio::test]
    async fn frames_are_looked_up_by_their_ids() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        for question in [HAVE, NUMBER, FIND] {
            let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {question}")))
                .bind(1)
                .bind(4096)
                .bind(vec![0; 4096 * 32])
                .fetch_all(catalog.pool())
                .await
                .expect("explained");
            let steps: Vec<String> = plan.iter().map(|row| row.try_get("detail").expect("text")).collect();
            assert!(steps.iter().any(|step| step.contains("(host=? AND id=?)")), "{steps:#?}");
        }
    }
}

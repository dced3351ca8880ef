//! What an operator calls a snapshot: an id, or `[host/]source[@when]`.
//!
//! `when` is `latest`, `yesterday`, `#<number>`, a date, or a date and time;
//! the last three of these in UTC unless a zone follows (`2026-11-22 02:00
//! Europe/Berlin`). A date means the newest snapshot of that day; a time, the
//! newest that is not after it. Names of directories hold slashes, so what is
//! host and what is source is found by looking, not by cutting.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use holdfast_archive::ids::SnapshotId;
use holdfast_archive::text;

use super::{Repository, RepositoryError};
use crate::catalog::Catalog;
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::clock::now_ms;
use crate::model::protocol::SnapshotState;

/// Names offered where none fits.
const NEAREST: usize = 3;

/// Which of a source's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Latest,
    Number(u64),
    /// Created in this span of milliseconds, the newest.
    Between(i64, i64),
}

impl Repository {
    /// The snapshot a reference means.
    ///
    /// # Errors
    /// Where none or several sources fit; each names what there is.
    pub async fn resolve(&self, text: &str) -> Result<SnapshotRecord, RepositoryError> {
        find(self.catalog(), text).await
    }
}

/// [`Repository::resolve`], where there is no more than a catalogue.
///
/// # Errors
/// As there.
pub(crate) async fn find(catalog: &Catalog, text: &str) -> Result<SnapshotRecord, RepositoryError> {
    if let Ok(id) = text.parse::<SnapshotId>() {
        return catalog.snapshot(&id).await?.ok_or_else(|| RepositoryError::no_snapshot(&id));
    }
    let states = vec![SnapshotState::Committed, SnapshotState::Forgotten];
    let filter = SnapshotFilter { states, ..SnapshotFilter::default() };
    let all = catalog.snapshots(&filter).await?;
    resolve(text, &all, now_ms()).cloned()
}

/// [`Repository::resolve`] over a list, newest first.
fn resolve<'a>(
    text: &str,
    all: &'a [SnapshotRecord],
    now_ms: i64,
) -> Result<&'a SnapshotRecord, RepositoryError> {
    // The whole text may be a name: directories may hold an @.
    let mut readings = vec![(text, When::Latest)];
    let mut unread = None;
    for (at, _) in text.match_indices('@') {
        match parse_when(&text[at + 1..], now_ms) {
            Some(when) => readings.push((&text[..at], when)),
            None => unread = Some(&text[at + 1..]),
        }
    }
    for (name, when) in &readings {
        let of_name: Vec<&SnapshotRecord> = all.iter().filter(|record| is_called(record, name)).collect();
        if of_name.is_empty() {
            continue;
        }
        let mut sources: Vec<&SnapshotRecord> = Vec::new();
        for record in &of_name {
            if !sources.iter().any(|known| same_source(known, record)) {
                sources.push(record);
            }
        }
        if sources.len() > 1 {
            let candidates: Vec<String> = sources.iter().map(|record| full_name(record)).collect();
            return Err(RepositoryError::Ambiguous {
                message: format!("`{name}` is {} sources: {}", candidates.len(), candidates.join(", ")),
                candidates,
            });
        }
        return pick(&of_name, *when).ok_or_else(|| RepositoryError::NotFound {
            message: format!("{} has no snapshot for `{text}`{}", full_name(of_name[0]), forgotten(&of_name)),
            nearest: of_name
                .iter()
                .filter(|record| record.state == SnapshotState::Committed)
                .take(NEAREST)
                .map(|record| format!("{}@#{}", full_name(record), record.id.number))
                .collect(),
        });
    }
    Err(unknown(text, unread, all))
}

/// Forgotten ones are named by their number alone, so that nothing takes one
/// for the newest.
fn forgotten(newest_first: &[&SnapshotRecord]) -> String {
    let mut forgotten = newest_first.iter().filter(|record| record.state == SnapshotState::Forgotten);
    let Some(newest) = forgotten.next() else { return String::new() };
    let more = match forgotten.count() {
        0 => String::new(),
        more => format!(" (and {more} older ones: holdfast snapshot ls --forgotten)"),
    };
    let name = format!("{}@#{}", full_name(newest), newest.id.number);
    format!("; a forgotten one is named by its number: holdfast snapshot undelete {name}{more}")
}

fn unknown(text: &str, unread: Option<&str>, all: &[SnapshotRecord]) -> RepositoryError {
    let name = text.split('@').next().unwrap_or(text);
    if let Some(when) = unread
        && all.iter().any(|record| is_called(record, name))
    {
        return RepositoryError::Invalid(format!(
            "`{when}` is no time: use latest, yesterday, #12, 2026-11-22 or `2026-11-22 02:00 Europe/Berlin`"
        ));
    }
    let mut names: Vec<String> = all.iter().flat_map(|r| [r.source_name.clone(), full_name(r)]).collect();
    names.sort_unstable();
    names.dedup();
    let names = || names.iter().map(String::as_str);
    let offer = text::did_you_mean(name, names());
    let nearest = text::nearest(name, names()).into_iter().map(str::to_owned).collect();
    RepositoryError::NotFound { message: format!("there is no snapshot of `{name}`{offer}"), nearest }
}

fn pick<'a>(newest_first: &[&'a SnapshotRecord], when: When) -> Option<&'a SnapshotRecord> {
    let mut committed =
        newest_first.iter().copied().filter(|record| record.state == SnapshotState::Committed);
    match when {
        When::Latest => committed.next(),
        // Named exactly: also one that can still be taken back.
        When::Number(number) => newest_first.iter().copied().find(|record| record.id.number == number),
        When::Between(from, until) => committed.find(|r| (from..until).contains(&r.created_ms)),
    }
}

fn is_called(record: &SnapshotRecord, name: &str) -> bool {
    let with_host = |host: &str| {
        name.strip_prefix(host).and_then(|rest| rest.strip_prefix('/')) == Some(record.source_name.as_str())
    };
    record.source_name == name || with_host(&record.host_name) || with_host(&record.id.host.to_string())
}

fn same_source(a: &SnapshotRecord, b: &SnapshotRecord) -> bool {
    (a.id.host, a.id.source) == (b.id.host, b.id.source)
}

fn full_name(record: &SnapshotRecord) -> String {
    format!("{}/{}", record.host_name, record.source_name)
}

fn parse_when(text: &str, now_ms: i64) -> Option<When> {
    if let Some(number) = text.strip_prefix('#') {
        return number.parse().ok().map(When::Number);
    }
    let (plain, zone) = match text.rsplit_once(' ') {
        Some((plain, zone)) if zone.parse::<Tz>().is_ok() => (plain, zone.parse().ok()?),
        _ => (text, Tz::UTC),
    };
    match plain {
        "latest" => return Some(When::Latest),
        "yesterday" => {
            let today = zone.from_utc_datetime(&DateTime::<Utc>::from_timestamp_millis(now_ms)?.naive_utc());
            return day(today.date_naive().pred_opt()?, zone);
        }
        _ => {}
    }
    if let Ok(date) = plain.parse::<NaiveDate>() {
        return day(date, zone);
    }
    if let Ok(instant) = DateTime::parse_from_rfc3339(&plain.replacen(' ', "T", 1)) {
        return Some(not_after(instant.timestamp_millis(), 1));
    }
    let minute = ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let second = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"];
    let parse = |formats: [&str; 2]| {
        formats.into_iter().find_map(|format| NaiveDateTime::parse_from_str(plain, format).ok())
    };
    let (local, length_ms) = match parse(minute) {
        Some(local) => (local, 60_000),
        None => (parse(second)?, 1000),
    };
    // A time that exists twice means the later, one that does not exist the
    // first after the gap.
    Some(not_after(first_instant(local, zone, true)?, length_ms))
}

/// Up to and within the time named: `02:00` includes what was made at 02:00:30.
fn not_after(instant_ms: i64, length_ms: i64) -> When {
    When::Between(i64::MIN, instant_ms.saturating_add(length_ms))
}

fn day(date: NaiveDate, zone: Tz) -> Option<When> {
    let start = |date: NaiveDate| first_instant(date.and_time(NaiveTime::MIN), zone, false);
    Some(When::Between(start(date)?, start(date.checked_add_days(Days::new(1))?)?))
}

fn first_instant(local: NaiveDateTime, zone: Tz, later: bool) -> Option<i64> {
    let mut local = local;
    for _ in 0..=48 {
        let found = zone.from_local_datetime(&local);
        if let Some(instant) = if later { found.latest() } else { found.earliest() } {
            return Some(instant.timestamp_millis());
        }
        local += chrono::TimeDelta::minutes(30);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_archive::ids::{FrameId, HostId, SourceId};

    const HOUR: i64 = 3_600_000;
    // 2026-11-23 12:00 UTC
    const NOW: i64 = 1_795_435_200_000;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis()
    }

    fn record(
        host: (&str, HostId),
        source: (&str, SourceId),
        number: u64,
        created_ms: i64,
    ) -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId { host: host.1, source: source.1, number },
            commit_number: number,
            state: SnapshotState::Committed,
            job: String::new(),
            policy: String::new(),
            created_ms,
            root: FrameId([0; 32]),
            host_name: host.0.to_owned(),
            source_kind: "volume".to_owned(),
            source_name: source.0.to_owned(),
            partial: false,
            held: false,
            purge_after_ms: None,
            extent: None,
            shrink_accepted: false,
        }
    }

    fn fleet() -> Vec<SnapshotRecord> {
        let (web, db) = (("web-1", HostId::generate()), ("db-1", HostId::generate()));
        let data = ("data", SourceId::generate());
        let mut all = vec![
            record(db, data, 1, at("2026-11-21T02:00:00Z")),
            record(db, data, 2, at("2026-11-22T02:00:30Z")),
            record(db, data, 3, at("2026-11-22T23:30:00Z")),
            record(db, data, 4, at("2026-11-23T02:00:00Z")),
            record(db, ("logs", SourceId::generate()), 1, NOW - HOUR),
            record(web, ("logs", SourceId::generate()), 1, NOW - HOUR),
            record(web, ("/srv/a@b", SourceId::generate()), 7, NOW - HOUR),
        ];
        all.reverse();
        all
    }

    fn number(text: &str) -> Result<u64, String> {
        let all = fleet();
        resolve(text, &all, NOW).map(|record| record.id.number).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_means_the_snapshot_an_operator_would_expect() {
        assert_eq!(at("2026-11-23T12:00:00Z"), NOW);
        assert_eq!(number("data"), Ok(4));
        assert_eq!(number("data@latest"), Ok(4));
        assert_eq!(number("db-1/data@#2"), Ok(2));
        assert_eq!(number("data@yesterday"), Ok(3));
        assert_eq!(number("data@2026-11-21"), Ok(1));
        assert_eq!(number("data@2026-11-22 02:00"), Ok(2), "the minute counts as a whole");
        assert_eq!(number("data@2026-11-22T02:00:29"), Ok(1));
        assert_eq!(number("data@2026-11-22T02:00:30Z"), Ok(2));
        assert_eq!(number("data@2026-11-22 02:59 Europe/Berlin"), Ok(1));
        assert_eq!(number("data@2026-11-23 Europe/Berlin"), Ok(4));
        assert_eq!(number("data@yesterday Europe/Berlin"), Ok(2), "23:30 UTC is today in Berlin");
        assert_eq!(number("web-1/logs"), Ok(1));
        assert_eq!(number("web-1//srv/a@b"), Ok(7));
        assert_eq!(number("/srv/a@b@latest"), Ok(7));
    }

    #[test]
    fn o02_what_fits_nothing_or_several_is_refused_with_what_there_is() {
        assert_eq!(number("logs").unwrap_err(), "`logs` is 2 sources: web-1/logs, db-1/logs");
        assert_eq!(number("dat").unwrap_err(), "there is no snapshot of `dat`; did you mean `data`?");
        assert_eq!(number("data@2020-01-01").unwrap_err(), "db-1/data has no snapshot for `data@2020-01-01`");
        assert!(number("data@soon").unwrap_err().starts_with("`soon` is no time"));
        assert_eq!(number("data@#9").unwrap_err(), "db-1/data has no snapshot for `data@#9`");
    }

    #[test]
    fn a_forgotten_snapshot_is_found_by_its_number_only() {
        let mut all = fleet();
        for record in all.iter_mut().filter(|record| record.id.number == 4) {
            record.state = SnapshotState::Forgotten;
        }
        assert_eq!(resolve("data", &all, NOW).expect("found").id.number, 3);
        assert_eq!(resolve("data@#4", &all, NOW).expect("found").id.number, 4);
    }
}

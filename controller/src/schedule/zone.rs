//! From wall-clock times to instants, by a stated rule.
//!
//! Twice a year a zone makes that mapping many to none or one to two, and
//! that is where backups are lost or doubled. The rule:
//!
//! - A wall-clock time that exists once is that instant.
//! - One that exists twice (clocks went back) fires at the first. Only where
//!   the hour field begins with `*` both fire: such an expression names an
//!   interval, and skipping the second pass would stretch it. `dst = "once"`
//!   takes the first there too.
//! - One that does not exist (clocks went forward) fires at the first instant
//!   after the gap; several that fall into one gap fire once. With
//!   `dst = "skip"` it does not fire. An expression that fires in every hour
//!   needs no replacement: its next hour is one real hour away.
//!
//! The search leans on one property: the map from wall-clock times to their
//! *first* instants is monotone, so a walk of the calendar from the local
//! time of `after` meets every first instant in order. Second passes are the
//! one exception and are looked for separately. Transitions are taken to be
//! more than two days apart, which holds for every zone since 1970.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use super::cron::CronExpression;

/// What happens on the days a zone changes its clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DstRule {
    /// A time that does not exist moves to the end of the gap.
    #[default]
    Shift,
    /// A time that does not exist is left out.
    Skip,
    /// As `Shift`, and no wall-clock time fires twice, intervals included.
    Once,
}

impl DstRule {
    pub const NAMES: [&str; 3] = ["shift", "skip", "once"];

    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "shift" => Some(Self::Shift),
            "skip" => Some(Self::Skip),
            "once" => Some(Self::Once),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Shift => "shift",
            Self::Skip => "skip",
            Self::Once => "once",
        }
    }
}

/// Why a fire is not simply at the wall-clock time the expression says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FireNote {
    Plain,
    /// `wanted` does not exist on that day.
    Shifted {
        wanted: NaiveDateTime,
    },
    /// The wall clock shows this time twice; this is the first.
    FirstOfTwo,
    SecondOfTwo,
}

/// One fire time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    pub at: DateTime<Utc>,
    pub note: FireNote,
}

/// Where a wall-clock time lies in real time.
enum Instants {
    One(DateTime<Utc>),
    Two(DateTime<Utc>, DateTime<Utc>),
    None,
}

/// An expression in a zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub cron: CronExpression,
    pub zone: Tz,
    pub dst: DstRule,
}

/// Finds a zone by its IANA name; an error carries the nearest known ones.
///
/// # Errors
/// No zone has that name.
pub(crate) fn parse_zone(name: &str) -> Result<Tz, Vec<&'static str>> {
    if let Ok(zone) = name.parse() {
        return Ok(zone);
    }
    let wanted = name.to_ascii_lowercase();
    let distance = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        let city = candidate.rsplit('/').next().unwrap_or(&candidate);
        strsim::damerau_levenshtein(&wanted, &candidate).min(strsim::damerau_levenshtein(&wanted, city))
    };
    let mut near: Vec<(usize, &'static str)> = chrono_tz::TZ_VARIANTS
        .iter()
        .map(|zone| (distance(zone.name()), zone.name()))
        .filter(|(distance, _)| *distance <= 3)
        .collect();
    near.sort_unstable();
    Err(near.into_iter().take(3).map(|(_, name)| name).collect())
}

impl Schedule {
    /// The first fire strictly after `after`; `None` past the calendar's end.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<Fire> {
        let local = after.with_timezone(&self.zone).naive_local();
        let first = self.first_from(local, after);
        if !self.repeats() {
            return first;
        }
        match (first, self.second_pass_after(local, after)) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }

    /// Fires after `after`, in order, without end.
    pub fn fires_after(&self, after: DateTime<Utc>) -> impl Iterator<Item = Fire> {
        std::iter::successors(self.next_after(after), |fire| self.next_after(fire.at))
    }

    fn repeats(&self) -> bool {
        self.cron.wildcard_hours() && self.dst != DstRule::Once
    }

    /// Walks the calendar from `local` to the first time with an instant
    /// after `after`.
    fn first_from(&self, mut local: NaiveDateTime, after: DateTime<Utc>) -> Option<Fire> {
        loop {
            local = self.cron.next_local_after(local)?;
            let fire = match self.instants(local) {
                Instants::One(at) => Some(Fire { at, note: FireNote::Plain }),
                Instants::Two(first, second) if first <= after && self.repeats() => {
                    Some(Fire { at: second, note: FireNote::SecondOfTwo })
                }
                Instants::Two(first, _) => Some(Fire { at: first, note: FireNote::FirstOfTwo }),
                Instants::None => self.shifted(local),
            };
            if let Some(fire) = fire.filter(|fire| fire.at > after) {
                return Some(fire);
            }
        }
    }

    fn shifted(&self, wanted: NaiveDateTime) -> Option<Fire> {
        if self.dst == DstRule::Skip || self.cron.every_hour() {
            return None;
        }
        let at = self.gap_end(wanted);
        // Where the expression names the end of the gap as well, that is a
        // plain fire.
        let local = at.with_timezone(&self.zone).naive_local();
        let named = self.cron.next_local_after(local - TimeDelta::seconds(1)) == Some(local);
        Some(Fire { at, note: if named { FireNote::Plain } else { FireNote::Shifted { wanted } } })
    }

    /// When `after` is in the first pass of a repeated stretch: the first fire
    /// of its second pass.
    fn second_pass_after(&self, local: NaiveDateTime, after: DateTime<Utc>) -> Option<Fire> {
        let Instants::Two(first, second) = self.instants(local) else { return None };
        if after != first {
            return None;
        }
        let back = self.first_instant_where(after, second, |x| self.offset(x) != self.offset(after));
        let begin = back.with_timezone(&self.zone).naive_local();
        let found = self.cron.next_local_after(begin - TimeDelta::seconds(1))?;
        match self.instants(found) {
            Instants::Two(_, at) => Some(Fire { at, note: FireNote::SecondOfTwo }),
            Instants::One(_) | Instants::None => None,
        }
    }

    fn instants(&self, local: NaiveDateTime) -> Instants {
        match self.zone.from_local_datetime(&local) {
            chrono::LocalResult::Single(at) => Instants::One(at.to_utc()),
            chrono::LocalResult::Ambiguous(a, b) => {
                let (a, b) = (a.to_utc(), b.to_utc());
                Instants::Two(a.min(b), a.max(b))
            }
            chrono::LocalResult::None => Instants::None,
        }
    }

    fn offset(&self, at: DateTime<Utc>) -> i32 {
        self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
    }

    /// The first instant whose wall clock is past `local`, which lies in a gap.
    fn gap_end(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let around = local.and_utc();
        self.first_instant_where(around - TimeDelta::hours(27), around + TimeDelta::hours(27), |x| {
            x.with_timezone(&self.zone).naive_local() > local
        })
    }

    /// Bisects to the second: `holds` is false at `low` and true at `high`.
    fn first_instant_where(
        &self,
        mut low: DateTime<Utc>,
        mut high: DateTime<Utc>,
        holds: impl Fn(DateTime<Utc>) -> bool,
    ) -> DateTime<Utc> {
        while high - low > TimeDelta::seconds(1) {
            let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
            if holds(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    /// Wall clock with the zone's abbreviation, for people.
    pub fn local_text(&self, at: DateTime<Utc>) -> String {
        at.with_timezone(&self.zone).format("%a %-d %b %Y %H:%M:%S %Z").to_string().replace(":00 ", " ")
    }

    /// Why `fire` is not where the expression says; empty where it is.
    pub fn note_text(&self, fire: &Fire) -> String {
        match fire.note {
            FireNote::Plain => String::new(),
            FireNote::Shifted { wanted } => format!(
                "{} does not exist that day, runs when the clocks have changed (dst = \"{}\")",
                wanted.format("%H:%M"),
                self.dst.name()
            ),
            FireNote::FirstOfTwo if self.repeats() => "this hour comes twice; first time".to_owned(),
            FireNote::FirstOfTwo => "this time comes twice that day; runs at the first".to_owned(),
            FireNote::SecondOfTwo => "this hour comes twice; second time".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;

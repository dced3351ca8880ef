//! What is to be run now.
//!
//! Judged from what was recorded, not from a timer: the fires between the
//! newest recorded one that is not in the future and `now`. So a controller
//! that was down runs the newest of them once and records the rest as missed,
//! a wall clock set forward by a day does the same, and one set back fires
//! nothing twice: each fire time has one row, and those rows are still there.
//! A record in the future, by its fire time or by the moment it was made (the
//! clock was ahead then), neither silences the policy until then nor counts
//! when that time comes.

use chrono::{DateTime, TimeDelta, Utc};

use super::zone::Schedule;

/// As many missed fire times are listed; older ones are only said to exist.
pub(crate) const MISSED_LISTED: usize = 100;

/// Without catch-up a fire this late still runs: a restart takes that long.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// A policy, and what is known about its past.
#[derive(Debug)]
pub(crate) struct Timed<'a> {
    pub policy: &'a str,
    pub schedule: &'a Schedule,
    /// Fires at or before this are none of ours: the policy was not there yet.
    pub since: DateTime<Utc>,
    /// The newest fire neither due nor recorded after `now`, whatever became of it.
    pub last: Option<DateTime<Utc>>,
    /// Run a missed fire later than never.
    pub catch_up: bool,
}

/// What is due of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub policy: String,
    /// To be run; `None` when all of it came too late.
    pub run: Option<DateTime<Utc>>,
    /// To be recorded as missed, oldest first.
    pub missed: Vec<DateTime<Utc>>,
    /// More were missed before the first listed.
    pub more_missed: bool,
}

/// What is due of each policy at `now`; policies of which nothing is due are left out.
pub(crate) fn due(now: DateTime<Utc>, policies: &[Timed<'_>]) -> Vec<Due> {
    policies.iter().filter_map(|policy| due_of(now, policy)).collect()
}

fn due_of(now: DateTime<Utc>, timed: &Timed<'_>) -> Option<Due> {
    // A `since` in the future comes from a clock that was wrong then.
    let since = if timed.since > now { now - TimeDelta::minutes(1) } else { timed.since };
    let base = timed.last.map_or(since, |last| last.max(since));
    // One more than is listed: the newest is run and is not missed.
    let (mut fires, more_missed) = newest_fires(now, base, timed.schedule, MISSED_LISTED + 1);
    let newest = fires.pop()?;
    let run = (timed.catch_up || now - newest <= LATE).then_some(newest);
    if run.is_none() {
        fires.push(newest);
    }
    Some(Due { policy: timed.policy.to_owned(), run, missed: fires, more_missed })
}

/// The newest fires in `(since, now]`, at most `count` of them, oldest first.
pub(crate) fn latest_fires(
    now: DateTime<Utc>,
    since: DateTime<Utc>,
    schedule: &Schedule,
    count: usize,
) -> Vec<DateTime<Utc>> {
    let (mut fires, _) = newest_fires(now, since, schedule, count.max(1));
    fires.drain(..fires.len().saturating_sub(count));
    fires
}

/// The newest fires in `(base, now]`, and whether there are older ones. Looks
/// back in growing windows, so that a year of minutes costs no more than an
/// hour of them. `wanted` is not 0.
fn newest_fires(
    now: DateTime<Utc>,
    base: DateTime<Utc>,
    schedule: &Schedule,
    wanted: usize,
) -> (Vec<DateTime<Utc>>, bool) {
    // As many as a window may have: of more the newest would not be among them.
    let most = 60 * wanted;
    let mut window = TimeDelta::hours(1);
    let mut from = base.max(now - window);
    // Starts of windows with fewer than `wanted`, and with more than `most`.
    let (mut few, mut many) = (now, None);
    loop {
        let fires = schedule.fires_after(from).map(|fire| fire.at).take_while(|at| *at <= now);
        let mut fires: Vec<_> = fires.take(most + 1).collect();
        if fires.len() > most {
            many = Some(from);
        } else if from == base || fires.len() >= wanted {
            let surplus = fires.len().saturating_sub(wanted);
            fires.drain(..surplus);
            return (fires, from > base || surplus > 0);
        } else {
            few = from;
        }
        from = match many {
            // Halving ends: no second has two fires, so a start between the two has enough.
            Some(many) => many + (few - many) / 2,
            None => {
                window = window * 4;
                base.max(now - window)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CronExpression, DstRule};
    use super::*;

    fn schedule(expression: &str) -> Schedule {
        Schedule {
            cron: CronExpression::parse(expression).expect(expression),
            zone: chrono_tz::Tz::UTC,
            dst: DstRule::Shift,
        }
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    fn one(now: &str, schedule: &Schedule, last: Option<&str>, catch_up: bool) -> Option<Due> {
        let timed = Timed {
            policy: "nightly",
            schedule,
            since: utc("2026-11-01T00:00:00Z"),
            last: last.map(utc),
            catch_up,
        };
        due(utc(now), &[timed]).pop()
    }

    #[test]
    fn p08_at_the_very_second_it_is_due_and_once_recorded_it_is_not() {
        let nightly = schedule("0 2 * * *");
        assert_eq!(one("2026-11-23T01:59:59Z", &nightly, Some("2026-11-22T02:00:00Z"), true), None);
        let at = "2026-11-23T02:00:00Z";
        let due = one(at, &nightly, Some("2026-11-22T02:00:00Z"), true).expect("due");
        assert_eq!((due.run, due.missed.len()), (Some(utc(at)), 0));
        assert_eq!(one(at, &nightly, Some(at), true), None);
    }

    #[test]
    fn p09_six_hours_down_is_one_run_and_the_rest_recorded() {
        let hourly = schedule("0 * * * *");
        let due = one("2026-11-23T08:30:00Z", &hourly, Some("2026-11-23T02:00:00Z"), true).expect("due");
        assert_eq!(due.run, Some(utc("2026-11-23T08:00:00Z")));
        assert_eq!(due.missed.len(), 5);
        assert_eq!(due.missed[0], utc("2026-11-23T03:00:00Z"));
        assert!(!due.more_missed);
        let without = one("2026-11-23T08:30:00Z", &hourly, Some("2026-11-23T02:00:00Z"), false).expect("due");
        assert_eq!((without.run, without.missed.len()), (None, 6));
        let just = one("2026-11-23T08:04:00Z", &hourly, Some("2026-11-23T02:00:00Z"), false).expect("due");
        assert_eq!((just.run, just.missed.len()), (Some(utc("2026-11-23T08:00:00Z")), 5));
    }

    #[test]
    fn p09_the_newest_fires_are_the_newest_however_many_there_are() {
        // None in the last hour, 180 in the four before now.
        let nightly = schedule("* 0-2 * * *");
        let (now, since) = (utc("2026-11-23T03:59:30Z"), utc("2026-11-01T00:00:00Z"));
        let newest = ["2026-11-23T02:58:00Z", "2026-11-23T02:59:00Z"].map(utc);
        assert_eq!(latest_fires(now, since, &nightly, 2), newest);
        // More in the first window than are looked at of one.
        let minutes = schedule("* * * * *");
        let newest = [utc("2026-11-23T03:59:00Z")];
        assert_eq!(latest_fires(now, since, &minutes, 1), newest);
    }

    #[test]
    fn p15_a_clock_set_back_fires_nothing_twice() {
        let hourly = schedule("0 * * * *");
        // 10:00 was fired; the clock goes back to 09:30. The newest record at
        // or before that is 09:00.
        assert_eq!(one("2026-11-23T09:30:00Z", &hourly, Some("2026-11-23T09:00:00Z"), true), None);
        // At 10:00 for the second time the row of 10:00 is the newest.
        assert_eq!(one("2026-11-23T10:00:00Z", &hourly, Some("2026-11-23T10:00:00Z"), true), None);
    }

    #[test]
    fn p15_a_clock_set_forward_a_day_makes_one_catch_up() {
        let hourly = schedule("0 * * * *");
        let due = one("2026-11-24T09:30:00Z", &hourly, Some("2026-11-23T09:00:00Z"), true).expect("due");
        assert_eq!((due.run, due.missed.len()), (Some(utc("2026-11-24T09:00:00Z")), 23));
    }

    #[test]
    fn a_policy_applied_under_a_clock_that_ran_ahead_still_fires() {
        let every_minute = schedule("* * * * *");
        let timed = Timed {
            policy: "p",
            schedule: &every_minute,
            since: utc("2030-01-01T00:00:00Z"),
            last: None,
            catch_up: true,
        };
        let due = due(utc("2026-11-23T09:00:10Z"), &[timed]).pop().expect("due");
        assert_eq!((due.run, due.missed.len()), (Some(utc("2026-11-23T09:00:00Z")), 0));
    }

    #[test]
    fn a_policy_does_not_fire_for_a_time_before_it_was_applied() {
        let every_minute = schedule("* * * * *");
        let applied = utc("2026-11-23T09:00:05Z");
        let timed =
            Timed { policy: "p", schedule: &every_minute, since: applied, last: None, catch_up: true };
        assert_eq!(due(utc("2026-11-23T09:00:06Z"), &[timed]), []);
    }

    #[test]
    fn years_of_missed_minutes_are_found_quickly_and_listed_in_part() {
        let every_minute = schedule("* * * * *");
        let due = one("2029-11-23T09:00:30Z", &every_minute, None, true).expect("due");
        assert_eq!(due.run, Some(utc("2029-11-23T09:00:00Z")));
        assert_eq!(due.missed.len(), MISSED_LISTED);
        assert!(due.more_missed);
        assert_eq!(due.missed.last(), Some(&utc("2029-11-23T08:59:00Z")));
        let yearly = schedule("0 0 29 2 *");
        let due = one("2029-11-23T09:00:30Z", &yearly, None, true).expect("due");
        assert_eq!((due.run, due.more_missed), (Some(utc("2028-02-29T00:00:00Z")), false));
    }

    #[test]
    fn p17_a_thousand_schedules_at_midnight_are_due_together() {
        let midnight = schedule("0 0 * * *");
        let names: Vec<String> = (0..1000).map(|n| format!("policy-{n}")).collect();
        let timed: Vec<Timed<'_>> = names
            .iter()
            .map(|name| Timed {
                policy: name,
                schedule: &midnight,
                since: utc("2026-11-22T12:00:00Z"),
                last: None,
                catch_up: true,
            })
            .collect();
        let due = due(utc("2026-11-23T00:00:00Z"), &timed);
        assert_eq!(due.len(), 1000);
        assert!(due.iter().all(|due| due.missed.is_empty()));
    }
}

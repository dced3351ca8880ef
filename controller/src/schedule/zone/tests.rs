//! Against an oracle that shares no code with the search: it walks real time
//! minute by minute, asks chrono-tz what the wall clock shows, and applies
//! the rule to what it sees.

use std::collections::HashSet;

use chrono::{Datelike, NaiveDate, Timelike};
use proptest::prelude::*;

use super::*;

fn schedule(expression: &str, zone: &str, dst: DstRule) -> Schedule {
    Schedule {
        cron: CronExpression::parse(expression).expect(expression),
        zone: zone.parse().expect("a zone"),
        dst,
    }
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn fires(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let (from, to) = (utc(from), utc(to));
    schedule
        .fires_after(from)
        .take_while(|fire| fire.at <= to)
        .map(|fire| fire.at.format("%m-%dT%H:%MZ").to_string())
        .collect()
}

#[test]
fn p14_each_day_once_over_both_changes() {
    let spring = schedule("30 2 * * *", "Europe/Berlin", DstRule::Shift);
    // 02:30 CET, then the end of the gap (03:00 CEST), then 02:30 CEST.
    assert_eq!(
        fires(&spring, "2027-03-26T12:00:00Z", "2027-03-29T12:00:00Z"),
        ["03-27T01:30Z", "03-28T01:00Z", "03-29T00:30Z"]
    );
    let autumn = schedule("30 1 * * *", "America/New_York", DstRule::Shift);
    assert_eq!(
        fires(&autumn, "2026-10-31T00:00:00Z", "2026-11-02T12:00:00Z"),
        ["10-31T05:30Z", "11-01T05:30Z", "11-02T06:30Z"]
    );
}

#[test]
fn p14_skip_leaves_the_day_out() {
    let spring = schedule("30 2 * * *", "Europe/Berlin", DstRule::Skip);
    assert_eq!(
        fires(&spring, "2027-03-26T12:00:00Z", "2027-03-29T12:00:00Z"),
        ["03-27T01:30Z", "03-29T00:30Z"]
    );
}

#[test]
fn intervals_follow_real_time_unless_once_is_asked_for() {
    let half_past = schedule("30 * * * *", "Europe/Berlin", DstRule::Shift);
    assert_eq!(
        fires(&half_past, "2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z"),
        ["10-24T23:30Z", "10-25T00:30Z", "10-25T01:30Z", "10-25T02:30Z"]
    );
    assert_eq!(
        fires(&half_past, "2027-03-27T23:45:00Z", "2027-03-28T03:00:00Z"),
        ["03-28T00:30Z", "03-28T01:30Z", "03-28T02:30Z"]
    );
    let once = schedule("30 * * * *", "Europe/Berlin", DstRule::Once);
    assert_eq!(
        fires(&once, "2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z"),
        ["10-24T23:30Z", "10-25T00:30Z", "10-25T02:30Z"]
    );
}

#[test]
fn a_whole_day_that_does_not_exist_fires_at_its_end() {
    // Samoa had no 30 December 2011.
    let daily = schedule("0 2 * * *", "Pacific/Apia", DstRule::Shift);
    assert_eq!(
        fires(&daily, "2011-12-29T00:00:00Z", "2011-12-31T00:00:00Z"),
        ["12-29T12:00Z", "12-30T10:00Z", "12-30T12:00Z"]
    );
}

#[test]
fn notes_and_local_text_say_what_happened() {
    let spring = schedule("0 2 * * *", "Europe/Berlin", DstRule::Shift);
    let fire = spring.next_after(utc("2027-03-27T12:00:00Z")).expect("fires");
    assert_eq!(spring.local_text(fire.at), "Sun 28 Mar 2027 03:00 CEST");
    assert_eq!(
        spring.note_text(&fire),
        "02:00 does not exist that day, runs when the clocks have changed (dst = \"shift\")"
    );
}

#[test]
fn a_misspelt_zone_gets_its_neighbours() {
    assert_eq!(parse_zone("Europe/Berlin"), Ok(Tz::Europe__Berlin));
    assert!(parse_zone("Europe/Berlni").expect_err("unknown").contains(&"Europe/Berlin"));
    assert!(parse_zone("berlin").expect_err("unknown").contains(&"Europe/Berlin"));
    assert_eq!(parse_zone("Middle-earth/Shire"), Err(Vec::new()));
}

/// What an expression says, apart from its text.
#[derive(Debug, Clone)]
struct Rule {
    minutes: HashSet<u32>,
    hours: Hours,
    weekdays: Option<HashSet<u32>>,
}

#[derive(Debug, Clone)]
enum Hours {
    Every,
    Step(u32),
    At(HashSet<u32>),
}

impl Rule {
    fn text(&self) -> String {
        let list = |set: &HashSet<u32>| {
            let mut values: Vec<u32> = set.iter().copied().collect();
            values.sort_unstable();
            values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
        };
        let hours = match &self.hours {
            Hours::Every => "*".to_owned(),
            Hours::Step(step) => format!("*/{step}"),
            Hours::At(set) => list(set),
        };
        let weekdays = self.weekdays.as_ref().map_or("*".to_owned(), list);
        format!("{} {hours} * * {weekdays}", list(&self.minutes))
    }

    fn matches(&self, local: NaiveDateTime) -> bool {
        let hour = match &self.hours {
            Hours::Every => true,
            Hours::Step(step) => local.hour().is_multiple_of(*step),
            Hours::At(set) => set.contains(&local.hour()),
        };
        let weekday = local.weekday().num_days_from_sunday();
        hour && self.minutes.contains(&local.minute())
            && self.weekdays.as_ref().is_none_or(|set| set.contains(&weekday))
    }

    fn every_hour(&self) -> bool {
        match &self.hours {
            Hours::Every => true,
            Hours::Step(step) => *step == 1,
            Hours::At(set) => set.len() == 24,
        }
    }

    fn interval(&self) -> bool {
        !matches!(&self.hours, Hours::At(set) if set.len() < 24)
    }
}

fn oracle(rule: &Rule, zone: Tz, dst: DstRule, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let minute = TimeDelta::minutes(1);
    let mut latest_shown = from.with_timezone(&zone).naive_local() - TimeDelta::days(2);
    let mut before = None;
    let mut found = Vec::new();
    // Two days earlier, so that a second pass that has begun is known as one.
    let mut at = from - TimeDelta::days(2);
    while at <= to {
        let shown = at.with_timezone(&zone).naive_local();
        let second_time = before.is_some() && shown <= latest_shown;
        let mut fire = rule.matches(shown) && (!second_time || (rule.interval() && dst != DstRule::Once));
        if let Some(previous) = before {
            let mut missing: NaiveDateTime = previous + minute;
            while missing < shown {
                fire |= rule.matches(missing) && dst != DstRule::Skip && !rule.every_hour();
                missing += minute;
            }
        }
        if fire && at > from {
            found.push(at);
        }
        latest_shown = latest_shown.max(shown);
        before = Some(shown);
        at += minute;
    }
    found
}

/// Each transition of that zone in that year.
fn transitions(zone: Tz, year: i32) -> Vec<DateTime<Utc>> {
    let hour = |n: i64| {
        NaiveDate::from_ymd_opt(year, 1, 1).expect("a date").and_hms_opt(0, 0, 0).expect("midnight").and_utc()
            + TimeDelta::hours(n)
    };
    let offset = |at: DateTime<Utc>| at.with_timezone(&zone).offset().fix();
    (1..365 * 24).filter(|n| offset(hour(n - 1)) != offset(hour(*n))).map(hour).collect()
}

const ZONES: [Tz; 9] = [
    Tz::Europe__Berlin,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Africa__Casablanca,
    Tz::America__Santiago,
    Tz::Antarctica__Troll,
    Tz::Asia__Beirut,
    Tz::Pacific__Apia,
    Tz::UTC,
];

fn rules() -> impl Strategy<Value = Rule> {
    let minutes = prop::collection::hash_set(0_u32..60, 1..4);
    let hours = prop_oneof![
        2 => Just(Hours::Every),
        2 => (1_u32..13).prop_map(Hours::Step),
        5 => prop::collection::hash_set(0_u32..4, 1..4).prop_map(Hours::At),
        1 => prop::collection::hash_set(0_u32..24, 1..24).prop_map(Hours::At),
    ];
    let weekdays = prop::option::weighted(0.2, prop::collection::hash_set(0_u32..7, 1..4));
    (minutes, hours, weekdays).prop_map(|(minutes, hours, weekdays)| Rule { minutes, hours, weekdays })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn p14_fires_are_what_a_walk_through_real_time_sees(
        rule in rules(),
        zone in prop::sample::select(&ZONES[..]),
        year in 2005_i32..2037,
        dst in prop::sample::select(vec![DstRule::Shift, DstRule::Skip, DstRule::Once]),
        lead_minutes in 0_i64..2000,
    ) {
        let schedule = schedule(&rule.text(), zone.name(), dst);
        let mut changes = transitions(zone, year);
        changes.push(utc(&format!("{year}-06-15T00:00:00Z")));
        for change in changes {
            let from = change - TimeDelta::minutes(lead_minutes);
            let to = change + TimeDelta::hours(30);
            let seen: Vec<_> =
                schedule.fires_after(from).map(|fire| fire.at).take_while(|at| *at <= to).collect();
            prop_assert_eq!(
                seen, oracle(&rule, zone, dst, from, to), "{} in {} around {}", rule.text(), zone, change
            );
        }
    }

    /// Starting anywhere, also between two fires or in a second pass, gives
    /// the next one of the same sequence.
    #[test]
    fn the_sequence_does_not_depend_on_where_it_is_entered(
        rule in rules(),
        zone in prop::sample::select(&ZONES[..]),
        year in 2015_i32..2030,
        entry_seconds in 0_i64..200_000,
    ) {
        let schedule = schedule(&rule.text(), zone.name(), DstRule::Shift);
        for change in transitions(zone, year) {
            let from = change - TimeDelta::days(1);
            let entry = from + TimeDelta::seconds(entry_seconds);
            let expected = schedule.fires_after(from).find(|fire| fire.at > entry).map(|fire| fire.at);
            prop_assert_eq!(schedule.next_after(entry).map(|fire| fire.at), expected);
        }
    }
}

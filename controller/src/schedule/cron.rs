//! Cron expressions: five fields, or six with seconds first.
//!
//! Read here and not by the `cron` crate, because that one wants six fields,
//! counts weekdays from Sunday = 1 and reports no position. What is read is
//! handed to it as explicit lists, and only to walk a plain calendar: it
//! never sees a time zone.
//!
//! Rules that differ between crons, and the ones taken here: weekdays are
//! POSIX (0 and 7 are Sunday); when both day of month and weekday are
//! restricted, a day that matches either fires, and a field that begins with
//! `*` counts as unrestricted; a step needs a range or `*` before it. `L`,
//! `W`, `#` and `?` are refused, not guessed.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{NaiveDateTime, Utc};
use cron::Schedule as Calendar;

/// Why an expression is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CronError {
    /// Character in the expression, counted from 1.
    pub column: usize,
    pub message: String,
}

impl CronError {
    fn at(column: usize, message: impl Into<String>) -> Self {
        Self { column, message: message.into() }
    }
}

/// A parsed expression.
#[derive(Clone)]
pub struct CronExpression {
    source: String,
    /// One, or two where day of month and weekday are alternatives.
    calendars: Vec<Calendar>,
    every_hour: bool,
    wildcard_hours: bool,
}

impl fmt::Debug for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CronExpression").field(&self.source).finish()
    }
}

impl fmt::Display for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

struct FieldSpec {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [FieldSpec; 6] = [
    FieldSpec { name: "second", min: 0, max: 59, names: &[] },
    FieldSpec { name: "minute", min: 0, max: 59, names: &[] },
    FieldSpec { name: "hour", min: 0, max: 23, names: &[] },
    FieldSpec { name: "day of month", min: 1, max: 31, names: &[] },
    FieldSpec { name: "month", min: 1, max: 12, names: &MONTHS },
    // 7 is read as Sunday too.
    FieldSpec { name: "weekday", min: 0, max: 7, names: &WEEKDAYS },
];

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

struct Field {
    values: BTreeSet<u32>,
    star: bool,
}

/// A word of the expression and the column it starts at.
struct Word<'a> {
    text: &'a str,
    column: usize,
}

impl CronExpression {
    /// Reads five fields, six with seconds first, or a nickname such as `@daily`.
    ///
    /// # Errors
    /// A field is missing, is one too many, or has a value it cannot have.
    pub fn parse(source: &str) -> Result<Self, CronError> {
        let words = words(source);
        if let [only] = words.as_slice()
            && only.text.starts_with('@')
        {
            let expansion = nickname(only)?;
            // The text stays as it was given: it is what people are shown.
            return Ok(Self { source: source.trim().to_owned(), ..Self::parse(expansion)? });
        }
        let specs = match words.len() {
            5 => &FIELDS[1..],
            6 => &FIELDS[..],
            0 => return Err(CronError::at(1, "an empty expression; five fields are expected")),
            n if n < 5 => {
                let end = source.trim_end().chars().count() + 1;
                let next = FIELDS[n + 1].name;
                return Err(CronError::at(
                    end,
                    format!("{n} fields, five are expected: the {next} is missing"),
                ));
            }
            n => {
                return Err(CronError::at(
                    words[6].column,
                    format!("{n} fields; five are expected, or six with seconds first"),
                ));
            }
        };
        let mut fields =
            specs.iter().zip(&words).map(|(spec, word)| spec.parse(word)).collect::<Result<Vec<_>, _>>()?;
        if fields.len() == 5 {
            fields.insert(0, Field { values: BTreeSet::from([0]), star: false });
        }
        let day_column = words[words.len() - 3].column;
        Self::build(source.trim(), &fields, day_column)
    }

    fn build(source: &str, fields: &[Field], day_column: usize) -> Result<Self, CronError> {
        let list = |field: &Field| field.values.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let [seconds, minutes, hours, days, months, weekdays] = fields else {
            unreachable!("six fields are always passed");
        };
        let time = format!("{} {} {}", list(seconds), list(minutes), list(hours));
        // Sunday is 0 or 7 here and 1 there.
        let quartz = weekdays
            .values
            .iter()
            .map(|day| (day % 7 + 1).to_string())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(",");
        let either = !days.star && !weekdays.star;
        let expressions = if either {
            vec![
                format!("{time} {} {} *", list(days), list(months)),
                format!("{time} * {} {quartz}", list(months)),
            ]
        } else {
            vec![format!("{time} {} {} {quartz}", list(days), list(months))]
        };
        let calendars = expressions
            .iter()
            .map(|expression| {
                expression.parse::<Calendar>().map_err(|error| CronError::at(1, error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let parsed = Self {
            source: source.to_owned(),
            calendars,
            every_hour: hours.values.len() == 24,
            wildcard_hours: hours.star,
        };
        let start = chrono::DateTime::UNIX_EPOCH.naive_utc();
        if parsed.next_local_after(start).is_none() {
            return Err(CronError::at(day_column, "this never fires: no month it names has such a day"));
        }
        Ok(parsed)
    }

    /// The first matching wall-clock time after `after`, in a calendar where
    /// every day has 24 hours.
    pub fn next_local_after(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let after = after.and_utc();
        self.calendars
            .iter()
            .filter_map(|calendar| calendar.after::<Utc>(&after).next())
            .min()
            .map(|found| found.naive_utc())
    }

    /// Every hour of the day is in the hour field.
    pub fn every_hour(&self) -> bool {
        self.every_hour
    }

    /// The hour field begins with `*`: an interval, not times of day.
    pub fn wildcard_hours(&self) -> bool {
        self.wildcard_hours || self.every_hour
    }
}

fn nickname(word: &Word<'_>) -> Result<&'static str, CronError> {
    let lower = word.text.to_ascii_lowercase();
    if let Some((_, expansion)) = NICKNAMES.iter().find(|(name, _)| *name == lower) {
        return Ok(expansion);
    }
    let known = NICKNAMES.map(|(name, _)| name).join(", ");
    Err(CronError::at(word.column, format!("`{}` is not known; there are {known}", word.text)))
}

fn words(source: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    for (column, (offset, character)) in (1..).zip(source.char_indices()) {
        match (character.is_whitespace(), start) {
            (false, None) => start = Some((column, offset)),
            (true, Some((column, begin))) => {
                words.push(Word { text: &source[begin..offset], column });
                start = None;
            }
            _ => {}
        }
    }
    if let Some((column, begin)) = start {
        words.push(Word { text: &source[begin..], column });
    }
    words
}

impl FieldSpec {
    fn parse(&self, word: &Word<'_>) -> Result<Field, CronError> {
        let mut values = BTreeSet::new();
        let mut column = word.column;
        for item in word.text.split(',') {
            self.parse_item(item, column, &mut values)?;
            column += item.chars().count() + 1;
        }
        Ok(Field { values, star: word.text.starts_with('*') })
    }

    fn parse_item(&self, item: &str, column: usize, values: &mut BTreeSet<u32>) -> Result<(), CronError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => {
                let at = column + range.chars().count() + 1;
                (range, Some(self.parse_step(step, at)?))
            }
            None => (item, None),
        };
        let (low, high) = if range == "*" {
            (self.min, if self.max == 7 { 6 } else { self.max })
        } else if let Some((low, high)) = range.split_once('-') {
            let high_column = column + low.chars().count() + 1;
            let first = self.parse_value(low, column)?;
            let mut last = self.parse_value(high, high_column)?;
            // SAT-SUN: Sunday ends a week as well as it begins one.
            if self.max == 7 && last == 0 && first > 0 {
                last = 7;
            }
            if last < first {
                return Err(CronError::at(
                    column,
                    format!("the range `{range}` runs backwards; write two ranges with a comma"),
                ));
            }
            (first, last)
        } else {
            let value = self.parse_value(range, column)?;
            if step.is_some() {
                return Err(CronError::at(
                    column,
                    format!("a step needs a range before it: `{range}-{}/…` or `*/…`", self.max),
                ));
            }
            (value, value)
        };
        let step = step.unwrap_or(1);
        if step > 1 && step > high - low {
            return Err(CronError::at(
                column,
                format!("a step of {step} is longer than the {} field's `{range}`", self.name),
            ));
        }
        values.extend((low..=high).step_by(step as usize).map(|v| if self.max == 7 { v % 7 } else { v }));
        Ok(())
    }

    fn parse_step(&self, text: &str, column: usize) -> Result<u32, CronError> {
        match text.parse::<u32>() {
            Ok(step) if step > 0 && digits(text) => Ok(step),
            _ => Err(CronError::at(
                column,
                format!("`{text}` is not a step of the {} field: a number from 1 is expected", self.name),
            )),
        }
    }

    fn parse_value(&self, text: &str, column: usize) -> Result<u32, CronError> {
        let upper = text.to_ascii_uppercase();
        if let Some(index) = (0_u32..).zip(self.names).find(|(_, name)| **name == upper).map(|(i, _)| i) {
            // Months count from 1, weekdays from 0: both as their minimum says.
            return Ok(self.min + index);
        }
        match text.parse::<u32>() {
            Ok(value) if digits(text) && (self.min..=self.max).contains(&value) => Ok(value),
            _ => Err(CronError::at(column, self.refuse_value(text))),
        }
    }

    fn refuse_value(&self, text: &str) -> String {
        let Self { name, min, max, names } = self;
        if text.is_empty() {
            return format!("a value is missing in the {name} field");
        }
        if text == "?" {
            return format!("`?` in the {name} field: write `*`");
        }
        if text.ends_with(['L', 'W']) && !names.contains(&text) || text.contains('#') {
            return format!("`{text}` in the {name} field: L, W and # are not supported");
        }
        let or_names = match (names.first(), names.last()) {
            (Some(first), Some(last)) => format!(" or {first} to {last}"),
            _ => String::new(),
        };
        let article = if name.starts_with('h') { "an" } else { "a" };
        format!("`{text}` is not {article} {name}: {min} to {max}{or_names} is expected")
    }
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").expect("a date and time")
    }

    fn next(expression: &str, after: &str) -> NaiveDateTime {
        CronExpression::parse(expression).expect(expression).next_local_after(at(after)).expect("fires")
    }

    fn refused(expression: &str) -> (usize, String) {
        let error = CronExpression::parse(expression).expect_err(expression);
        (error.column, error.message)
    }

    #[test]
    fn five_and_six_fields_nicknames_and_names() {
        assert_eq!(next("0 2 * * *", "2026-11-23 02:00:00"), at("2026-11-24 02:00:00"));
        assert_eq!(next("*/5 * * * *", "2026-11-23 02:03:10"), at("2026-11-23 02:05:00"));
        assert_eq!(next("30 0 2 * * *", "2026-11-23 00:00:00"), at("2026-11-23 02:00:30"));
        assert_eq!(next(" @daily ", "2026-11-23 00:00:00"), at("2026-11-24 00:00:00"));
        assert_eq!(next("@weekly", "2026-11-23 00:00:00"), at("2026-11-29 00:00:00"));
        assert_eq!(next("0 3 1 jan,JUL *", "2026-02-01 00:00:00"), at("2026-07-01 03:00:00"));
        assert_eq!(next("10-20/5,50 1 * * *", "2026-01-01 01:20:00"), at("2026-01-01 01:50:00"));
    }

    #[test]
    fn weekdays_are_posix() {
        // 2026-11-23 is a Monday.
        assert_eq!(next("0 2 * * 1", "2026-11-22 12:00:00"), at("2026-11-23 02:00:00"));
        for sunday in ["0", "7", "SUN", "sun", "7-7"] {
            let expression = format!("0 2 * * {sunday}");
            assert_eq!(next(&expression, "2026-11-23 12:00:00"), at("2026-11-29 02:00:00"), "{sunday}");
        }
        for weekend in ["SAT-SUN", "6-7", "6,0"] {
            let expression = format!("0 2 * * {weekend}");
            assert_eq!(next(&expression, "2026-11-23 12:00:00"), at("2026-11-28 02:00:00"), "{weekend}");
            assert_eq!(next(&expression, "2026-11-28 12:00:00"), at("2026-11-29 02:00:00"), "{weekend}");
        }
        assert_eq!(next("0 2 * * MON-FRI", "2026-11-27 12:00:00"), at("2026-11-30 02:00:00"));
    }

    #[test]
    fn a_day_of_month_and_a_weekday_are_alternatives_unless_one_is_a_star() {
        assert_eq!(next("0 0 13 * 5", "2026-11-07 00:00:00"), at("2026-11-13 00:00:00"));
        assert_eq!(next("0 0 15 * 5", "2026-11-13 00:00:00"), at("2026-11-15 00:00:00"));
        assert_eq!(next("0 0 15 * 5", "2026-11-15 00:00:00"), at("2026-11-20 00:00:00"));
        // */2 begins with a star: both must match. Odd days that are Fridays.
        assert_eq!(next("0 0 */2 * 5", "2026-11-13 00:00:00"), at("2026-11-27 00:00:00"));
    }

    #[test]
    fn p16_rare_dates_and_far_years() {
        assert_eq!(next("0 0 29 2 *", "2026-01-01 00:00:00"), at("2028-02-29 00:00:00"));
        assert_eq!(next("0 0 19 1 *", "2037-12-31 00:00:00"), at("2038-01-19 00:00:00"));
        assert_eq!(next("0 4 * * *", "2038-01-19 03:14:08"), at("2038-01-19 04:00:00"));
        for never in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let (column, message) = refused(never);
            assert_eq!(column, 5, "{never}");
            assert!(message.contains("never fires"), "{message}");
        }
        // With a weekday as alternative it does fire.
        assert!(CronExpression::parse("0 0 31 2 1").is_ok());
    }

    #[test]
    fn o01_refusals_name_the_column_and_the_remedy() {
        assert_eq!(refused("0 24 * * *"), (3, "`24` is not an hour: 0 to 23 is expected".into()));
        assert_eq!(refused("0 2 * * MOM").0, 9);
        assert_eq!(refused("1,2,99 * * * *").0, 5);
        assert_eq!(refused("1-70 * * * *").0, 3);
        assert_eq!(refused("30-10 * * * *").0, 1);
        assert_eq!(refused("*/0 * * * *").0, 3);
        assert_eq!(refused("*/90 * * * *").0, 1);
        assert_eq!(refused("5/15 * * * *").1, "a step needs a range before it: `5-59/…` or `*/…`");
        assert_eq!(refused("0 2 * *"), (8, "4 fields, five are expected: the weekday is missing".into()));
        assert_eq!(refused("0 0 2 * * * 2026").0, 13);
        assert_eq!(refused("0 2 L * *").1, "`L` in the day of month field: L, W and # are not supported");
        assert_eq!(refused("0 2 ? * *").1, "`?` in the day of month field: write `*`");
        assert_eq!(refused("0 2 * * MON#1").0, 9);
        assert_eq!(refused("@reboot").0, 1);
        assert_eq!(refused("").0, 1);
        assert_eq!(refused("0 +2 * * *").0, 3);
        assert_eq!(refused("0 2, * * *").1, "a value is missing in the hour field");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[-0-9*/,@ A-Za-zä#?]{0,24}") {
            if let Err(error) = CronExpression::parse(&text) {
                proptest::prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1);
            }
        }
    }
}

//! Results: a JSON line a step, and one table of medians.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::measure::Cost;
use crate::proxy::Traffic;

/// One step of one tool in one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    pub(crate) round: u32,
    /// Place in the sequence, for the order of rows.
    pub(crate) at: usize,
    pub(crate) step: String,
    pub(crate) tool: &'static str,
    #[serde(flatten)]
    pub(crate) cost: Cost,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
    /// In the bucket after the step, bytes.
    pub(crate) bucket_bytes: u64,
    /// How much more than before it.
    pub(crate) added_bytes: i64,
}

/// A Markdown table of the medians over the rounds.
pub(crate) fn table(steps: &[Step]) -> String {
    let mut rows: BTreeMap<(usize, &str), Vec<&Step>> = BTreeMap::new();
    for step in steps {
        rows.entry((step.at, step.tool)).or_default().push(step);
    }
    let mut text = String::from(
        "| step | tool | wall s | CPU s | peak MiB | controller MiB | requests | GET/PUT/HEAD/POST/DELETE | sent MB | received MB | bucket +MB | bucket MB |\n\
         |---|---|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|\n",
    );
    for ((_, tool), steps) in rows {
        let of = |value: &dyn Fn(&Step) -> f64| median(steps.iter().map(|step| value(step)).collect());
        let mega = 1e6;
        let controller = steps[0].cost.controller_rss_mib.map_or(String::from("–"), |_| {
            format!("{:.0}", of(&|step| step.cost.controller_rss_mib.unwrap_or(0.0)))
        });
        let verbs = [
            of(&|step| step.traffic.get as f64),
            of(&|step| step.traffic.put as f64),
            of(&|step| step.traffic.head as f64),
            of(&|step| step.traffic.post as f64),
            of(&|step| step.traffic.delete as f64),
        ];
        let verbs = verbs.map(|count| count.to_string()).join("/");
        writeln!(
            text,
            "| {} | {tool} | {:.2} | {:.2} | {:.0} | {controller} | {} | {verbs} | {:.2} | {:.2} | {:.2} | {:.1} |",
            steps[0].step,
            of(&|step| step.cost.wall_s),
            of(&|step| step.cost.cpu_s),
            of(&|step| step.cost.peak_rss_mib),
            of(&|step| step.traffic.requests() as f64),
            of(&|step| step.traffic.sent_bytes as f64 / mega),
            of(&|step| step.traffic.received_bytes as f64 / mega),
            of(&|step| step.added_bytes as f64 / mega),
            of(&|step| step.bucket_bytes as f64 / mega),
        )
        .expect("a string takes all");
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_is_shown() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        let step = |round, wall_s| Step {
            round,
            at: 0,
            step: "first".to_owned(),
            tool: "restic",
            cost: Cost { wall_s, ..Cost::default() },
            traffic: Traffic { put: 3, ..Traffic::default() },
            bucket_bytes: 2_000_000,
            added_bytes: 2_000_000,
        };
        let text = table(&[step(0, 1.0), step(1, 9.0), step(2, 2.0)]);
        assert!(text.contains("| first | restic | 2.00 |"), "{text}");
        assert!(text.contains("| 3 | 0/3/0/0/0 |"), "{text}");
    }
}

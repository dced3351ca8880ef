//! A plan in plain words.

use super::{ChangeView, LossView, Next, PlanView, SourceView};
use crate::commands::job::images;
use crate::output::{Bytes, Details, Lines, Render, duration};

/// Longest value of a change that is shown, in characters.
const SHOWN: usize = 60;

impl ChangeView {
    fn line(&self) -> String {
        match (self.from.as_str(), self.to.as_str()) {
            ("", "") => cut(&self.what),
            ("", to) => format!("{}: new, {}", cut(&self.what), cut(to)),
            (from, "") => format!("{}: gone, was {}", cut(&self.what), cut(from)),
            (from, to) => format!("{} {} → {}", cut(&self.what), cut(from), cut(to)),
        }
    }
}

/// An image's author wrote it: it must not move the cursor, nor fill the
/// screen.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl LossView {
    fn line(&self) -> String {
        let text = &self.text;
        if self.allowed {
            format!("{text} (allowed)")
        } else {
            format!("{text}: allow with --allow-loss {}", self.name)
        }
    }
}

impl PlanView {
    fn title(&self) -> String {
        let host = if self.host.is_empty() { String::new() } else { format!(" on {}", self.host) };
        let change = match (self.from_image == self.to_image, self.from_image_id == self.to_image_id) {
            (true, true) => format!("{}, the image it has already", self.to_image),
            (true, false) => {
                let (from, to) = (short_id(&self.from_image_id), short_id(&self.to_image_id));
                format!("{} {from} → {to}", self.to_image)
            }
            (false, _) => images(&self.from_image, &self.to_image),
        };
        format!("{}{host}: {change}", self.container)
    }

    fn stops(&self) -> String {
        match (self.running, self.stops.is_empty()) {
            (false, true) => "nothing: it does not run and will not be started".to_owned(),
            (true, true) => "nothing".to_owned(),
            (_, false) => {
                let names = self.stops.join(", then ");
                match self.expected_downtime_seconds {
                    0 => names,
                    seconds => format!("{names}: about {}", about(seconds)),
                }
            }
        }
    }

    fn loses(&self) -> Vec<String> {
        if self.losses.is_empty() {
            return vec!["nothing".to_owned()];
        }
        self.losses.iter().map(LossView::line).collect()
    }

    fn snapshots(&self) -> Vec<String> {
        if self.sources.is_empty() {
            return vec!["none: it writes to no volume or directory".to_owned()];
        }
        let names: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        let mut lines = vec![format!(
            "{} before (complete, every reference checked) and after the stop",
            names.join(", ")
        )];
        for clone in ["reflink", "copy", ""] {
            let of: Vec<&SourceView> = self.sources.iter().filter(|source| source.clone == clone).collect();
            if of.is_empty() {
                continue;
            }
            let whose = if of.len() == self.sources.len() {
                String::new()
            } else {
                let names: Vec<&str> = of.iter().map(|source| source.name.as_str()).collect();
                format!(" of {}", names.join(", "))
            };
            let how = match clone {
                "reflink" => "yes (reflink)".to_owned(),
                "" => "NO".to_owned(),
                _ => {
                    let size: u64 = of.iter().map(|source| source.size_bytes.0).sum();
                    let free = of.iter().map(|source| source.free_bytes.0).min().unwrap_or_default();
                    format!("yes (copy of {}, {} free)", Bytes(size), Bytes(free))
                }
            };
            lines.push(format!("local clone{whose} for rollback: {how}"));
        }
        // Most often there is one way for all, and one line is enough.
        if lines.len() == 2 { vec![lines.join("; ")] } else { lines }
    }

    fn next(&self) -> Option<String> {
        let missing: Vec<String> = self
            .losses
            .iter()
            .filter(|loss| !loss.allowed)
            .map(|loss| format!("--allow-loss {}", loss.name))
            .collect();
        match self.next {
            Next::Nothing => None,
            _ if !self.refusals.is_empty() => Some("It cannot be run while that is so.".to_owned()),
            _ if !missing.is_empty() => {
                Some(format!("It cannot be run yet. Plan it again with {}", missing.join(" ")))
            }
            _ if !self.runnable => Some("It cannot be run.".to_owned()),
            Next::RunPlan => Some(format!(
                "Run it: holdfast upgrade run --plan-id {}   (valid while nothing changes, until {} at most)",
                self.plan_id,
                self.valid_until.local()
            )),
            Next::AskController => Some(format!(
                "Run it through a controller: holdfast upgrade run {} --image {} --host HOST",
                self.container, self.to_image
            )),
        }
    }
}

impl Render for PlanView {
    fn lines(&self) -> Lines {
        let changes: Vec<String> = self.changes.iter().map(ChangeView::line).collect();
        let details = Details::new()
            .list("refused", &self.refusals)
            .list("warns", &self.warnings)
            .list("stays", &self.stays)
            .list(
                "changes",
                if changes.is_empty() { vec!["nothing but the image".to_owned()] } else { changes },
            )
            .add("stops", self.stops())
            .list("loses", self.loses())
            .list("snapshots", self.snapshots())
            .add("health", &self.health)
            .add("digest", &self.to_digest)
            .finish();
        let mut lines = Lines::from(self.title());
        lines.extend(details);
        lines.extend(self.next());
        lines
    }
}

/// As `docker images` prints an id.
fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// Whole seconds: an estimate has no tenths.
fn about(seconds: u32) -> String {
    if seconds < 60 { format!("{seconds} s") } else { duration(u64::from(seconds) * 1000) }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::{
        PlanFleetUpgradeResponse, SourceKind, UpgradeChange, UpgradeLoss, UpgradePlan, UpgradeSource,
    };

    use super::*;
    use crate::error::Exit;
    use crate::output::When;

    fn plan() -> UpgradePlan {
        UpgradePlan {
            container_name: "db".to_owned(),
            running: true,
            from_image: "postgres:16.3".to_owned(),
            from_image_id: "sha256:1111111111111111".to_owned(),
            to_image: "postgres:16.4".to_owned(),
            to_image_id: "sha256:2222222222222222".to_owned(),
            stays: vec!["2 volumes".to_owned(), "network backend (172.20.0.5, alias db)".to_owned()],
            changes: vec![
                change("env PG_VERSION", "16.3", "16.4"),
                change("port 80/tcp", "", "exposed"),
                change("command", "a\u{1b}[31m", ""),
            ],
            stops: vec!["api".to_owned(), "db".to_owned()],
            expected_downtime_seconds: 20,
            losses: vec![loss(false)],
            sources: vec![source("db_data", "reflink")],
            health: "image healthcheck, 2 min; then `SELECT 1` (probe)".to_owned(),
            ..UpgradePlan::default()
        }
    }

    fn change(what: &str, from: &str, to: &str) -> UpgradeChange {
        UpgradeChange { what: what.to_owned(), from: from.to_owned(), to: to.to_owned() }
    }

    fn loss(allowed: bool) -> UpgradeLoss {
        let text = "/tmp/psql_history in the writable layer (4 KiB)".to_owned();
        UpgradeLoss { name: "writable-layer".to_owned(), text, allowed }
    }

    fn source(name: &str, clone: &str) -> UpgradeSource {
        UpgradeSource {
            kind: SourceKind::Volume as i32,
            name: name.to_owned(),
            clone: clone.to_owned(),
            size_bytes: 1 << 30,
            free_bytes: 61 << 30,
            ..UpgradeSource::default()
        }
    }

    fn of_fleet(plan: UpgradePlan) -> PlanView {
        PlanView::from(PlanFleetUpgradeResponse {
            plan_id: "01J9".to_owned(),
            host: "db-1".to_owned(),
            plan: Some(plan),
            valid_until_unix_ms: 1_700_000_000_000,
        })
    }

    #[test]
    fn a_plan_says_what_stays_changes_stops_and_is_lost() {
        let view = of_fleet(plan());
        assert_eq!(
            view.lines().to_string(),
            "db on db-1: postgres:16.3 → 16.4\n\
             stays      2 volumes\n           \
             network backend (172.20.0.5, alias db)\n\
             changes    env PG_VERSION 16.3 → 16.4\n           \
             port 80/tcp: new, exposed\n           \
             command: gone, was a\\u{1b}[31m\n\
             stops      api, then db: about 20 s\n\
             loses      /tmp/psql_history in the writable layer (4 KiB): allow with --allow-loss writable-layer\n\
             snapshots  db_data before (complete, every reference checked) and after the stop; local clone for rollback: yes (reflink)\n\
             health     image healthcheck, 2 min; then `SELECT 1` (probe)\n\
             It cannot be run yet. Plan it again with --allow-loss writable-layer"
        );
        assert_eq!(view.exit(), Exit::Attention);
    }

    #[test]
    fn a_plan_that_can_be_run_names_its_command() {
        let view = of_fleet(UpgradePlan { losses: vec![loss(true)], runnable: true, ..plan() });
        let text = view.lines().to_string();
        assert!(
            text.contains("\nloses      /tmp/psql_history in the writable layer (4 KiB) (allowed)\n"),
            "{text}"
        );
        let until = When(1_700_000_000_000).local();
        assert!(
            text.ends_with(&format!(
                "\nRun it: holdfast upgrade run --plan-id 01J9   (valid while nothing changes, until {until} at most)"
            )),
            "{text}"
        );
        assert_eq!(view.exit(), Exit::Done);
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!(json["plan_id"], "01J9");
        assert_eq!(json["valid_until"], "2023-11-14T22:13:20.000Z");
        assert_eq!(json["changes"][2]["from"], "a\u{1b}[31m", "JSON is exact");
        assert_eq!(json["sources"][0]["size_bytes"], 1 << 30);
    }

    #[test]
    fn refusals_come_first_and_end_it() {
        let refusals = vec!["db is part of a swarm service: update the service".to_owned()];
        let text = of_fleet(UpgradePlan { refusals, ..plan() }).lines().to_string();
        let second = text.lines().nth(1).unwrap_or_default();
        assert_eq!(second, "refused    db is part of a swarm service: update the service");
        assert!(text.ends_with("\nIt cannot be run while that is so."), "{text}");
    }

    #[test]
    fn the_socket_sends_on_to_a_controller_and_a_started_one_nowhere() {
        let ready = || UpgradePlan { losses: Vec::new(), runnable: true, ..plan() };
        let text = PlanView::at_socket(ready()).lines().to_string();
        assert!(text.starts_with("db: postgres:16.3 → 16.4\n"), "{text}");
        assert!(text.ends_with("holdfast upgrade run db --image postgres:16.4 --host HOST"), "{text}");
        let text = PlanView::started("db-1".to_owned(), ready()).lines().to_string();
        assert!(text.contains("\nloses      nothing\n") && !text.contains("Run it"), "{text}");
    }

    #[test]
    fn each_way_of_cloning_is_told_apart() {
        let mut view = of_fleet(plan());
        let set = |view: &mut PlanView, sources: &[(&str, &str)]| {
            view.sources = sources.iter().map(|(name, clone)| source(name, clone).into()).collect();
            view.snapshots().join("\n")
        };
        assert_eq!(set(&mut view, &[]), "none: it writes to no volume or directory");
        assert_eq!(
            set(&mut view, &[("a", "copy"), ("b", "copy")]),
            "a, b before (complete, every reference checked) and after the stop; local clone for rollback: yes (copy of 2.0 GiB, 61 GiB free)"
        );
        assert_eq!(
            set(&mut view, &[("a", "reflink"), ("b", "copy")]),
            "a, b before (complete, every reference checked) and after the stop\n\
             local clone of a for rollback: yes (reflink)\n\
             local clone of b for rollback: yes (copy of 1.0 GiB, 61 GiB free)"
        );
    }

    #[test]
    fn an_image_is_told_by_what_differs() {
        let named = |from: &str, to: &str, to_id: &str| {
            let (from_image, to_image) = (from.to_owned(), to.to_owned());
            let plan = UpgradePlan { from_image, to_image, to_image_id: to_id.to_owned(), ..plan() };
            PlanView::at_socket(plan).title()
        };
        let (old, new) = ("sha256:1111111111111111", "sha256:2222222222222222");
        assert_eq!(named("r:5000/a:1", "r:5000/a:2", new), "db: r:5000/a:1 → 2");
        assert_eq!(named("a:1", "b:1", new), "db: a:1 → b:1");
        assert_eq!(named("r:5000/a", "r:5000/b", new), "db: r:5000/a → r:5000/b");
        assert_eq!(named("a:1", "a:1", new), "db: a:1 111111111111 → 222222222222");
        assert_eq!(named("a:1", "a:1", old), "db: a:1, the image it has already");
        assert_eq!(named("a@sha256:11", "a@sha256:22", new), "db: a@sha256:11 → a@sha256:22");
    }
}

//! `holdfast audit`

use holdfast_proto::v1::{AuditRow, ListAuditRequest, VerifyAuditRequest, VerifyAuditResponse};
use serde::Serialize;

use super::{Env, collect, counted, within};
use crate::args::AuditCommand;
use crate::error::{Exit, Result};
use crate::output::{self, Lines, Render, Rows, When};

#[derive(Serialize)]
struct RowView {
    number: u64,
    anonymous: bool,
    time: When,
    caller: String,
    method: String,
    subject: String,
    outcome: String,
    detail: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct RowList(Vec<RowView>);

#[derive(Serialize)]
struct VerifiedView {
    intact: bool,
    rows: u64,
    broken_row: u64,
    anonymous: bool,
    problem: String,
    bucket_row: u64,
    bucket_problem: String,
}

impl From<AuditRow> for RowView {
    fn from(row: AuditRow) -> Self {
        let AuditRow { number, anonymous, unix_ms, caller, method, subject, outcome, detail } = row;
        Self { number, anonymous, time: When(unix_ms), caller, method, subject, outcome, detail }
    }
}

impl From<VerifyAuditResponse> for VerifiedView {
    fn from(answer: VerifyAuditResponse) -> Self {
        let VerifyAuditResponse { rows, broken_row, anonymous, problem, bucket_row, bucket_problem } = answer;
        let intact = problem.is_empty();
        Self { intact, rows, broken_row, anonymous, problem, bucket_row, bucket_problem }
    }
}

impl Render for RowList {
    fn lines(&self) -> Lines {
        let headings = ["ROW", "TIME", "CALLER", "METHOD", "OUTCOME", "ABOUT"];
        let mut rows = Rows::new(&headings, "no rows").right(&[0]);
        for row in &self.0 {
            let about = [row.subject.as_str(), row.detail.as_str()];
            rows.push([
                // Anonymous rows are a chain of their own, with numbers of their own.
                format!("{}{}", if row.anonymous { "a" } else { "" }, row.number),
                row.time.local(),
                row.caller.clone(),
                row.method.rsplit('/').next().unwrap_or_default().to_owned(),
                row.outcome.clone(),
                about.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": "),
            ]);
        }
        rows.finish()
    }
}

impl Render for VerifiedView {
    fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        if self.intact {
            let bucket = match self.bucket_row {
                0 => String::new(),
                row => format!("; row {row} is the one the bucket knows of"),
            };
            lines.push(format!("{}, none changed or missing{bucket}", counted(self.rows, "row")));
        } else {
            let of = if self.anonymous { " of the anonymous ones" } else { "" };
            lines.push(format!(
                "row {}{of}: {}; rows before it are as they were written",
                self.broken_row, self.problem
            ));
        }
        if !self.bucket_problem.is_empty() {
            lines.push(format!("not held against the bucket: {}", self.bucket_problem));
        }
        lines
    }
}

pub(super) async fn run(env: &Env, command: AuditCommand) -> Result<Exit> {
    let mut client = env.client().await?.audit()?;
    match command {
        AuditCommand::Ls { since, caller, method, outcome, limit } => {
            let now_ms = chrono::Utc::now().timestamp_millis();
            let request = ListAuditRequest {
                since_unix_ms: since.map_or(0, |since| since.unix_ms(now_ms)),
                caller: caller.unwrap_or_default(),
                method: method.unwrap_or_default(),
                outcome: outcome.unwrap_or_default(),
                limit,
            };
            let rows = collect(client.list_audit(within(request))).await?;
            output::emit(env.format, &RowList(rows.into_iter().map(RowView::from).collect()));
            Ok(Exit::Done)
        }
        AuditCommand::Verify => {
            let answer = client.verify_audit(within(VerifyAuditRequest {})).await?.into_inner();
            let view = VerifiedView::from(answer);
            output::emit(env.format, &view);
            // Broken rows weigh more than a bucket that could not be asked: they are certain.
            Ok(match (view.intact, view.bucket_problem.is_empty()) {
                (false, _) => Exit::Damage,
                (true, false) => Exit::Unreachable,
                (true, true) => Exit::Done,
            })
        }
    }
}

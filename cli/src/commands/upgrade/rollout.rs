//! `holdfast upgrade run --selector`: many containers, a batch at a time.

use holdfast_proto::v1::{Consistency, RolloutTarget, StartRolloutRequest};
use serde::Serialize;

use super::super::{Env, within_long};
use super::{attend, request as upgrade};
use crate::args::UpgradeRunArgs;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Lines, Render, Rows};

#[derive(Serialize)]
struct TargetView {
    host: String,
    container: String,
    image: String,
    /// Why it cannot be upgraded; empty where it can.
    refusal: String,
}

#[derive(Serialize)]
struct RolloutView {
    targets: Vec<TargetView>,
    warnings: Vec<String>,
}

impl From<RolloutTarget> for TargetView {
    fn from(target: RolloutTarget) -> Self {
        let RolloutTarget { host, container, image, refusal } = target;
        Self { host, container, image, refusal }
    }
}

impl Render for RolloutView {
    fn lines(&self) -> Lines {
        let mut rows = Rows::new(&["HOST", "CONTAINER", "IMAGE", "REFUSED"], "no container matches");
        for target in &self.targets {
            rows.push([
                target.host.clone(),
                target.container.clone(),
                target.image.clone(),
                target.refusal.clone(),
            ]);
        }
        let mut lines = rows.finish();
        for warning in &self.warnings {
            lines.push(format!("warning: {warning}"));
        }
        lines
    }
}

impl RolloutView {
    fn exit(&self) -> Exit {
        let refused = self.targets.iter().any(|target| !target.refusal.is_empty());
        // A rollout that would leave something out, or finds nothing to do, is not what was asked
        // for.
        if refused || self.targets.is_empty() || !self.warnings.is_empty() {
            Exit::Attention
        } else {
            Exit::Done
        }
    }
}

pub(super) async fn run(env: &Env, args: UpgradeRunArgs) -> Result<Exit> {
    let (plan_only, no_wait) = (args.plan, args.no_wait);
    let client = env.client().await?;
    let answer = client.upgrades()?.start_rollout(within_long(request(args))).await?.into_inner();
    let view = RolloutView {
        targets: answer.targets.into_iter().map(TargetView::from).collect(),
        warnings: answer.warnings,
    };
    if plan_only {
        output::emit(env.format, &view);
        output::note("nothing was started: this was only the plan");
        return Ok(view.exit());
    }
    let Some(job) = answer.job else {
        output::emit(env.format, &view);
        return Err(CliError::failed("the controller started no rollout"));
    };
    output::show(&view);
    attend(env, &client, job, no_wait).await
}

fn request(args: UpgradeRunArgs) -> StartRolloutRequest {
    let consistency = args.consistency.map_or(Consistency::Unspecified, Consistency::from) as i32;
    StartRolloutRequest {
        selectors: args.selector,
        host_labels: args.host_label,
        upgrade: Some(upgrade(String::new(), args.target, args.options)),
        batch: args.batch,
        max_failures: args.max_failures,
        pause_seconds: args.pause,
        undo: args.undo,
        plan_only: args.plan,
        consistency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(container: &str, refusal: &str) -> TargetView {
        TargetView {
            host: "web-1".to_owned(),
            container: container.to_owned(),
            image: "app:1".to_owned(),
            refusal: refusal.to_owned(),
        }
    }

    #[test]
    fn refusals_stand_beside_their_containers_and_are_in_the_exit_code() {
        let mut view = RolloutView { targets: vec![target("web", "")], warnings: Vec::new() };
        assert_eq!(view.exit(), Exit::Done);
        view.targets.push(target("old", "it is part of a swarm"));
        assert_eq!(view.exit(), Exit::Attention);
        assert_eq!(
            view.lines().to_string(),
            "HOST   CONTAINER  IMAGE  REFUSED\n\
             web-1  web        app:1\n\
             web-1  old        app:1  it is part of a swarm"
        );
        let nothing = RolloutView { targets: Vec::new(), warnings: Vec::new() };
        assert_eq!(
            (nothing.exit(), nothing.lines().to_string().as_str()),
            (Exit::Attention, "no container matches")
        );
    }
}

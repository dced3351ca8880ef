//! `holdfast upgrade`: plans, runs and ways back. `plan` shows what would be
//! done, `rollout` is for many containers, `remembered` for what hosts know.

mod plan;
mod remembered;
mod rollout;

use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{
    CommitUpgradeRequest, Consistency, Job, PlanFleetUpgradeRequest, PlanUpgradeRequest,
    RollBackUpgradeRequest, StartRollbackRequest, StartUpgradeRequest, UpgradeFinished, UpgradeOptions,
    upgrade_event::Event,
};

use super::job::{JobView, follow};
use super::{Env, within, within_long};
use crate::args::{HostArg, ImageArgs, UpgradeCommand, UpgradeOptionArgs, UpgradePlanArgs, UpgradeRunArgs};
use crate::client::Client;
use crate::error::{CliError, ErrorCode, Exit, Result};
use crate::output;

use plan::PlanView;
use remembered::UpgradeView;

pub(super) async fn run(env: &Env, command: UpgradeCommand) -> Result<Exit> {
    match command {
        UpgradeCommand::Plan(args) => {
            let UpgradePlanArgs { host, container, target, options } = args;
            let host = env.host(&host)?;
            plan(env, host, request(container, target, options)).await
        }
        UpgradeCommand::Run(args) => start(env, *args).await,
        UpgradeCommand::Status { host, container } => remembered::status(env, host.host, container).await,
        UpgradeCommand::Commit { host, upgrade } => {
            let host = env.host(&host)?;
            let mut service = env.client().await?.containers(host)?;
            let answer = service.commit_upgrade(within_long(CommitUpgradeRequest { upgrade })).await?;
            let host = host.unwrap_or_default().to_owned();
            output::emit(env.format, &UpgradeView::new(host, answer.into_inner()));
            Ok(Exit::Done)
        }
        UpgradeCommand::Rollback { host, upgrade, without_snapshot, no_wait } => {
            env.host(&host)?;
            if env.at_socket() {
                check_rollback_at_socket(without_snapshot, no_wait)?;
                return roll_back_here(env, upgrade).await;
            }
            roll_back(env, host, upgrade, without_snapshot, no_wait).await
        }
    }
}

/// The message both planning and starting send.
fn request(container: String, target: ImageArgs, options: UpgradeOptionArgs) -> PlanUpgradeRequest {
    let UpgradeOptionArgs { allow_loss, health_timeout, steady, grace, probe_cmd, probe_tcp, probe_http } =
        options;
    PlanUpgradeRequest {
        container,
        image: target.image.unwrap_or_default(),
        pull: target.pull,
        options: Some(UpgradeOptions {
            health_timeout_seconds: health_timeout.unwrap_or_default(),
            steady_seconds: steady.unwrap_or_default(),
            probe: probe_cmd.or(probe_tcp).or(probe_http),
            grace_seconds: grace.unwrap_or_default(),
            stopped_seconds: 0,
            allow_loss,
        }),
    }
}

/// Shows what would be done, by the controller's word or by the agent's.
async fn plan(env: &Env, host: Option<&str>, request: PlanUpgradeRequest) -> Result<Exit> {
    let client = env.client().await?;
    let view = match host {
        Some(host) => {
            let request = PlanFleetUpgradeRequest { host: host.to_owned(), upgrade: Some(request) };
            client.upgrades()?.plan_upgrade(within_long(request)).await?.into_inner().into()
        }
        None => {
            let plan = client.containers(None)?.plan_upgrade(within_long(request)).await?.into_inner();
            PlanView::at_socket(plan)
        }
    };
    output::emit(env.format, &view);
    Ok(view.exit())
}

async fn start(env: &Env, args: UpgradeRunArgs) -> Result<Exit> {
    // A rollback is the agent's own work and possible without a controller; an upgrade is not.
    if env.at_socket() {
        return Err(CliError::usage(
            "an upgrade needs a controller: its snapshots go to the repository before anything stops",
        )
        .hint("holdfast upgrade run CONTAINER --image REFERENCE --host HOST, without --socket"));
    }
    if !args.selector.is_empty() {
        return rollout::run(env, args).await;
    }
    let UpgradeRunArgs {
        container,
        host,
        plan_id,
        target,
        options,
        consistency,
        no_wait,
        plan: plan_only,
        ..
    } = args;
    let consistency = consistency.map_or(Consistency::Unspecified, Consistency::from) as i32;
    let request = match (plan_id, container) {
        (Some(plan_id), _) => StartUpgradeRequest { plan_id, consistency, ..StartUpgradeRequest::default() },
        (None, container) => {
            let upgrade = request(container.unwrap_or_default(), target, options);
            if plan_only {
                return plan(env, host.as_deref(), upgrade).await;
            }
            let (plan_id, host) = (String::new(), host.unwrap_or_default());
            StartUpgradeRequest { plan_id, host, upgrade: Some(upgrade), consistency }
        }
    };
    let host = request.host.clone();
    let client = env.client().await?;
    let answer = client.upgrades()?.start_upgrade(within_long(request)).await?.into_inner();
    let plan = answer.plan.map(|plan| {
        let host = answer.job.as_ref().map_or(host, |job| job.host.clone());
        PlanView::started(host, plan)
    });
    let Some(job) = answer.job else { return Err(not_started(env, plan.as_ref())) };
    if let Some(plan) = plan {
        // On standard error: the result on standard output is the job alone.
        output::show(&plan);
    }
    attend(env, &client, job, no_wait).await
}

/// The plan has refusals, or losses that nobody has allowed. It says which, on
/// standard output; the error says that nothing runs.
fn not_started(env: &Env, plan: Option<&PlanView>) -> CliError {
    let Some(plan) = plan else {
        return CliError::failed("the controller started no upgrade and gave no reason");
    };
    output::emit(env.format, plan);
    CliError::failed("nothing was started: the plan says what is in the way")
}

/// Follows a job that was started, or leaves it alone.
async fn attend(env: &Env, client: &Client, job: Job, no_wait: bool) -> Result<Exit> {
    let id = job.id.clone();
    let view = JobView::from(job);
    if no_wait {
        output::emit(env.format, &view);
        output::note(format!("started; follow it with: holdfast job watch {id}"));
        return Ok(Exit::Done);
    }
    output::show(&view);
    follow(env, client, vec![id]).await
}

async fn roll_back(
    env: &Env,
    host: HostArg,
    upgrade: String,
    without_snapshot: bool,
    no_wait: bool,
) -> Result<Exit> {
    let client = env.client().await?;
    let request = StartRollbackRequest { host: host.host.unwrap_or_default(), upgrade, without_snapshot };
    let answer = client.upgrades()?.start_rollback(within(request)).await?.into_inner();
    let job = answer
        .job
        .ok_or_else(|| CliError::failed("the controller started no rollback and gave no reason"))?;
    attend(env, &client, job, no_wait).await
}

/// Without a controller nothing can keep what was written since the upgrade.
fn check_rollback_at_socket(without_snapshot: bool, no_wait: bool) -> Result<()> {
    if !without_snapshot {
        return Err(CliError::usage(
            "at an agent's socket no snapshot can be taken of what was written since the upgrade: \
             --without-snapshot discards it, a rollback through the controller keeps it",
        )
        .hint("holdfast upgrade rollback NAME --host HOST, without --socket"));
    }
    if no_wait {
        return Err(CliError::usage("--no-wait is for jobs of a controller: at a socket there is none"));
    }
    Ok(())
}

async fn roll_back_here(env: &Env, upgrade: String) -> Result<Exit> {
    let mut service = env.client().await?.containers(None)?;
    // An id of its own: nobody else knows this job, and the agent keeps its record under it.
    let request = RollBackUpgradeRequest { upgrade, job_id: JobId::generate().to_string(), wait: false };
    // Without a deadline: the data may have to be brought back first.
    let mut stream = service.roll_back_upgrade(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        match event.event {
            Some(Event::Step(step)) => output::note(step.text),
            Some(Event::Finished(finished)) => return finish(env, finished),
            Some(Event::Stopped(_)) | None => {}
        }
    }
    Err(CliError::new(ErrorCode::WatchLost, "the agent fell silent before the rollback ended")
        .hint("holdfast upgrade status; the agent finishes by itself what it began"))
}

fn finish(env: &Env, finished: UpgradeFinished) -> Result<Exit> {
    let UpgradeFinished { ok: _, rolled_back, cancelled: _, downtime_ms: _, error_code, error, upgrade } =
        finished;
    if let Some(upgrade) = upgrade {
        output::emit(env.format, &UpgradeView::new(String::new(), upgrade));
    }
    // That is what was asked for, whatever the error says about the upgrade itself.
    if rolled_back {
        return Ok(Exit::Done);
    }
    // Agents from before error codes send none.
    let code = if error_code.is_empty() { ErrorCode::Failed.as_str() } else { &error_code };
    Err(CliError::ending(Exit::Failed, code, format!("it was not rolled back: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use holdfast_proto::v1::probe::Kind;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &str) -> std::result::Result<UpgradeCommand, clap::Error> {
        let words = ["holdfast", "upgrade"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words)?.command {
            Command::Upgrade(command) => Ok(command),
            other => panic!("upgrade was expected, not {other:?}"),
        }
    }

    #[test]
    fn a_plan_says_what_to_and_how_it_shows_itself_well() {
        let line = "plan db --image postgres:16.4 --host db-1 --allow-loss tmpfs:/run --allow-loss writable-layer \
                    --health-timeout 2m --steady 30 --grace 48h --probe-http 8080/healthz";
        let UpgradeCommand::Plan(args) = parse(line).expect("parses") else { panic!("a plan was expected") };
        let request = request(args.container, args.target, args.options);
        assert_eq!((request.container.as_str(), request.image.as_str()), ("db", "postgres:16.4"));
        let options = request.options.expect("options");
        assert_eq!(options.allow_loss, ["tmpfs:/run", "writable-layer"]);
        let spans = (options.health_timeout_seconds, options.steady_seconds, options.grace_seconds);
        assert_eq!(spans, (120, 30, 172_800));
        assert!(
            matches!(options.probe.and_then(|probe| probe.kind), Some(Kind::Http(http)) if http.port == 8080)
        );
    }

    #[test]
    fn a_run_is_of_one_container_one_plan_or_a_selection() {
        for line in [
            "plan db --pull",
            "run db --image a:2 --host h",
            "run db --pull --host h --plan",
            "run --plan-id 01J --consistency stop",
            "run --selector app=web --selector tier --image a:2 --batch 2 --max-failures 1 --pause 5m --undo",
            "run --selector app=web --pull --host-label zone=a --plan",
            "status",
            "status db --host h",
            "commit db --host h",
            "rollback 01J --host h --without-snapshot",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "plan db",
            "plan --image a:2",
            "plan db --image a:2 --probe-tcp 1 --probe-http 1/x",
            "plan db --image a:2 --grace 0",
            "run",
            "run db --image a:2",
            "run db --host h",
            "run db --image a:2 --host h --batch 2",
            "run db --image a:2 --host h --selector app=web",
            "run --plan-id 01J --host h",
            "run --plan-id 01J --image a:2",
            "run --plan-id 01J --grace 2h",
            "run --plan-id 01J --plan",
            "run --selector app=web",
            "run --selector app=web --image a:2 --host h",
            "run --selector app=web --image a:2 --batch 0",
            "run --selector app=web --image a:2 --plan --no-wait",
            "run --image a:2 --host h",
            "rollback",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_rollback_at_the_socket_names_what_it_cannot_keep() {
        let error = check_rollback_at_socket(false, false).expect_err("would discard");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("--without-snapshot"), "{}", error.message);
        assert!(check_rollback_at_socket(true, true).is_err());
        assert!(check_rollback_at_socket(true, false).is_ok());
    }
}

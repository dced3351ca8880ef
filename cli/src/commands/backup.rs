//! `holdfast backup`

use holdfast_proto::v1::{Consistency, NestedMounts, StartBackupRequest};

use super::job::{JobList, JobView, follow};
use super::{Env, within};
use crate::args::{BackupCommand, BackupRunArgs};
use crate::error::{Exit, Result};
use crate::output;

pub(super) async fn run(env: &Env, command: BackupCommand) -> Result<Exit> {
    let BackupCommand::Run(args) = command;
    let client = env.client().await?;
    let (wait, plan) = (!args.no_wait && !args.plan, args.plan);
    let answer = client.jobs()?.start_backup(within(request(args))).await?.into_inner();
    for warning in &answer.warnings {
        output::note(format!("warning: {warning}"));
    }
    if wait {
        let ids: Vec<String> = answer.jobs.iter().map(|job| job.id.clone()).collect();
        for job in &answer.jobs {
            output::note(format!("job {} backup · {} · {} sources", job.id, job.host, job.sources.len()));
        }
        return follow(env, &client, ids).await;
    }
    output::emit(env.format, &JobList(answer.jobs.into_iter().map(JobView::from).collect()));
    if plan {
        output::note("nothing was started: this was only the plan");
    }
    Ok(if answer.warnings.is_empty() { Exit::Done } else { Exit::Attention })
}

fn request(args: BackupRunArgs) -> StartBackupRequest {
    let consistency = match args.policy {
        Some(_) => Consistency::Unspecified,
        None => args.consistency.into(),
    };
    let nested_mounts = match args.leave_out_mounts {
        true => NestedMounts::LeaveOut,
        false => NestedMounts::Unspecified,
    };
    StartBackupRequest {
        policy: args.policy.unwrap_or_default(),
        host: args.host.unwrap_or_default(),
        volumes: args.volume,
        directories: args.directory,
        consistency: consistency as i32,
        allow_empty: args.allow_empty,
        plan_only: args.plan,
        max_downtime_seconds: args.max_downtime.unwrap_or_default(),
        nested_mounts: nested_mounts as i32,
    }
}

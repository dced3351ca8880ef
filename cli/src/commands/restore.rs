//! `holdfast restore`

use holdfast_proto::v1::StartRestoreRequest;
use serde::Serialize;

use super::job::follow;
use super::{Env, within};
use crate::args::{RestoreCommand, RestoreOptions};
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Lines, Render};

#[derive(Serialize)]
struct PlanView {
    plan: Vec<String>,
}

impl Render for PlanView {
    fn lines(&self) -> Lines {
        self.plan.iter().collect()
    }
}

pub(super) async fn run(env: &Env, command: RestoreCommand) -> Result<Exit> {
    let (request, options) = request(command);
    let client = env.client().await?;
    let answer = client.jobs()?.start_restore(within(request)).await?.into_inner();
    if options.plan {
        output::emit(env.format, &PlanView { plan: answer.plan });
        output::note("nothing was started: this was only the plan");
        return Ok(Exit::Done);
    }
    for line in &answer.plan {
        output::note(line);
    }
    let job =
        answer.job.ok_or_else(|| CliError::failed("the controller started no job and gave no reason"))?;
    if options.no_wait {
        output::note(format!("started; follow it with: holdfast job watch {}", job.id));
        return Ok(Exit::Done);
    }
    follow(env, &client, vec![job.id]).await
}

fn request(command: RestoreCommand) -> (StartRestoreRequest, RestoreOptions) {
    let common = |options: &RestoreOptions| StartRestoreRequest {
        devices: options.devices,
        setuid: options.setuid,
        strict: options.strict,
        salvage: options.salvage,
        plan_only: options.plan,
        ..StartRestoreRequest::default()
    };
    match command {
        RestoreCommand::Volume(args) => {
            let request = StartRestoreRequest {
                snapshot: args.snapshot,
                host: args.host,
                as_volume: args.as_volume,
                driver: args.driver.unwrap_or_default(),
                options: args.options.into_iter().collect(),
                ..common(&args.common)
            };
            (request, args.common)
        }
        RestoreCommand::Files(args) => {
            let request = StartRestoreRequest {
                snapshot: args.snapshot,
                host: args.host,
                directory: args.to,
                paths: args.paths.into_iter().map(String::into_bytes).collect(),
                ..common(&args.common)
            };
            (request, args.common)
        }
    }
}

//! `holdfast demo`: a backup by schedule, a disaster and a restore on this
//! machine, with real processes, a real Engine and nothing left behind.

mod app;

use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_proto::v1::{
    ApplyPoliciesRequest, GetJobRequest, Job, JobState, ListJobsRequest, PolicyFile, StartBackupRequest,
    StartRestoreRequest,
};

use super::job::has_ended;
use super::{Env, collect, within};
use crate::args::DemoArgs;
use crate::client::Client;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Bytes, When};
use crate::stack::{Layout, Stack};

use app::App;

const HOST: &str = "demo-host";
const POLICY: &str = "demo";
/// A cron fire is at most a minute away; the rest is for slow machines.
const FIRE_TIMEOUT: Duration = Duration::from_secs(150);

pub(super) async fn run(_env: &Env, args: DemoArgs) -> Result<Exit> {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::usage("the demo reads Docker's volumes, which only root may")
            .hint("sudo holdfast demo"));
    }
    let dir = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir()
        .map_err(|error| CliError::io("the temporary directory", &error))?;
    // What is missing is found out before anything is made.
    let layout = Layout::new(dir.path(), args.binaries, &args.docker_host)?;
    let begun = Instant::now();
    let app = App::new(&layout.docker_host)?;
    output::say(format!(
        "holdfast {} · demo on Docker Engine {} · everything lives in {} and is removed at the end",
        env!("CARGO_PKG_VERSION"),
        app.engine_version()?,
        dir.path().display()
    ));
    let mut stack = Stack::prepare(layout)?;
    walk_through(&mut stack, &app, dir.path()).await?;
    // Before the folder goes, which holds what they write to.
    stack.stop();
    drop(app);
    output::say(format!(
        "Done in {}. Next: `holdfast dev` keeps this running; deploy/README.md sets it up for real.",
        output::duration(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    ));
    Ok(Exit::Done)
}

/// The walk-through, step by step.
async fn walk_through(stack: &mut Stack, app: &App, dir: &Path) -> Result<()> {
    let step = Step::begin("controller up");
    let client = stack.start_controller().await?;
    step.done(format!("sqlite, repository {}, TLS on {}", "directory", stack.layout.context()?.address));

    let step = Step::begin("host enrolled");
    let host = stack.start_agent(&client, HOST).await?;
    step.done(format!("{HOST}, certificate until {}", When(host.certificate_not_after_unix_ms).date()));

    let step = Step::begin("app running");
    app.start(dir)?;
    step.done(format!("container {} writes to volume {}", app.container, app.volume));

    let step = Step::begin("policy applied");
    apply(&client, app).await?;
    step.done(format!("{POLICY}: cron \"* * * * *\" UTC, consistency pause, keep_last 5"));

    let step = Step::begin("policy fired");
    let job = wait_for_fire(&client).await?;
    step.done(format!("by cron at {} → job {}", When(job.fire_unix_ms).local(), job.id));
    say_snapshot("snapshot 1", &job)?;

    // Stopped by our own hand, so that what is compared at the end is exactly
    // what was backed up.
    app.pause()?;
    let reference = dir.join("reference");
    app.copy_to(&reference)?;
    let job = finish(&client, start_backup(&client, app).await?).await?;
    say_snapshot("snapshot 2", &job)?;

    let step = Step::begin("disaster");
    app.destroy()?;
    step.done(format!("container {} and volume {} deleted", app.container, app.volume));

    let step = Step::begin("restored");
    let job = finish(&client, start_restore(&client, app).await?).await?;
    let restored = job.restore.unwrap_or_default();
    step.done(format!(
        "{} files, {}, verified against the manifest: {} differences",
        restored.files,
        Bytes(restored.bytes),
        restored.differences
    ));

    let step = Step::begin("compared");
    let tool = app.compare_with(&reference)?;
    step.done(format!("identical to what was backed up (by {tool})"));
    Ok(())
}

/// A line of the walk-through with the time it took.
struct Step {
    name: &'static str,
    begun: Instant,
}

impl Step {
    fn begin(name: &'static str) -> Self {
        Self { name, begun: Instant::now() }
    }

    fn done(self, detail: String) {
        let took = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        output::say(format!("  ✓ {:<16} {detail:<70} {:>8}", self.name, output::duration(took)));
    }
}

async fn apply(client: &Client, app: &App) -> Result<()> {
    let toml = format!(
        "name = \"{POLICY}\"\nconsistency = \"pause\"\nvolumes = [\"{}\"]\nhosts = [\"{HOST}\"]\n\n\
         [schedule]\ncron = \"* * * * *\"\nzone = \"UTC\"\n\n[retention]\nkeep_last = 5\n",
        app.volume
    );
    let request = ApplyPoliciesRequest {
        files: vec![PolicyFile { path: "demo.toml".to_owned(), toml }],
        ..ApplyPoliciesRequest::default()
    };
    let answer = client.policies()?.apply_policies(within(request)).await?.into_inner();
    match answer.problems.first() {
        None => Ok(()),
        Some(problem) => Err(CliError::failed(format!("the demo's policy was refused: {}", problem.message))),
    }
}

async fn wait_for_fire(client: &Client) -> Result<Job> {
    // Waited for, not started: that a schedule fires is what the demo shows.
    let deadline = Instant::now() + FIRE_TIMEOUT;
    while Instant::now() < deadline {
        let request = ListJobsRequest { policy: POLICY.to_owned(), limit: 1, ..ListJobsRequest::default() };
        let jobs = collect(client.jobs()?.list_jobs(within(request))).await?;
        if let Some(job) = jobs.into_iter().next() {
            return finish(client, job).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(CliError::failed("the policy did not fire"))
}

async fn start_backup(client: &Client, app: &App) -> Result<Job> {
    let request = StartBackupRequest {
        host: HOST.to_owned(),
        volumes: vec![app.volume.clone()],
        consistency: holdfast_proto::v1::Consistency::Pause as i32,
        ..StartBackupRequest::default()
    };
    let answer = client.jobs()?.start_backup(within(request)).await?.into_inner();
    answer.jobs.into_iter().next().ok_or_else(|| CliError::failed("no backup was started"))
}

async fn start_restore(client: &Client, app: &App) -> Result<Job> {
    let request = StartRestoreRequest {
        snapshot: format!("{}@latest", app.volume),
        host: HOST.to_owned(),
        as_volume: app.volume.clone(),
        ..StartRestoreRequest::default()
    };
    let answer = client.jobs()?.start_restore(within(request)).await?.into_inner();
    answer.job.ok_or_else(|| CliError::failed("no restore was started"))
}

/// Waits until a job has ended, and ended well.
async fn finish(client: &Client, mut job: Job) -> Result<Job> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !has_ended(job.state()) {
        if Instant::now() > deadline {
            return Err(CliError::failed(format!("job {} does not end; it is at: {}", job.id, job.step)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        job = client.jobs()?.get_job(within(GetJobRequest { id: job.id })).await?.into_inner();
    }
    if job.state() == JobState::Succeeded {
        return Ok(job);
    }
    let cause = job
        .sources
        .iter()
        .filter_map(|source| source.finished.as_ref())
        .map(|finished| finished.error.as_str());
    let cause: Vec<&str> =
        std::iter::once(job.error.as_str()).chain(cause).filter(|text| !text.is_empty()).collect();
    Err(CliError::failed(format!("job {} did not succeed: {}", job.id, cause.join("; "))))
}

fn say_snapshot(name: &'static str, job: &Job) -> Result<()> {
    let finished = job
        .sources
        .first()
        .and_then(|source| source.finished.as_ref())
        .ok_or_else(|| CliError::failed(format!("job {} names no snapshot", job.id)))?;
    let stats = finished.stats.unwrap_or_default();
    let paused = job.quiesced.first().map_or(String::new(), |down| {
        format!(", {} {} {}", down.container_name, down.how, output::duration(down.downtime_ms))
    });
    let detail = format!(
        "{} files, {} changed, {} read → {} stored{paused}",
        stats.files,
        stats.changed_files,
        Bytes(stats.read_bytes),
        Bytes(stats.stored_bytes)
    );
    output::say(format!("  ✓ {name:<16} {detail:<70} {:>8}", output::duration(finished.duration_ms)));
    Ok(())
}

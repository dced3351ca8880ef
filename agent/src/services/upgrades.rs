//! The upgrade calls of `ContainerService`: parse, one call, encode.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, probe::Kind};
use tonic::{Code, Status};

use super::snapshots::{admission_status, cancelled_before, parse_job};
use crate::upgrade::plan::PlanRequest;
use crate::upgrade::record::{Options, Probe, RecordedFailure};
use crate::upgrade::{RequestError, RunRequest, UpgradeError, Upgrades};

use super::upgrade_wire;

pub(super) type Events = Pin<Box<dyn Stream<Item = Result<v1::UpgradeEvent, Status>> + Send>>;

pub(super) async fn plan(
    upgrades: &Upgrades,
    request: v1::PlanUpgradeRequest,
) -> Result<v1::UpgradePlan, Status> {
    let planned = upgrades.plan(&parse_plan(request)?).await.map_err(upgrade_status)?;
    Ok(upgrade_wire::plan(planned))
}

pub(super) fn run(upgrades: &Upgrades, request: v1::RunUpgradeRequest) -> Result<Events, Status> {
    let v1::RunUpgradeRequest { job_id, generation, container, image, fingerprint, options } = request;
    if fingerprint.is_empty() {
        return Err(
            ErrorCode::InvalidRequest.status("an upgrade is run by a plan: its fingerprint is missing")
        );
    }
    let request = RunRequest {
        job: parse_job(&job_id)?,
        generation,
        // The image was fetched for the plan.
        plan: PlanRequest { container, image, pull: false, options: parse_options(options)? },
        fingerprint,
    };
    let job = request.job;
    let events = upgrades.run(request).map_err(upgrade_status)?.ok_or_else(cancelled_before)?;
    Ok(Box::pin(events.map(move |event| Ok(upgrade_wire::event(job, event)))))
}

pub(super) fn proceed(
    upgrades: &Upgrades,
    request: &v1::ProceedUpgradeRequest,
) -> Result<v1::ProceedUpgradeResponse, Status> {
    let job = parse_job(&request.job_id)?;
    let proceeds =
        upgrades.proceed(job, request.generation, request.until_unix_ms).map_err(upgrade_status)?;
    Ok(v1::ProceedUpgradeResponse { proceeds })
}

pub(super) fn list(
    upgrades: &Upgrades,
    request: &v1::ListUpgradesRequest,
) -> Result<Vec<v1::Upgrade>, Status> {
    let job = if request.job_id.is_empty() { None } else { Some(parse_job(&request.job_id)?) };
    Ok(upgrades.list(&request.container, job).iter().map(upgrade_wire::upgrade).collect())
}

pub(super) async fn commit(
    upgrades: &Upgrades,
    request: &v1::CommitUpgradeRequest,
) -> Result<v1::Upgrade, Status> {
    let committed = upgrades.commit(&request.upgrade).await.map_err(upgrade_status)?;
    Ok(upgrade_wire::upgrade(&committed))
}

pub(super) fn roll_back(upgrades: &Upgrades, request: &v1::RollBackUpgradeRequest) -> Result<Events, Status> {
    let job = if request.job_id.is_empty() { JobId::generate() } else { parse_job(&request.job_id)? };
    let events = upgrades.roll_back(&request.upgrade, job, request.wait).map_err(upgrade_status)?;
    Ok(Box::pin(events.map(move |event| Ok(upgrade_wire::event(job, event)))))
}

fn parse_plan(request: v1::PlanUpgradeRequest) -> Result<PlanRequest, Status> {
    let v1::PlanUpgradeRequest { container, image, pull, options } = request;
    if container.is_empty() {
        return Err(ErrorCode::InvalidRequest.status("the container to upgrade is missing"));
    }
    // Wrong ones are refused with the plan, not when it is run.
    Ok(PlanRequest { container, image, pull, options: parse_options(options)? })
}

fn parse_options(options: Option<v1::UpgradeOptions>) -> Result<Options, Status> {
    let v1::UpgradeOptions {
        health_timeout_seconds,
        steady_seconds,
        probe,
        grace_seconds,
        stopped_seconds,
        allow_loss,
    } = options.unwrap_or_default();
    let usual = Options::default();
    let or = |given: u32, usual: u32| if given == 0 { usual } else { given };
    Ok(Options {
        health_timeout_seconds: or(health_timeout_seconds, usual.health_timeout_seconds),
        steady_seconds: or(steady_seconds, usual.steady_seconds),
        grace_seconds: or(grace_seconds, usual.grace_seconds),
        stopped_seconds: or(stopped_seconds, usual.stopped_seconds),
        probe: probe.and_then(|probe| probe.kind).map(parse_probe).transpose()?,
        allow_loss,
    })
}

fn parse_probe(kind: Kind) -> Result<Probe, Status> {
    let port = |port: u32| {
        u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| ErrorCode::InvalidRequest.status(format!("{port} is no port: 1 to 65535 are")))
    };
    match kind {
        Kind::Command(command) if command.argv.is_empty() => {
            Err(ErrorCode::InvalidRequest.status("the probe's command is empty"))
        }
        Kind::Command(command) => Ok(Probe::Command(command.argv)),
        Kind::TcpPort(tcp) => Ok(Probe::Tcp(port(tcp)?)),
        Kind::Http(http) if http.path.starts_with('/') => {
            Ok(Probe::Http { port: port(http.port)?, path: http.path })
        }
        Kind::Http(http) => Err(ErrorCode::InvalidRequest
            .status(format!("`{}` is no path: it begins with `/`", http.path.escape_debug()))),
    }
}

fn upgrade_status(error: RequestError) -> Status {
    match error {
        RequestError::NotCommitted(error) => error.code().status(error.to_string()),
        RequestError::NotAllowed(error) => error.into(),
        RequestError::Admission(error) => admission_status(error),
        RequestError::Failed(error) => failed_status(&error),
    }
}

/// Whatever else failed in the upgrade itself is a fact of this host, and no
/// reason to ask it again.
fn failed_status(error: &UpgradeError) -> Status {
    let RecordedFailure { code, message } = RecordedFailure::from(error);
    let grpc = match code {
        ErrorCode::NotFound
        | ErrorCode::ImageNotThere
        | ErrorCode::InvalidRequest
        | ErrorCode::EngineUnreachable
        | ErrorCode::EngineTimeout => code.grpc(),
        _ => Code::FailedPrecondition,
    };
    code.tag(Status::new(grpc, message), code.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default_and_a_probe_is_whole_or_refused() {
        let options = parse_options(None).unwrap();
        assert_eq!((options.health_timeout_seconds, options.grace_seconds), (120, 86_400));
        let with = |kind| {
            parse_options(Some(v1::UpgradeOptions {
                probe: Some(v1::Probe { kind: Some(kind) }),
                ..Default::default()
            }))
        };
        assert_eq!(with(Kind::TcpPort(80)).unwrap().probe, Some(Probe::Tcp(80)));
        for bad in [
            Kind::TcpPort(0),
            Kind::TcpPort(65_536),
            Kind::Command(v1::ProbeCommand::default()),
            Kind::Http(v1::ProbeHttp { port: 80, path: "health".to_owned() }),
        ] {
            assert_eq!(with(bad).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}

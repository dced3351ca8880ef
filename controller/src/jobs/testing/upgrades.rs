//! The part of the agent for tests that upgrades containers. Each upgrade goes
//! its way on a task of its own, as on a real agent, whether somebody listens
//! or not.

use std::collections::{BTreeMap, HashSet};

use futures_util::{StreamExt as _, stream};
use holdfast_proto::v1::container_service_server::ContainerService;
use holdfast_proto::v1::upgrade_event::Event;
use holdfast_proto::v1::*;
use tonic::{Request, Response, Status};

use super::{Events, FakeAgent, eventually};

/// What the agent knows of its containers.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    /// By name.
    containers: BTreeMap<String, Container>,
    /// Volumes each container writes to.
    sources: BTreeMap<String, Vec<String>>,
    refusals: BTreeMap<String, String>,
    /// Part of every fingerprint.
    world: u32,
    /// New containers of these names do not become well.
    unwell: HashSet<String>,
    /// Upgrades stay in this state until they are let go of.
    held_at: Option<UpgradeState>,
    runs: BTreeMap<String, Run>,
    /// Jobs in the order in which their upgrades were begun.
    begun: Vec<String>,
    proceeds: usize,
    cuts: u32,
    /// Rollbacks stop everything so often.
    rests: i64,
    /// Jobs that undo an upgrade and wait with everything stopped.
    rollbacks: BTreeMap<String, StoppedForRollback>,
}

/// The rest it is in, whether it may proceed from there, and how many backups
/// there had been when it began.
#[derive(Debug, Default, Clone, Copy)]
struct StoppedForRollback {
    until_unix_ms: i64,
    proceed: bool,
    backups: usize,
}

#[derive(Debug, Default, Clone)]
struct Run {
    upgrade: Upgrade,
    events: Vec<Event>,
    proceed: bool,
}

impl FakeAgent {
    /// A container that writes to these volumes.
    pub(crate) fn container(&self, name: &str, labels: &[(&str, &str)], volumes: &[&str]) {
        let container = Container {
            id: format!("id-{name}"),
            name: name.to_owned(),
            image: "app:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            state: "running".to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Container::default()
        };
        let mut told = self.told();
        told.upgrades.containers.insert(name.to_owned(), container);
        told.upgrades
            .sources
            .insert(name.to_owned(), volumes.iter().map(|volume| (*volume).to_owned()).collect());
    }

    pub(crate) fn refuse(&self, container: &str, reason: &str) {
        self.told().upgrades.refusals.insert(container.to_owned(), reason.to_owned());
    }

    /// Plans made before do not hold any more.
    pub(crate) fn change_world(&self) {
        self.told().upgrades.world += 1;
    }

    pub(crate) fn unwell(&self, container: &str) {
        self.told().upgrades.unwell.insert(container.to_owned());
    }

    /// Upgrades stay in this state, until `None` is given.
    pub(crate) fn hold_at(&self, state: Option<UpgradeState>) {
        self.told().upgrades.held_at = state;
        self.changed.send_modify(|version| *version += 1);
    }

    /// Rollbacks stop everything twice, the second time while the snapshot of the
    /// first is taken, as of an agent that was restarted.
    pub(crate) fn stop_twice(&self) {
        self.told().upgrades.rests = 2;
    }

    pub(crate) fn cut_upgrades(&self, count: u32) {
        self.told().upgrades.cuts = count;
    }

    /// The agent has this upgrade go back by itself.
    pub(crate) fn give_up(&self, job: &str) {
        self.cancelled.send_if_modified(|jobs| jobs.insert(job.to_owned()));
    }

    /// As if the agent's state had been thrown away.
    pub(crate) fn forget_upgrades(&self) {
        let mut told = self.told();
        let ids: Vec<String> = told.upgrades.runs.keys().cloned().collect();
        for id in ids {
            told.running.remove(&id);
        }
        told.upgrades.runs.clear();
        drop(told);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Images that run, by container.
    pub(crate) fn images(&self) -> BTreeMap<String, String> {
        let told = self.told();
        told.upgrades.containers.iter().map(|(name, found)| (name.clone(), found.image.clone())).collect()
    }

    pub(crate) fn begun(&self) -> usize {
        self.told().upgrades.begun.len()
    }

    pub(crate) fn proceeds(&self) -> usize {
        self.told().upgrades.proceeds
    }

    pub(crate) fn upgrade_states(&self) -> Vec<UpgradeState> {
        self.told().upgrades.runs.values().map(|run| run.upgrade.state()).collect()
    }

    fn enter(&self, job: &str, state: UpgradeState) {
        let step = UpgradeStep { state: state.into(), text: state.as_str_name().to_owned(), unix_ms: 1 };
        if let Some(run) = self.told().upgrades.runs.get_mut(job) {
            run.upgrade.state = state.into();
            run.upgrade.steps.push(step.clone());
            run.events.push(Event::Step(step));
        }
        self.changed.send_modify(|version| *version += 1);
    }

    fn say(&self, job: &str, event: Event) {
        if let Some(run) = self.told().upgrades.runs.get_mut(job) {
            run.events.push(event);
        }
        self.changed.send_modify(|version| *version += 1);
    }

    /// Waits until nothing holds this state. False: it was cancelled.
    async fn pass(&self, job: &str, state: UpgradeState, proceed: bool) -> bool {
        let (mut changed, mut cancelled) = (self.changed.subscribe(), self.cancelled.subscribe());
        loop {
            if self.cancelled.borrow().contains(job) {
                return false;
            }
            {
                let told = self.told();
                let run = told.upgrades.runs.get(job);
                let let_on = !proceed || run.is_some_and(|run| run.proceed);
                if told.upgrades.held_at != Some(state) && let_on {
                    return true;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = cancelled.changed() => {}
            }
        }
    }

    async fn go(self, job: String, request: RunUpgradeRequest) {
        for state in [UpgradeState::Preparing, UpgradeState::Stopping] {
            self.enter(&job, state);
            if !self.pass(&job, state, false).await {
                return self.go_back(&job, "", true);
            }
        }
        self.enter(&job, UpgradeState::Stopped);
        self.say(&job, Event::Stopped(UpgradeStopped::default()));
        if !self.pass(&job, UpgradeState::Stopped, true).await {
            return self.go_back(&job, "", true);
        }
        for state in [UpgradeState::Switching, UpgradeState::Gating] {
            self.enter(&job, state);
            if !self.pass(&job, state, false).await {
                return self.go_back(&job, "", true);
            }
        }
        if self.told().upgrades.unwell.contains(&request.container) {
            return self.go_back(&job, "it did not become well", false);
        }
        self.enter(&job, UpgradeState::Committed);
        self.set_image(&request.container, &request.image);
        self.finish_upgrade(&job, UpgradeFinished { ok: true, ..UpgradeFinished::default() });
    }

    /// An upgrade undone.
    fn put_back(&self, job: &str, known: Upgrade) -> UpgradeFinished {
        self.set_image(&known.container_name, &known.from_image);
        let back = Upgrade { state: UpgradeState::RolledBack.into(), ..known };
        if let Some(run) = self.told().upgrades.runs.get_mut(job) {
            run.upgrade = back.clone();
        }
        UpgradeFinished { rolled_back: true, upgrade: Some(back), ..Default::default() }
    }

    /// False: it was cancelled.
    /// For the second time only once the snapshot of the first is being taken.
    async fn stops_for_rollback(&self, rollback: &str, rest: i64) -> i64 {
        if rest > 0 {
            let asked = self.told().upgrades.rollbacks.get(rollback).map_or(0, |rollback| rollback.backups);
            eventually("the snapshot of the first stop", || self.backups().len() > asked).await;
        }
        let until_unix_ms = 77 + rest;
        let stopped_now = StoppedForRollback { until_unix_ms, proceed: false, backups: self.backups().len() };
        self.told().upgrades.rollbacks.insert(rollback.to_owned(), stopped_now);
        until_unix_ms
    }

    async fn waits_for_proceed(&self, rollback: &str) -> bool {
        let (mut changed, mut cancelled) = (self.changed.subscribe(), self.cancelled.subscribe());
        loop {
            if cancelled.borrow_and_update().contains(rollback) {
                return false;
            }
            changed.borrow_and_update();
            if self.told().upgrades.rollbacks.get(rollback).is_some_and(|rollback| rollback.proceed) {
                return true;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = cancelled.changed() => {}
            }
        }
    }

    fn go_back(&self, job: &str, error: &str, cancelled: bool) {
        self.enter(job, UpgradeState::RolledBack);
        let (rolled_back, error) = (true, error.to_owned());
        self.finish_upgrade(job, UpgradeFinished { rolled_back, cancelled, error, ..Default::default() });
    }

    fn set_image(&self, container: &str, image: &str) {
        if let Some(found) = self.told().upgrades.containers.get_mut(container) {
            found.image = image.to_owned();
            found.image_id = format!("sha256:{image}");
        }
    }

    fn finish_upgrade(&self, job: &str, finished: UpgradeFinished) {
        let upgrade = {
            let mut told = self.told();
            told.running.remove(job);
            told.upgrades.runs.get(job).map(|run| run.upgrade.clone())
        };
        self.say(job, Event::Finished(UpgradeFinished { downtime_ms: 1234, upgrade, ..finished }));
    }

    fn plan_of(&self, request: &PlanUpgradeRequest) -> Result<UpgradePlan, Status> {
        let told = self.told();
        let upgrades = &told.upgrades;
        let container = upgrades
            .containers
            .get(&request.container)
            .ok_or_else(|| Status::not_found(format!("no container {}", request.container)))?;
        let refusals: Vec<String> = upgrades.refusals.get(&container.name).cloned().into_iter().collect();
        let source = |name: &String| UpgradeSource {
            kind: SourceKind::Volume.into(),
            name: name.clone(),
            ..UpgradeSource::default()
        };
        Ok(UpgradePlan {
            fingerprint: format!("{}:{}:{}", container.image_id, request.image, upgrades.world),
            container_id: container.id.clone(),
            container_name: container.name.clone(),
            running: true,
            from_image: container.image.clone(),
            from_image_id: container.image_id.clone(),
            to_image: request.image.clone(),
            to_image_id: format!("sha256:{}", request.image),
            sources: upgrades.sources.get(&container.name).into_iter().flatten().map(source).collect(),
            runnable: refusals.is_empty(),
            refusals,
            ..UpgradePlan::default()
        })
    }

    /// All that was said of an upgrade and will be.
    fn listen(&self, job: String, cut: bool) -> Events<UpgradeEvent> {
        let state = (self.clone(), self.changed.subscribe(), 0_usize);
        let events = stream::unfold(state, move |(agent, mut changed, at)| {
            let job = job.clone();
            async move {
                loop {
                    changed.borrow_and_update();
                    let run = agent.told().upgrades.runs.get(&job).cloned();
                    let Some(run) = run else {
                        return (at < usize::MAX)
                            .then(|| (Err(Status::unavailable("lost")), (agent, changed, usize::MAX)));
                    };
                    if cut && at == 1 {
                        return Some((Err(Status::unavailable("cut")), (agent, changed, usize::MAX)));
                    }
                    if let Some(event) = run.events.get(at) {
                        let event = UpgradeEvent { job_id: job, event: Some(event.clone()) };
                        return Some((Ok(event), (agent, changed, at + 1)));
                    }
                    if matches!(run.events.last(), Some(Event::Finished(_))) || at == usize::MAX {
                        return None;
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        Box::pin(events)
    }
}

#[tonic::async_trait]
impl ContainerService for FakeAgent {
    type ListContainersStream = Events<Container>;
    type RunUpgradeStream = Events<UpgradeEvent>;
    type ListUpgradesStream = Events<Upgrade>;
    type RollBackUpgradeStream = Events<UpgradeEvent>;

    async fn list_containers(
        &self,
        _request: Request<ListContainersRequest>,
    ) -> Result<Response<Self::ListContainersStream>, Status> {
        let listed: Vec<_> = self.told().upgrades.containers.values().cloned().map(Ok).collect();
        Ok(Response::new(Box::pin(stream::iter(listed))))
    }

    async fn plan_upgrade(
        &self,
        request: Request<PlanUpgradeRequest>,
    ) -> Result<Response<UpgradePlan>, Status> {
        self.plan_of(&request.into_inner()).map(Response::new)
    }

    async fn run_upgrade(
        &self,
        request: Request<RunUpgradeRequest>,
    ) -> Result<Response<Self::RunUpgradeStream>, Status> {
        let request = request.into_inner();
        let (job, generation) = (request.job_id.clone(), request.generation);
        let plan = self.plan_of(&PlanUpgradeRequest {
            container: request.container.clone(),
            image: request.image.clone(),
            ..PlanUpgradeRequest::default()
        })?;
        let (begins, cut) = {
            let mut told = self.told();
            if told.running.get(&job).is_some_and(|seen| *seen > generation) {
                return Err(Status::failed_precondition("a caller that was replaced"));
            }
            let begins = !told.upgrades.runs.contains_key(&job);
            if begins {
                if self.cancelled.borrow().contains(&job) {
                    return Err(Status::cancelled("cancelled before it came"));
                }
                if plan.fingerprint != request.fingerprint {
                    return Err(Status::failed_precondition("the world has changed"));
                }
                let upgrade = Upgrade {
                    job_id: job.clone(),
                    container_name: request.container.clone(),
                    from_image: plan.from_image,
                    to_image: request.image.clone(),
                    sources: plan.sources,
                    ..Upgrade::default()
                };
                told.upgrades.runs.insert(job.clone(), Run { upgrade, ..Run::default() });
                told.upgrades.begun.push(job.clone());
            }
            let ended = told
                .upgrades
                .runs
                .get(&job)
                .is_some_and(|run| matches!(run.events.last(), Some(Event::Finished(_))));
            if !ended {
                told.running.insert(job.clone(), generation);
            }
            let cut = told.upgrades.cuts > 0;
            told.upgrades.cuts = told.upgrades.cuts.saturating_sub(1);
            (begins, cut)
        };
        if begins {
            tokio::spawn(self.clone().go(job.clone(), request));
        }
        Ok(Response::new(self.listen(job, cut)))
    }

    async fn proceed_upgrade(
        &self,
        request: Request<ProceedUpgradeRequest>,
    ) -> Result<Response<ProceedUpgradeResponse>, Status> {
        let ProceedUpgradeRequest { job_id, generation, until_unix_ms } = request.into_inner();
        let proceeds = {
            let mut told = self.told();
            if told.running.get(&job_id).is_some_and(|seen| *seen > generation) {
                return Err(Status::failed_precondition("a caller that was replaced"));
            }
            told.upgrades.proceeds += 1;
            if let Some(rollback) = told.upgrades.rollbacks.get_mut(&job_id) {
                let proceeds = rollback.until_unix_ms == until_unix_ms;
                rollback.proceed |= proceeds;
                drop(told);
                self.changed.send_modify(|version| *version += 1);
                return Ok(Response::new(ProceedUpgradeResponse { proceeds }));
            }
            let run = told.upgrades.runs.get_mut(&job_id).ok_or_else(|| Status::not_found("unknown"))?;
            run.proceed = true;
            run.upgrade.state() == UpgradeState::Stopped
        };
        self.changed.send_modify(|version| *version += 1);
        Ok(Response::new(ProceedUpgradeResponse { proceeds }))
    }

    async fn list_upgrades(
        &self,
        request: Request<ListUpgradesRequest>,
    ) -> Result<Response<Self::ListUpgradesStream>, Status> {
        let ListUpgradesRequest { container, job_id } = request.into_inner();
        let told = self.told();
        let listed: Vec<_> = told
            .upgrades
            .runs
            .values()
            .rev()
            .map(|run| run.upgrade.clone())
            .filter(|upgrade| container.is_empty() || upgrade.container_name == container)
            .filter(|upgrade| job_id.is_empty() || upgrade.job_id == job_id)
            .map(Ok)
            .collect();
        Ok(Response::new(Box::pin(stream::iter(listed))))
    }

    async fn roll_back_upgrade(
        &self,
        request: Request<RollBackUpgradeRequest>,
    ) -> Result<Response<Self::RollBackUpgradeStream>, Status> {
        let RollBackUpgradeRequest { upgrade, job_id, wait } = request.into_inner();
        let known = self.told().upgrades.runs.get(&upgrade).map(|run| run.upgrade.clone());
        let known = known.ok_or_else(|| Status::not_found("no such upgrade"))?;
        if known.state() != UpgradeState::Committed {
            return Err(Status::failed_precondition("there is no way back"));
        }
        let wrap = |job_id: &str, event| Ok(UpgradeEvent { job_id: job_id.to_owned(), event: Some(event) });
        if !wait {
            let finished = self.put_back(&upgrade, known);
            return Ok(Response::new(Box::pin(stream::iter([wrap(&job_id, Event::Finished(finished))]))));
        }
        let resting = Upgrade { state: UpgradeState::AwaitingRollbackSnapshot.into(), ..known.clone() };
        {
            let mut told = self.told();
            told.upgrades.rollbacks.insert(job_id.clone(), StoppedForRollback::default());
            if let Some(run) = told.upgrades.runs.get_mut(&upgrade) {
                run.upgrade = resting;
            }
        }
        let rests = self.told().upgrades.rests.max(1);
        let (agent, job) = (self.clone(), job_id.clone());
        let stops = stream::iter(0..rests).then(move |rest| {
            let (agent, job) = (agent.clone(), job.clone());
            async move {
                let until_unix_ms = agent.stops_for_rollback(&job, rest).await;
                wrap(&job, Event::Stopped(UpgradeStopped { until_unix_ms, ..UpgradeStopped::default() }))
            }
        });
        let agent = self.clone();
        let end = stream::once(async move {
            let finished = if agent.waits_for_proceed(&job_id).await {
                agent.put_back(&upgrade, known)
            } else {
                if let Some(run) = agent.told().upgrades.runs.get_mut(&upgrade) {
                    run.upgrade = known;
                }
                UpgradeFinished { cancelled: true, error_code: "cancelled".into(), ..Default::default() }
            };
            wrap(&job_id, Event::Finished(finished))
        });
        Ok(Response::new(Box::pin(stops.chain(end))))
    }

    async fn inspect_container(
        &self,
        _request: Request<InspectContainerRequest>,
    ) -> Result<Response<ContainerDetails>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_container_spec(
        &self,
        _request: Request<GetContainerSpecRequest>,
    ) -> Result<Response<ContainerSpec>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn run_container(
        &self,
        _request: Request<RunContainerRequest>,
    ) -> Result<Response<RunContainerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn start_container(
        &self,
        _request: Request<StartContainerRequest>,
    ) -> Result<Response<Container>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stop_container(
        &self,
        _request: Request<StopContainerRequest>,
    ) -> Result<Response<Container>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_container(
        &self,
        _request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn commit_upgrade(
        &self,
        _request: Request<CommitUpgradeRequest>,
    ) -> Result<Response<Upgrade>, Status> {
        Err(Status::unimplemented(""))
    }
}

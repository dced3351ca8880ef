//! What an upgrade would do, found out without doing any of it.
//!
//! A plan is made again right before it is run, so everything it says has to
//! come out the same as long as the world is the same: lists are in a fixed
//! order, and the [fingerprint](fingerprint) is over what decides, not over
//! sizes. Nothing here stops, makes or writes anything that stays; only an
//! image is fetched where it is asked for or not there.

pub(crate) mod changes;
mod fingerprint;
mod health;
mod powers;
mod refusals;
mod sources;
mod stays;
pub(super) mod stops;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;
use serde_json::Value;

use crate::allow::Allow;
use crate::clone::CloneError;
use crate::compose;
use crate::engine::{Container, ContainerState, Engine, EngineError, MountKind, Volume};
use crate::quiesce::Place;
use crate::spec::{Spec, SpecError, Specs, base};
use crate::upgrade::guards::{Loss, database, tmpfs, volumes, writable_layer};
use crate::upgrade::handover::Own;
use crate::upgrade::image::{ImageFacts, is_id};
use crate::upgrade::record::{Options, Probe};

use self::changes::Change;
use self::fingerprint::World;

pub(crate) use self::refusals::Refusal;
pub(crate) use self::sources::PlannedSource;

/// What plans are made with.
#[derive(Debug, Clone)]
pub(crate) struct PlanContext {
    pub engine: Engine,
    pub allow: Allow,
    /// Knows what containers were made of, also before this agent's time.
    pub specs: Specs,
    /// The container this agent runs in, if any.
    pub own: Option<Own>,
}

/// What a plan is made of.
#[derive(Debug, Clone, Default)]
pub struct PlanRequest {
    /// Name or id.
    pub container: String,
    /// Empty: the reference the container was made with.
    pub image: String,
    /// Fetch the image even where one of that name is there.
    pub pull: bool,
    pub options: Options,
}

/// What a plan says to people.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Of everything the plan depends on: equal as long as the world is.
    pub fingerprint: String,
    pub running: bool,
    /// As the registry knows it; empty for an image that came from none.
    pub to_digest: String,
    /// In words, a line each.
    pub stays: Vec<String>,
    pub changes: Vec<Change>,
    /// Names of what stops, in this order.
    pub stops: Vec<String>,
    pub expected_downtime_seconds: u32,
    pub losses: Vec<PlannedLoss>,
    /// What forbids the upgrade and no option allows, a sentence each.
    pub refusals: Vec<String>,
    pub warnings: Vec<String>,
    /// How it will be known that the new container is well.
    pub health: String,
    /// Nothing forbids it and every loss is allowed.
    pub runnable: bool,
    /// What the container may do beyond itself, in words.
    pub powers: Vec<String>,
}

/// A loss, and whether the request allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLoss {
    pub loss: Loss,
    pub allowed: bool,
}

/// A plan, for people and for the machine that runs it.
#[derive(Debug, Clone)]
pub struct Planned {
    pub summary: Summary,
    pub spec: Spec,
    pub old: Container,
    pub to_image: String,
    pub to_image_id: String,
    /// What has to be quiesced, in this order; the upgraded container is the last,
    /// and also there when it does not run.
    pub stops: Vec<Container>,
    pub sources: Vec<PlannedSource>,
}

/// No plan could be made. Nothing was stopped.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("container `{container}` is not there{near}")]
    NotFound { container: String, near: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("image `{image}` cannot be had; nothing was stopped")]
    Image {
        image: String,
        #[source]
        source: EngineError,
    },
    #[error(
        "image `{image}` cannot be fetched by its id, which no registry knows: name its repository and tag; nothing was stopped"
    )]
    ImageById { image: String },
    #[error("the data of `{name}` cannot be measured; nothing was stopped")]
    Measure {
        name: String,
        #[source]
        source: CloneError,
    },
}

impl PlanError {
    /// Error code for whoever asked for the plan, or to run it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Engine(error) => error.kind().code(),
            Self::Image { .. } | Self::ImageById { .. } => ErrorCode::ImageNotThere,
            Self::Spec(_) => ErrorCode::Spec,
            Self::Measure { .. } => ErrorCode::Unreadable,
        }
    }
}

/// Finds out what an upgrade would do.
///
/// # Errors
/// When there is no such container or image, or the host cannot be asked. What
/// forbids an upgrade that can be planned is in the plan.
pub(crate) async fn plan(context: &PlanContext, request: &PlanRequest) -> Result<Planned, PlanError> {
    let world = Look::at(context, request).await?;
    let found = Findings::of(context, request, &world).await?;
    Ok(found.planned(request, world))
}

/// What was there when the plan was made.
struct Look {
    old: Container,
    inspected: Value,
    others: Vec<Container>,
    spec: Spec,
    to_image: String,
    from: ImageFacts,
    to: ImageFacts,
    volumes: BTreeMap<String, Volume>,
    data_root: PathBuf,
    machine: String,
}

impl Look {
    async fn at(context: &PlanContext, request: &PlanRequest) -> Result<Self, PlanError> {
        let engine = &context.engine;
        let info = engine.info().await?;
        let mut old = find_container(engine, &request.container).await?;
        let inspected = engine.inspect_container_json(&old.id).await?;
        let spec = context.specs.read_inspected(&inspected).await?;
        // Of one made of a kept layer, the image it had at first.
        old.image.clone_from(&spec.image);
        let to_image = if request.image.is_empty() { old.image.clone() } else { request.image.clone() };
        let to = find_image(engine, &to_image, request.pull, spec.platform.as_deref()).await?;
        let from = base::of(engine, engine.inspect_image_json(&old.image_id).await?).await?;
        let volumes = engine.list_volumes().await?;
        Ok(Self {
            others: other_containers(engine, &old).await?,
            old,
            inspected,
            spec,
            to_image,
            from: ImageFacts::of(&from),
            to: ImageFacts::of(&to),
            volumes: volumes.into_iter().map(|volume| (volume.name.clone(), volume)).collect(),
            data_root: info.data_root,
            machine: info.architecture,
        })
    }

    fn is_running(&self) -> bool {
        self.old.state == ContainerState::Running
    }
}

async fn find_container(engine: &Engine, name: &str) -> Result<Container, PlanError> {
    let error = match engine.inspect_container(name).await {
        Ok(container) => return Ok(container),
        Err(error) if error.is_not_found() => error,
        Err(error) => return Err(error.into()),
    };
    tracing::debug!(%error, container.name = name, "asked to upgrade a container that is not there");
    let all = engine.list_containers().await?;
    let others = all.iter().filter(|other| !other.is_holder());
    let near = did_you_mean(name, others.map(|other| other.name.as_str()));
    Err(PlanError::NotFound { container: name.to_owned(), near })
}

/// Every other container but those this agent made to hold volumes. One that
/// goes meanwhile is passed over.
async fn other_containers(engine: &Engine, old: &Container) -> Result<Vec<Container>, EngineError> {
    let mut others = Vec::new();
    for summary in engine.list_containers().await? {
        if summary.is_holder() || summary.id == old.id {
            continue;
        }
        match engine.inspect_container(&summary.id).await {
            Ok(container) => others.push(container),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(others)
}

/// The image of a reference, fetched where that is asked for or it is absent.
async fn find_image(
    engine: &Engine,
    reference: &str,
    pull: bool,
    platform: Option<&str>,
) -> Result<Value, PlanError> {
    let failed = |source| PlanError::Image { image: reference.to_owned(), source };
    if !pull {
        match engine.inspect_image_json(reference).await {
            Ok(image) => return Ok(image),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if is_id(reference) {
        return Err(PlanError::ImageById { image: reference.to_owned() });
    }
    engine.pull_image(reference, platform).await.map_err(failed)?;
    engine.inspect_image_json(reference).await.map_err(failed)
}

/// What the look came to.
#[derive(Default)]
struct Findings {
    losses: Vec<Loss>,
    refusals: Vec<Refusal>,
    warnings: Vec<String>,
    sources: Vec<PlannedSource>,
    stops: Vec<Container>,
    /// Of the database version, where one was recognised.
    fits: Option<String>,
    /// Of files that are no data.
    runtime: Option<String>,
    /// What is kept besides the data, in words.
    kept: Vec<String>,
}

impl Findings {
    async fn of(context: &PlanContext, request: &PlanRequest, world: &Look) -> Result<Self, PlanError> {
        let engine = &context.engine;
        let own = context.own.as_ref();
        let mut found = Self { warnings: world.spec.notes.clone(), ..Self::default() };
        let data = match own.filter(|own| own.id == world.old.id) {
            None => {
                sources::find(&world.old.mounts, &world.volumes, &context.allow, &world.data_root).await?
            }
            Some(own) => {
                found.warnings.push(refusals::own_words(&world.old.name));
                let refusals = refusals::of_own(&world.old, own);
                sources::Sources { refusals, ..Default::default() }
            }
        };
        found.sources = data.sources;
        found.look_at_database(world).await;
        let layer = writable_layer::look(engine, &world.old, &world.inspected).await?;
        let written: Vec<PathBuf> = layer.files.iter().map(|(path, _)| path.clone()).collect();
        found.losses.extend(volumes::find(&world.old.mounts, &world.from, &world.to, &written));
        found.losses.extend(data.losses);
        found.losses.extend(writable_layer::loss_of(&layer, None));
        found.look_at_kept(world, &world.old, &layer);
        found.runtime = layer.runtime_words();
        found.losses.extend(in_memory(world).await);

        let is_this = own.is_some_and(|own| own.id == world.old.id);
        found.refusals = refusals::of_container(&world.old, &world.from, is_this);
        let names = world.others.iter().map(|other| other.name.as_str());
        found.refusals.extend(refusals::of_names(&world.old.name, names));
        let asked = world.spec.platform.as_deref();
        found.refusals.extend(refusals::of_platform(
            &world.to_image,
            asked,
            &world.from,
            &world.to,
            &world.machine,
        ));
        let command = matches!(request.options.probe, Some(Probe::Command(_)));
        found.refusals.extend(refusals::of_rights(&context.allow, found.sources.len(), command));
        found.refusals.extend(data.refusals);
        found.refusals.extend(held_ports(engine, world).await?);

        let places: Vec<Place> = found.sources.iter().map(PlannedSource::place).collect();
        let joined = stops::joined(&world.inspected["HostConfig"]);
        let own = own.map(|own| own.id.as_str());
        let stops = stops::plan(&world.others, &world.old, &joined, &places, own);
        found.refusals.extend(stops.refusals);
        found.warnings.extend(stops.warnings);
        found.stops = stops.containers;
        found.look_at_dependents(engine, world).await?;
        found.warn_of_references(world);
        Ok(found)
    }

    /// Those that name the old container by its id, or one another, are recreated
    /// with it, and start without what they wrote.
    async fn look_at_dependents(&mut self, engine: &Engine, world: &Look) -> Result<(), PlanError> {
        let stops: Vec<Container> =
            self.stops.iter().filter(|stop| stop.id != world.old.id).cloned().collect();
        for other in stops::recreated(stops.iter().collect(), &world.old) {
            let inspected = engine.inspect_container_json(&other.id).await?;
            let layer = writable_layer::look(engine, other, &inspected).await?;
            self.losses.extend(writable_layer::loss_of(&layer, Some(&other.name)));
            self.look_at_kept(world, other, &layer);
        }
        Ok(())
    }

    /// Of a container that compose made, and of one that names it by id, a
    /// stand-in is kept, and what it wrote outside its mounts as an image.
    fn look_at_kept(&mut self, world: &Look, container: &Container, layer: &writable_layer::Layer) {
        let own = |one: &Container| compose::is_its_own(|key| one.labels.get(key).map(String::as_str));
        if !own(container) && !own(&world.old) {
            return;
        }
        let name = &container.name;
        self.kept.push(format!(
            "for a rollback, a stand-in of `{name}` without the labels of compose: `docker-compose up` leaves it alone"
        ));
        self.kept.extend(writable_layer::kept_words(layer, name));
        self.losses.extend(writable_layer::too_large(layer, name));
    }

    async fn look_at_database(&mut self, world: &Look) {
        let (old, inspected, sources) = (world.old.clone(), world.inspected.clone(), self.sources.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let known: Vec<_> =
                sources.iter().map(|one| (one.name.to_string(), one.path.as_path())).collect();
            database::find_all(&old, &inspected, &known)
        });
        let (data, failures) = looked.await.expect("looking for databases does not panic");
        let verdict = database::judge(&data, &world.to_image, &world.to);
        self.warnings.extend(failures);
        self.warnings.extend(verdict.warnings);
        self.losses.extend(verdict.losses);
        self.fits = verdict.fits;
    }

    fn warn_of_references(&mut self, world: &Look) {
        let (name, to_image) = (&world.old.name, &world.to_image);
        if world.to.id == world.old.image_id {
            self.warnings.push(format!("`{name}` runs that image already: it would only be recreated"));
        }
        let service = world.old.labels.get("com.docker.compose.service");
        if let Some(service) = service.filter(|_| *to_image != world.old.image) {
            self.warnings.push(format!(
                "`docker compose up` would go back to `{}`: set `image: {to_image}` for service `{service}` in the compose file; the first `up` with it makes the new container once more, with the same data",
                world.old.image
            ));
        }
    }

    fn planned(self, request: &PlanRequest, world: Look) -> Planned {
        let check = health::Check::of(&world.spec.config, &world.to.healthcheck);
        let sizes: Vec<u64> = self.sources.iter().map(|one| one.size_bytes).collect();
        let mounted: Vec<&str> = world.old.mounts.iter().map(|mount| mount.target.as_str()).collect();
        let losses: Vec<PlannedLoss> = self
            .losses
            .iter()
            .map(|loss| PlannedLoss {
                loss: loss.clone(),
                allowed: loss.is_allowed(&request.options.allow_loss),
            })
            .collect();
        let mut stays = stays::words(&world.spec, &world.old.mounts);
        stays.extend(self.fits.clone());
        stays.extend(self.runtime.clone());
        stays.extend(self.kept.clone());
        let stopping = self.stops.iter().filter(|one| one.state.is_live());
        let summary = Summary {
            fingerprint: self.fingerprint(&world),
            running: world.is_running(),
            to_digest: world.to.digest(&world.to_image),
            stays,
            changes: changes::between(&world.from, &world.to, &world.spec.config, &mounted),
            stops: stopping.map(|one| one.name.clone()).collect(),
            expected_downtime_seconds: stops::downtime_seconds(
                &self.stops,
                &sizes,
                check.first_probe_seconds(),
            ),
            runnable: self.refusals.is_empty() && losses.iter().all(|loss| loss.allowed),
            losses,
            refusals: self.refusals.iter().map(|refusal| refusal.text.clone()).collect(),
            warnings: self.warnings,
            health: health::words(&check, &request.options, world.is_running()),
            powers: powers::words(&world.spec.host_config, &world.old.mounts),
        };
        Planned {
            summary,
            spec: world.spec,
            old: world.old,
            to_image: world.to_image,
            to_image_id: world.to.id,
            stops: self.stops,
            sources: self.sources,
        }
    }

    fn fingerprint(&self, world: &Look) -> String {
        let source = |one: &PlannedSource| (one.name.to_string(), one.path.display().to_string());
        let refusal = |one: &'_ Refusal| (one.code.to_owned(), one.subject.clone());
        let refusals: Vec<(String, String)> = self.refusals.iter().map(refusal).collect();
        World {
            container_id: &world.old.id,
            state: world.old.state.as_str(),
            spec: serde_json::to_value(&world.spec).expect("a spec is made of JSON"),
            from_image_id: &world.old.image_id,
            to_image: &world.to_image,
            to_image_id: &world.to.id,
            stops: self.stops.iter().map(|one| one.id.as_str()).collect(),
            sources: self.sources.iter().map(source).collect(),
            losses: self.losses.iter().map(|loss| loss.name.as_str()).collect(),
            refusals: refusals.iter().map(|(code, subject)| (code.as_str(), subject.as_str())).collect(),
        }
        .fingerprint()
    }
}

async fn in_memory(world: &Look) -> Vec<Loss> {
    if !world.old.mounts.iter().any(|mount| mount.kind == MountKind::Tmpfs) {
        return Vec::new();
    }
    let (old, inspected) = (world.old.clone(), world.inspected.clone());
    let looked = tokio::task::spawn_blocking(move || tmpfs::find(&old, &inspected));
    looked.await.expect("looking at a tmpfs does not panic")
}

/// Ports somebody else has. A container that runs has its ports itself; of one
/// that does not, another may have taken them.
async fn held_ports(engine: &Engine, world: &Look) -> Result<Vec<Refusal>, EngineError> {
    let wanted = refusals::host_ports(&world.inspected["HostConfig"]["PortBindings"]);
    if wanted.is_empty() || world.old.state.is_live() {
        return Ok(Vec::new());
    }
    let mut held = Vec::new();
    for other in world.others.iter().filter(|other| other.state.is_live()) {
        match engine.inspect_container_json(&other.id).await {
            Ok(inspected) => {
                held.push((other.name.clone(), refusals::host_ports(&inspected["NetworkSettings"]["Ports"])));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(refusals::of_ports(&world.old.name, &wanted, &held))
}

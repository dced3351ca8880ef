//! Specs kept on disk, each taken when its container is first seen.
//!
//! What a person set can be told only while the image of the container is
//! there; one whose image was removed has no way back. `Config` never changes
//! after a container was made, so one taken earlier is as good as one taken
//! now, and only that part of it is used. The rest of a container can be read
//! without its image and is.
//!
//! A second thing is remembered here: which containers had a name one after
//! the other. Tools that make containers anew leave the id of the first as host
//! name and alias, and only somebody who saw it knows that it is one.
//!
//! A file is there whole or not at all. Values of environment variables are in
//! it, so it is for the agent's user alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_archive::text::causes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::surroundings::Surroundings;
use super::{Facts, Spec, SpecError, host, image_of, text};
use crate::clocks::{Clocks, Moment};
use crate::durable;
use crate::engine::{ContainerSummary, Engine, EngineError};

/// How often containers are looked for that were not seen before.
const EVERY: Duration = Duration::from_secs(60);

/// How long a spec is kept once its container is gone.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Ids remembered for one name, the newest.
const IDS_PER_NAME: usize = 32;

const NAMES_FILE: &str = "names.json";

/// The specs of a host's containers.
#[derive(Debug, Clone)]
pub struct Specs {
    engine: Engine,
    dir: PathBuf,
    clocks: Clocks,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    spec: Spec,
    /// When its container was first found to be gone.
    gone_unix_ms: Option<i64>,
    /// The same by the count of [`crate::clocks`]; 0 in records of agents that
    /// had none.
    #[serde(default)]
    gone_uptime_ms: u64,
}

/// Containers by name.
type Names = BTreeMap<String, Named>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Named {
    /// One after the other, the newest last.
    ids: Vec<String>,
    seen_unix_ms: i64,
    /// The same by the count of [`crate::clocks`].
    #[serde(default)]
    seen_uptime_ms: u64,
}

#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("specs of containers cannot be kept in {}", .dir.display())]
    Io {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Record {
    fn present(spec: Spec) -> Self {
        Self { spec, gone_unix_ms: None, gone_uptime_ms: 0 }
    }

    fn gone_at(self, now: Moment) -> Self {
        Self { gone_unix_ms: Some(now.unix_ms), gone_uptime_ms: now.uptime_ms, ..self }
    }

    fn gone(&self) -> Option<Moment> {
        let uptime_ms = self.gone_uptime_ms;
        self.gone_unix_ms.map(|unix_ms| Moment { unix_ms, uptime_ms })
    }
}

impl Named {
    fn seen(&self) -> Moment {
        Moment { unix_ms: self.seen_unix_ms, uptime_ms: self.seen_uptime_ms }
    }
}

impl Specs {
    /// The specs below `state_dir`, of containers of `engine`. Touches nothing.
    pub fn new(state_dir: &Path, engine: Engine) -> Self {
        Self { engine, dir: state_dir.join("specs"), clocks: Clocks::new(state_dir) }
    }

    /// Whose containers they are.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Reads a container's settings, by name or id. Where its image is gone,
    /// what an earlier look at it found is used.
    ///
    /// # Errors
    /// When there is no such container, or its image is gone and nothing was
    /// kept.
    pub async fn read(&self, id: &str) -> Result<Spec, SpecError> {
        let inspect = self.engine.inspect_container_json(id).await?;
        self.read_inspected(&inspect).await
    }

    /// As [`Specs::read`], of a container that was inspected just now.
    ///
    /// # Errors
    /// When its image is gone and nothing was kept.
    pub async fn read_inspected(&self, inspect: &Value) -> Result<Spec, SpecError> {
        let (own, name) = (text(inspect, "Id").to_owned(), super::container_name(inspect));
        let (dir, id) = (self.dir.clone(), own.clone());
        let (mut former, kept) = blocking(move || (read_names(&dir), read_record(&dir, &id))).await;
        let mut former = former.remove(&name).unwrap_or_default().ids;
        former.retain(|id| *id != own);
        // With the image at hand nothing that was kept is used: it may be older.
        let gone = match Spec::read_inspected(&self.engine, inspect, &former).await {
            Err(gone @ SpecError::ImageGone { .. }) => gone,
            read => return read,
        };
        let Some(kept) =
            kept.map(|record| record.spec).filter(|spec| spec.image_id == text(inspect, "Image"))
        else {
            return Err(gone);
        };
        let mut facts = Facts::of(&self.engine).await?;
        if host::has_ulimits(inspect)
            && let Some(image) = self.any_image().await?
        {
            facts.default_ulimits = Some(self.engine.default_ulimits(&image).await?);
        }
        let surroundings = Surroundings::read(&self.engine, inspect, &former).await?;
        let now = Spec::within(inspect, &Value::Null, &facts, &surroundings)?;
        Ok(completed(now, kept))
    }

    /// As [`Specs::read_inspected`], less what equals the defaults of any image
    /// of this host; says what that is, a line each.
    ///
    /// # Errors
    /// As [`Specs::read_inspected`].
    pub async fn read_clean(&self, inspect: &Value) -> Result<(Spec, Vec<String>), SpecError> {
        let spec = self.read_inspected(inspect).await?;
        let mut images = Vec::new();
        for listed in self.engine.list_images_json().await? {
            match self.engine.inspect_image_json(text(&listed, "Id")).await {
                Ok(image) => images.push(image),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(spec.cleaned(&images))
    }

    /// The Engine puts the same limits on containers of all images.
    async fn any_image(&self) -> Result<Option<Value>, EngineError> {
        match self.engine.list_images_json().await?.first() {
            Some(listed) => self.engine.inspect_image_json(text(listed, "Id")).await.map(Some),
            None => Ok(None),
        }
    }

    /// Keeps the specs of containers as they come, until told to stop; does not
    /// wait for an Engine that hangs then.
    pub async fn run(self, stop: CancellationToken) {
        let keeping = async {
            loop {
                if let Err(error) = self.keep(self.clocks.now()).await {
                    tracing::warn!(error = %causes(&error), "specs of containers were not kept");
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keeping => {}
        }
    }

    /// Takes the specs of containers not seen before; lets go of those whose
    /// container is long gone.
    async fn keep(&self, now: Moment) -> Result<(), StoreError> {
        let io = |source| StoreError::Io { dir: self.dir.clone(), source };
        let mut containers = self.engine.list_containers().await?;
        containers.retain(|container| !container.is_holder());
        let (dir, seen) = (self.dir.clone(), containers.clone());
        let missing = blocking(move || tidy(&dir, &seen, now)).await.map_err(io)?;
        if missing.is_empty() {
            return Ok(());
        }
        let facts = Facts::of(&self.engine).await?;
        for id in missing {
            match self.take(&id, &facts).await {
                Ok(spec) => {
                    let (dir, record) = (self.dir.clone(), Record::present(spec));
                    blocking(move || write(&dir, &record_file(&id), &record)).await.map_err(io)?;
                }
                // Gone meanwhile, or its image is: nothing to be had.
                Err(SpecError::ImageGone { .. } | SpecError::Odd { .. }) => {}
                Err(SpecError::Engine(error)) if error.is_not_found() => {}
                Err(SpecError::Engine(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Without a look at the Engine's limits, which takes a container: of what
    /// is kept only `config` is ever used.
    async fn take(&self, id: &str, facts: &Facts) -> Result<Spec, SpecError> {
        let inspect = self.engine.inspect_container_json(id).await?;
        let image = image_of(&self.engine, &inspect).await?;
        let surroundings = Surroundings::read(&self.engine, &inspect, &[]).await?;
        Spec::within(&inspect, &image, facts, &surroundings)
    }
}

/// What is told without an image, with what was kept of the rest.
fn completed(now: Spec, kept: Spec) -> Spec {
    let mut config = kept.config;
    // Depend on more than `Config`: ids and mounts may be known better now.
    for key in ["Hostname", "Volumes"] {
        match now.config.get(key).filter(|_| key == "Hostname" || config.contains_key(key)) {
            Some(value) => config.insert(key.to_owned(), value.clone()),
            None => config.remove(key),
        };
    }
    let mut notes = now.notes;
    notes.push(
        "its image is not on this host any more: what was set by hand is taken from an earlier look at it"
            .to_owned(),
    );
    Spec { config, platform: kept.platform, notes, ..now }
}

/// Marks records of containers that are gone and removes old ones, remembers
/// who has which name, and returns containers that have no record.
fn tidy(dir: &Path, containers: &[ContainerSummary], now: Moment) -> io::Result<Vec<String>> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let here: BTreeSet<&str> = containers.iter().map(|container| container.id.as_str()).collect();
    let mut recorded = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if durable::is_temporary(&name) {
            fs::remove_file(entry.path())?;
        }
        let Some(id) = name.strip_suffix(".json").filter(|_| name != NAMES_FILE) else { continue };
        // One that cannot be read is written anew, or goes with its container.
        let record = read_record(dir, id);
        match (here.contains(id), record) {
            (true, Some(record)) => {
                recorded.insert(id.to_owned());
                if record.gone_unix_ms.is_some() {
                    write(dir, &name, &Record::present(record.spec))?;
                }
            }
            (true, None) => {}
            (false, Some(record)) => match record.gone() {
                None => write(dir, &name, &record.gone_at(now))?,
                Some(gone) if gone.elapsed(now) > KEPT => fs::remove_file(entry.path())?,
                Some(_) => {}
            },
            (false, None) => fs::remove_file(entry.path())?,
        }
    }
    let before = read_names(dir);
    let names = named(before.clone(), containers, now, KEPT);
    // The times alone need not be exact to the minute.
    if names
        .iter()
        .map(|(name, named)| (name, &named.ids))
        .ne(before.iter().map(|(name, named)| (name, &named.ids)))
        || names
            .values()
            .zip(before.values())
            .any(|(new, old)| new.seen_unix_ms.abs_diff(old.seen_unix_ms) > 3_600_000)
    {
        write(dir, NAMES_FILE, &names)?;
    }
    let missing = containers.iter().map(|container| &container.id).filter(|id| !recorded.contains(*id));
    Ok(missing.cloned().collect())
}

fn named(mut names: Names, containers: &[ContainerSummary], now: Moment, kept: Duration) -> Names {
    for container in containers.iter().filter(|container| !container.name.is_empty()) {
        let named = names.entry(container.name.clone()).or_default();
        (named.seen_unix_ms, named.seen_uptime_ms) = (now.unix_ms, now.uptime_ms);
        if named.ids.last() != Some(&container.id) {
            named.ids.retain(|id| *id != container.id);
            named.ids.push(container.id.clone());
            named.ids.drain(..named.ids.len().saturating_sub(IDS_PER_NAME));
        }
    }
    names.retain(|_, named| named.seen().elapsed(now) <= kept);
    names
}

fn record_file(id: &str) -> String {
    format!("{id}.json")
}

fn read_record(dir: &Path, id: &str) -> Option<Record> {
    read(&dir.join(record_file(id)))
}

fn read_names(dir: &Path) -> Names {
    read(&dir.join(NAMES_FILE)).unwrap_or_default()
}

/// None where it is not there or not to be understood, which only means that
/// less is known.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a kept spec cannot be read"))
        .ok()
}

fn write(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    durable::replace(&dir.join(name), durable::OWNER_ONLY, &serde_json::to_vec_pretty(value)?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it neither panics nor is aborted")
}

#[cfg(test)]
mod tests;

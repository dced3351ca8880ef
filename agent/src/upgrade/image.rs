//! An image as far as it matters to a container made of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What the Engine says of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub id: String,
    /// `repository@sha256:...`, as registries know it.
    pub digests: Vec<String>,
    pub tags: Vec<String>,
    pub os: String,
    pub architecture: String,
    pub variant: String,
    pub env: BTreeMap<String, String>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
    pub workdir: String,
    pub stop_signal: String,
    /// "80/tcp".
    pub ports: BTreeSet<String>,
    /// Paths, without a slash at the end.
    pub volumes: BTreeSet<String>,
    pub healthcheck: Map<String, Value>,
    pub labels: BTreeMap<String, String>,
}

impl ImageFacts {
    /// Reads what `GET /images/…/json` answers.
    pub(crate) fn of(image: &Value) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let config = &image["Config"];
        Self {
            id: text(image, "Id"),
            digests: strings(&image["RepoDigests"]),
            tags: strings(&image["RepoTags"]),
            os: text(image, "Os"),
            architecture: text(image, "Architecture"),
            variant: text(image, "Variant"),
            env: env(&config["Env"]),
            entrypoint: strings(&config["Entrypoint"]),
            command: strings(&config["Cmd"]),
            user: text(config, "User"),
            workdir: text(config, "WorkingDir"),
            stop_signal: text(config, "StopSignal"),
            ports: keys(&config["ExposedPorts"]),
            volumes: keys(&config["Volumes"]).iter().map(|path| trimmed(path).to_owned()).collect(),
            healthcheck: config["Healthcheck"].as_object().cloned().unwrap_or_default(),
            labels: config["Labels"].as_object().map(texts).unwrap_or_default(),
        }
    }

    /// "linux/arm64/v8"; empty where the image does not say.
    pub(crate) fn platform(&self) -> String {
        let parts = [&self.os, &self.architecture, &self.variant];
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("/")
    }

    /// The digest under which a registry has it, of the repository it is asked
    /// for by; empty for an image that came from none.
    pub(crate) fn digest(&self, reference: &str) -> String {
        let repository = Reference::of(reference).repository;
        let names = self.digests.iter().filter_map(|name| name.split_once('@'));
        let known: Vec<_> = names.map(|(at, digest)| (Reference::of(at).repository, digest)).collect();
        // An image that was tagged by hand has no digest of this repository: another names it too.
        let found = known.iter().find(|(at, _)| *at == repository).or(known.first());
        found.map(|(_, digest)| (*digest).to_owned()).unwrap_or_default()
    }
}

/// The parts of an image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Without `docker.io/` and `library/`.
    pub repository: String,
    pub tag: Option<String>,
}

impl Reference {
    pub(super) fn of(reference: &str) -> Self {
        let named = reference.split_once('@').map_or(reference, |(named, _)| named);
        // A colon before the last slash belongs to the port of a registry.
        let start = named.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match named[start..].split_once(':') {
            Some((last, tag)) => (&named[..start + last.len()], Some(tag.to_owned())),
            None => (named, None),
        };
        let hosts = ["docker.io/", "index.docker.io/"];
        let repository = hosts.iter().find_map(|host| repository.strip_prefix(host)).unwrap_or(repository);
        let repository = repository.strip_prefix("library/").unwrap_or(repository);
        Self { repository: repository.to_owned(), tag }
    }

    /// "postgres" of `registry:5000/team/postgres:16`.
    pub(super) fn last_part(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether a reference is an image's id and no name any registry knows.
pub(super) fn is_id(reference: &str) -> bool {
    // A short name of hexadecimal digits can be a repository: without a prefix only 64 are an id.
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    reference.strip_prefix("sha256:").is_some_and(hex) || (reference.len() == 64 && hex(reference))
}

/// A path without a slash at its end.
pub(crate) fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

pub(super) fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(one) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// `KEY=VALUE` lines by key.
pub(super) fn env(value: &Value) -> BTreeMap<String, String> {
    let pair = |line: &String| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        (key.to_owned(), value.to_owned())
    };
    strings(value).iter().map(pair).collect()
}

pub(super) fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flat_map(Map::keys).cloned().collect()
}

fn texts(map: &Map<String, Value>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_fall_into_repository_and_tag() {
        let parts = |text: &str| {
            let reference = Reference::of(text);
            (reference.repository.clone(), reference.tag.clone().unwrap_or_default())
        };
        let expect = |text: &str, repository: &str, tag: &str| {
            assert_eq!(parts(text), (repository.to_owned(), tag.to_owned()), "{text}");
        };
        expect("postgres", "postgres", "");
        expect("postgres:16.4", "postgres", "16.4");
        expect("docker.io/library/postgres:16.4@sha256:ab", "postgres", "16.4");
        expect("library/postgres", "postgres", "");
        expect("registry:5000/team/postgres", "registry:5000/team/postgres", "");
        expect("registry:5000/team/postgres:16", "registry:5000/team/postgres", "16");
        assert_eq!(Reference::of("registry:5000/team/postgres:16").last_part(), "postgres");
        assert!(is_id("sha256:0a1b") && is_id(&"3f".repeat(32)));
        assert!(!is_id("postgres@sha256:0a1b") && !is_id("sha256") && !is_id("abc"));
    }

    #[test]
    fn an_image_of_many_names_has_the_digest_of_the_one_asked_for() {
        let image = ImageFacts::of(&json!({
            "Id": "sha256:1", "RepoDigests": ["other@sha256:aa", "postgres@sha256:bb"],
            "Os": "linux", "Architecture": "arm64", "Variant": "v8",
            "Config": { "Env": ["A=1=2", "B"], "Volumes": { "/data/": {}, "/": {} }, "Labels": null },
        }));
        assert_eq!(image.digest("docker.io/library/postgres:16"), "sha256:bb");
        assert_eq!(image.digest("third"), "sha256:aa");
        assert_eq!(ImageFacts::default().digest("third"), "");
        assert_eq!(image.platform(), "linux/arm64/v8");
        assert_eq!(image.env["A"], "1=2");
        assert_eq!(image.env["B"], "");
        assert_eq!(image.volumes.iter().collect::<Vec<_>>(), ["/", "/data"]);
    }
}

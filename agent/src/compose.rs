//! What compose writes on the containers it makes. It knows them again by
//! these labels alone, whatever their names are. Versions 1 and 2 use the same
//! ones, as far as they are used here.

use std::collections::BTreeMap;

/// What every label of compose begins with.
pub(crate) const PREFIX: &str = "com.docker.compose.";

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";
const NUMBER: &str = "com.docker.compose.container-number";
const ONE_OFF: &str = "com.docker.compose.oneoff";
const CONFIG_HASH: &str = "com.docker.compose.config-hash";

/// Whether compose takes a container with these labels for its own. Images
/// that compose built have labels of project and service as well, and so has
/// whatever is made of them; the others are only on containers.
pub(crate) fn is_its_own<'a>(has: impl Fn(&str) -> Option<&'a str>) -> bool {
    has(PROJECT).is_some_and(|project| !project.is_empty())
        && [NUMBER, ONE_OFF, CONFIG_HASH].iter().any(|label| has(label).is_some())
}

/// Whether a container has the place of another one: compose made it for the
/// same number of the same service.
pub(crate) fn has_place_of(labels: &BTreeMap<String, String>, place: &BTreeMap<String, String>) -> bool {
    is_its_own(|key| labels.get(key).map(String::as_str))
        && [PROJECT, SERVICE, NUMBER, ONE_OFF].iter().all(|key| labels.get(*key) == place.get(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn an_image_that_compose_built_makes_no_container_of_its_own() {
        let own = |pairs| {
            let labels = labels(pairs);
            is_its_own(|key| labels.get(key).map(String::as_str))
        };
        assert!(own(&[("project", "shop"), ("config-hash", "1")]));
        assert!(own(&[("project", "shop"), ("oneoff", "True")]));
        assert!(!own(&[("project", "shop"), ("service", "db"), ("version", "2.20")]));
        assert!(!own(&[("project", ""), ("config-hash", "")]));
        assert!(!own(&[("config-hash", "1")]));
    }

    #[test]
    fn a_place_is_project_service_and_number() {
        let db =
            labels(&[("project", "shop"), ("service", "db"), ("container-number", "1"), ("oneoff", "False")]);
        let mut again = db.clone();
        again.insert(CONFIG_HASH.to_owned(), "another".to_owned());
        assert!(has_place_of(&again, &db));
        again.insert(NUMBER.to_owned(), "2".to_owned());
        assert!(!has_place_of(&again, &db));
        assert!(!has_place_of(&BTreeMap::new(), &BTreeMap::new()));
    }
}

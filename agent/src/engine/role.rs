//! Which containers and volumes are Holdfast's own.
//!
//! Its images carry a label, which the Engine gives to each container made of
//! them, and the deploy files put it on volumes as well. An image that somebody
//! built under the usual name without the label counts, too.

use std::collections::BTreeMap;

use super::{Container, ContainerSummary, Volume};

/// Label of Holdfast's own images, containers and volumes.
pub(crate) const ROLE_LABEL: &str = "org.holdfast.role";

/// What of Holdfast a container or volume belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Controller,
    Agent,
}

impl Role {
    /// "controller" or "agent".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
        }
    }

    /// What the label says; none for a value that is not known.
    pub(crate) fn of_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        match labels.get(ROLE_LABEL)?.as_str() {
            "controller" => Some(Self::Controller),
            "agent" => Some(Self::Agent),
            _ => None,
        }
    }

    fn of_image(reference: &str) -> Option<Self> {
        let last = reference.rsplit('/').next().unwrap_or_default();
        match last.split(['@', ':']).next().unwrap_or_default() {
            "holdfast-controller" => Some(Self::Controller),
            "holdfast-agent" => Some(Self::Agent),
            _ => None,
        }
    }
}

impl Container {
    /// What of Holdfast it is; none for everybody else's.
    pub fn role(&self) -> Option<Role> {
        Role::of_labels(&self.labels).or_else(|| Role::of_image(&self.image))
    }
}

impl ContainerSummary {
    /// What of Holdfast it is; none for everybody else's.
    pub fn role(&self) -> Option<Role> {
        Role::of_labels(&self.labels).or_else(|| Role::of_image(&self.image))
    }
}

impl Volume {
    /// What of Holdfast its label says it belongs to.
    pub fn role(&self) -> Option<Role> {
        Role::of_labels(&self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdfasts_own_are_known_by_label_or_by_the_name_of_the_image() {
        let labels = |value: &str| BTreeMap::from([(ROLE_LABEL.to_owned(), value.to_owned())]);
        assert_eq!(Role::of_labels(&labels("controller")), Some(Role::Controller));
        assert_eq!(Role::of_labels(&labels("agent")), Some(Role::Agent));
        assert_eq!(Role::of_labels(&labels("database")), None);
        assert_eq!(Role::of_labels(&BTreeMap::new()), None);
        for image in ["holdfast-agent", "registry:5000/x/holdfast-agent:1", "holdfast-agent@sha256:ab"] {
            assert_eq!(Role::of_image(image), Some(Role::Agent), "{image}");
        }
        assert_eq!(Role::of_image("holdfast-controller:2"), Some(Role::Controller));
        for image in ["holdfast-holder:1", "postgres:16", "holdfast-agent-x", "holdfast-controller/db", ""] {
            assert_eq!(Role::of_image(image), None, "{image}");
        }
    }
}

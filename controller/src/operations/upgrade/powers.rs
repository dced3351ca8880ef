//! Who may give a container another image.
//!
//! Whoever chooses the program that runs with rights over its host has those
//! rights. The next release of the same repository is what upgrades are for; an
//! image of another one in such a container is an administrator's to choose.

use crate::model::caller::{Caller, Role};
use crate::model::upgrade::UpgradePlan;

/// Why this plan is not this caller's to run; `None`: it is.
pub(in crate::operations) fn beyond(caller: &Caller, plan: &UpgradePlan) -> Option<String> {
    let role = caller.role()?;
    let (from, to) = (repository(&plan.from_image), repository(&plan.to_image));
    if role >= Role::Admin || plan.powers.is_empty() || from == to {
        return None;
    }
    Some(format!(
        "container `{}` has rights over its host ({}), and `{to}` is not the repository of its image, \
         `{from}`: that takes {}, and `{}` is {}",
        plan.container_name,
        plan.powers.join(", "),
        Role::Admin.as_str(),
        caller.actor(),
        role.as_str()
    ))
}

/// An image's repository, without tag and digest and in its full form.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
    let last = last.split(':').next().unwrap_or(last);
    let whole = if path.is_empty() { last.to_owned() } else { format!("{path}/{last}") };
    let first = whole.split('/').next().unwrap_or("");
    let has_registry = whole.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let whole = match whole.strip_prefix("index.docker.io/") {
        Some(rest) => format!("docker.io/{rest}"),
        None if has_registry => whole,
        None => format!("docker.io/{whole}"),
    };
    match whole.strip_prefix("docker.io/") {
        Some(rest) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::caller::HostScope;

    #[test]
    fn v08_one_repository_is_known_by_all_its_names() {
        for same in [
            "postgres",
            "postgres:16",
            "library/postgres:17",
            "docker.io/postgres",
            "docker.io/library/postgres@sha256:ab",
            "index.docker.io/library/postgres:16@sha256:ab",
        ] {
            assert_eq!(repository(same), "docker.io/library/postgres", "{same}");
        }
        assert_eq!(repository("localhost:5000/app:1"), "localhost:5000/app");
        assert_eq!(repository("ghcr.io/a/b:1"), "ghcr.io/a/b");
        assert_eq!(repository("a/b:1"), "docker.io/a/b");
        assert_ne!(repository("localhost/postgres"), repository("postgres"));
    }

    #[test]
    fn v08_another_image_in_a_privileged_container_is_an_administrators() {
        let caller = |role| Caller::Operator { name: "rita".into(), role, hosts: HostScope::default() };
        let plan = |to: &str, powers: &[&str]| UpgradePlan {
            container_name: "node-exporter".into(),
            from_image: "prom/node-exporter:v1".into(),
            to_image: to.into(),
            powers: powers.iter().map(|power| (*power).to_owned()).collect(),
            ..UpgradePlan::default()
        };
        let restorer = caller(Role::Restorer);
        let why = beyond(&restorer, &plan("evil/shell:1", &["privileged"])).expect("refused");
        assert!(why.contains("privileged") && why.contains("docker.io/evil/shell"), "{why}");
        assert_eq!(beyond(&restorer, &plan("prom/node-exporter:v2", &["privileged"])), None);
        assert_eq!(beyond(&restorer, &plan("evil/shell:1", &[])), None);
        assert_eq!(beyond(&caller(Role::Admin), &plan("evil/shell:1", &["privileged"])), None);
    }
}

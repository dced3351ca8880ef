//! What policies match on the hosts as they are known. Pure.

use crate::model::source::SourceKind;

use crate::catalog::hosts::HostRecord;
use crate::catalog::sources::SourceRecord;
use crate::policy::Policy;
use crate::policy::definition::VolumeFacts;
use holdfast_archive::text::did_you_mean;

/// What a policy matches on one host.
#[derive(Debug, Clone)]
pub struct HostMatches<'a> {
    pub host: &'a HostRecord,
    /// Names: volumes that are there now, then directories.
    pub sources: Vec<String>,
    /// Volumes that the selection means, and that are Holdfast's own.
    pub own: Vec<&'a SourceRecord>,
}

/// A source as selectors see it.
pub(crate) fn facts(source: &SourceRecord) -> VolumeFacts<'_> {
    VolumeFacts {
        name: &source.name,
        labels: &source.labels,
        anonymous: source.anonymous,
        used: source.used,
        own: !source.own.is_empty(),
    }
}

impl Policy {
    /// Whether the policy is about this host at all.
    pub fn selects(&self, host: &HostRecord) -> bool {
        host.revoked_ms.is_none() && self.hosts.matches(&host.name, &host.labels)
    }

    /// Whether a source of a selected host is in it.
    pub fn covers(&self, source: &SourceRecord) -> bool {
        source.gone_ms.is_none() && self.wants(source)
    }

    /// Whether a source of a selected host would be in it if it were there.
    pub fn wants(&self, source: &SourceRecord) -> bool {
        match source.kind {
            SourceKind::Directory => self.directories.contains(&source.name),
            SourceKind::Volume => self.volumes.matches(facts(source)),
        }
    }

    /// What the policy matches on every host it selects.
    pub fn matches<'a>(&self, hosts: &'a [HostRecord], sources: &'a [SourceRecord]) -> Vec<HostMatches<'a>> {
        hosts
            .iter()
            .filter(|host| self.selects(host))
            .map(|host| {
                let volumes = sources
                    .iter()
                    .filter(|source| source.host == host.id && source.kind == SourceKind::Volume)
                    .filter(|source| self.covers(source))
                    .map(|source| source.name.clone());
                let sources_there = volumes.chain(self.directories.iter().cloned()).collect();
                HostMatches { host, sources: sources_there, own: self.own(host, sources) }
            })
            .collect()
    }

    /// Volumes of a host that would be in it if they were not Holdfast's own.
    fn own<'a>(&self, host: &HostRecord, sources: &'a [SourceRecord]) -> Vec<&'a SourceRecord> {
        let means = |source: &SourceRecord| self.volumes.matches(VolumeFacts { own: false, ..facts(source) });
        let here = sources.iter().filter(|source| source.host == host.id && !source.own.is_empty());
        here.filter(|source| source.gone_ms.is_none() && means(source)).collect()
    }

    /// What an operator should know about a match that is empty or thin.
    pub fn match_warnings(&self, matches: &[HostMatches<'_>], hosts: &[HostRecord]) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in self.hosts.names.plain_names() {
            if !hosts.iter().any(|host| host.name == name) {
                let near = did_you_mean(name, hosts.iter().map(|host| host.name.as_str()));
                warnings.push(format!("host `{name}` is not known{near}"));
            }
        }
        if matches.is_empty() {
            warnings.push("no host matches: it will fire and do nothing".to_owned());
        }
        for found in matches {
            let there = |name: &str| found.sources.iter().any(|source| source == name);
            for name in self.volumes.promised().filter(|name| !there(name)) {
                warnings.push(match found.own.iter().find(|own| own.name == name) {
                    Some(own) => format!(
                        "{}: volume `{name}` is Holdfast's own ({}) and never backed up",
                        found.host.name, own.own
                    ),
                    None => format!("{}: volume `{name}` is not there", found.host.name),
                });
            }
            if found.sources.is_empty() {
                warnings.push(format!("{}: nothing matches there", found.host.name));
            }
        }
        warnings
    }
}

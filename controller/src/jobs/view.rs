//! Jobs as operators see them: the row, its sources, its children, and what is
//! in memory.

use std::collections::HashMap;

use holdfast_archive::ids::HostId;

use super::Jobs;
use super::progress::Live;
use crate::catalog::CatalogError;
use crate::catalog::jobs::JobRecord;
use crate::model::job::restore::RestoreProgress;
use crate::model::job::source::JobSource;

/// A job with all that is shown of it.
#[derive(Debug, Clone)]
pub struct JobView {
    pub record: JobRecord,
    /// Name; empty for a job of no host.
    pub host: String,
    /// With the progress of those that have not ended.
    pub sources: Vec<JobSource>,
    pub children: Vec<ChildView>,
    /// Of a restore that runs.
    pub restore: Option<RestoreProgress>,
}

/// A job as its parent shows it.
#[derive(Debug, Clone)]
pub struct ChildView {
    pub record: JobRecord,
    /// Name; empty for a job of no host.
    pub host: String,
}

impl Jobs {
    /// A job with its sources, children and progress.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn view(&self, record: JobRecord) -> Result<JobView, CatalogError> {
        let host = match record.host {
            Some(host) => self.host_name(host).await?,
            None => String::new(),
        };
        let mut sources = self.catalog().job_sources(record.id).await?;
        let children = self.children(&record).await?;
        // Read last: progress that is older than the rows would undo an end.
        let live = self.progress().live(record.id);
        for source in &mut sources {
            overlay(source, &live);
        }
        Ok(JobView { record, host, sources, children, restore: live.restore })
    }

    async fn children(&self, record: &JobRecord) -> Result<Vec<ChildView>, CatalogError> {
        let mut children = Vec::new();
        let mut names: HashMap<HostId, String> = HashMap::new();
        for child in self.catalog().child_jobs(record.id).await? {
            let host = match child.host {
                None => String::new(),
                Some(host) => match names.get(&host) {
                    Some(name) => name.clone(),
                    None => {
                        let name = self.host_name(host).await?;
                        names.insert(host, name.clone());
                        name
                    }
                },
            };
            children.push(ChildView { record: child, host });
        }
        Ok(children)
    }
}

fn overlay(source: &mut JobSource, live: &Live) {
    if let Some(finished) = &source.finished {
        source.stats = finished.stats;
        return;
    }
    if let Some(progress) = live.sources.get(&source.source_id) {
        source.phase = progress.phase;
        source.stats = progress.stats;
        source.expected_bytes = progress.expected_bytes;
    }
}

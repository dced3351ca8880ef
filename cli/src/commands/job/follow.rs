//! Following jobs to their end.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use holdfast_proto::v1::{Job, JobEvent, JobState, WatchJobRequest};
use serde::Serialize;
use tonic::Streaming;

use super::{JobView, has_ended};
use crate::client::Client;
use crate::commands::Env;
use crate::error::{CliError, ErrorCode, Exit, Result};
use crate::output::progress::Watcher;
use crate::output::{self, Lines, Render};

/// How many watches of one job may end in a row without having told anything.
const MAX_SILENT_WATCHES: u32 = 10;
/// Between two attempts to watch a job.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows jobs until all have ended, prints them, and says with the exit
/// code how the worst of them went.
pub(in crate::commands) async fn follow(env: &Env, client: &Client, ids: Vec<String>) -> Result<Exit> {
    let watcher = Watcher::new();
    let watches = ids.into_iter().map(|id| watch(client, id, &watcher, true));
    let ended = try_join_all(watches).await?;
    watcher.finish();
    // One that failed among many that went well decides how the command ends.
    let exit = ended.iter().map(exit_for).max_by_key(|exit| severity(*exit)).unwrap_or(Exit::Done);
    let views: Vec<JobView> = ended.into_iter().map(JobView::from).collect();
    match <[JobView; 1]>::try_from(views) {
        Ok([single]) => output::emit(env.format, &single),
        Err(views) => output::emit(env.format, &Followed(views)),
    }
    Ok(exit)
}

#[derive(Serialize)]
#[serde(transparent)]
struct Followed(Vec<JobView>);

impl Render for Followed {
    fn lines(&self) -> Lines {
        self.0.iter().flat_map(Render::lines).collect()
    }
}

/// Watches one job to its end, and with it, only to show them, the jobs it
/// starts. A watch that breaks off is taken up again where it was: the job does
/// not depend on being watched.
fn watch<'a>(client: &'a Client, id: String, watcher: &'a Watcher, top: bool) -> BoxFuture<'a, Result<Job>> {
    let watch = Watch {
        client,
        id,
        watcher,
        top,
        after: 0,
        silent: 0,
        last: None,
        known: HashSet::new(),
        children: FuturesUnordered::new(),
    };
    Box::pin(watch.run())
}

/// The watch of one job.
struct Watch<'a> {
    client: &'a Client,
    id: String,
    watcher: &'a Watcher,
    /// Asked for, and not started by another job.
    top: bool,
    /// The event that was told last.
    after: u64,
    /// Watches in a row that have told nothing.
    silent: u32,
    last: Option<Job>,
    /// Children that are watched.
    known: HashSet<String>,
    children: FuturesUnordered<BoxFuture<'a, Result<Job>>>,
}

impl Watch<'_> {
    async fn run(mut self) -> Result<Job> {
        let mut first = true;
        while self.silent < MAX_SILENT_WATCHES {
            self.silent += 1;
            let request = WatchJobRequest { id: self.id.clone(), after: self.after };
            match self.client.jobs()?.watch_job(request).await {
                Ok(answer) => {
                    if let Some(job) = self.read(answer.into_inner()).await {
                        return Ok(job);
                    }
                }
                // The first watch fails as any call does: there may be no such job. Later ones meet
                // a controller that is being restarted.
                Err(status) if first || status.code() != tonic::Code::Unavailable => {
                    return Err(status.into());
                }
                Err(_) => {}
            }
            first = false;
            tokio::time::sleep(PAUSE).await;
        }
        let (id, step) = (self.id, self.last.map(|job| job.step).unwrap_or_default());
        let message = format!("job {id} can no longer be watched; last seen: {step}");
        Err(CliError::new(ErrorCode::WatchLost, message).hint(format!("holdfast job watch {id}")))
    }

    /// Reads until the stream ends or breaks off. Gives the job once it has
    /// ended.
    async fn read(&mut self, mut stream: Streaming<JobEvent>) -> Option<Job> {
        let mut ended = None;
        loop {
            let event = tokio::select! {
                event = stream.message() => match event {
                    Ok(Some(event)) => event,
                    _ => return ended,
                },
                // How a child ended is the parent's to judge.
                Some(_) = self.children.next() => continue,
            };
            self.silent = 0;
            // The next watch begins behind what was told.
            self.after = self.after.max(event.sequence);
            let Some(job) = event.job else { continue };
            self.watcher.show(&job, event.restore_progress.as_ref(), &event.message, self.top);
            if has_ended(job.state()) {
                // The rest of what was told comes with it; then the stream ends.
                ended = Some(job);
                continue;
            }
            self.watch_children(&job);
            self.last = Some(job);
        }
    }

    /// A child may start between two looks, and is named by each event from then
    /// on.
    fn watch_children(&mut self, job: &Job) {
        for child in job.children.iter().filter(|child| !has_ended(child.state())) {
            if self.known.insert(child.id.clone()) {
                self.children.push(watch(self.client, child.id.clone(), self.watcher, false));
            }
        }
    }
}

fn exit_for(job: &Job) -> Exit {
    match job.state() {
        JobState::Succeeded if left_out(job) => Exit::Attention,
        JobState::Succeeded => Exit::Done,
        JobState::Partial if lost(job) => Exit::Salvaged,
        JobState::Partial => Exit::Attention,
        JobState::Cancelled => Exit::Interrupted,
        _ => failed(ErrorCode::parse(&job.error_code)),
    }
}

/// What failed in a job was asked for rightly: only whether something was out
/// of reach or damaged says more than that it failed.
fn failed(code: Option<ErrorCode>) -> Exit {
    match code.map(ErrorCode::exit) {
        Some(exit @ (Exit::Unreachable | Exit::Damage)) => exit,
        _ => Exit::Failed,
    }
}

/// Whether a restore did not bring back all there is, as `repo restore` has it.
fn left_out(job: &Job) -> bool {
    job.restore.as_ref().is_some_and(|restore| restore.left_out > 0)
}

/// Whether a restore has salvaged what there is, and there is not all.
fn lost(job: &Job) -> bool {
    job.restore.as_ref().is_some_and(|restore| restore.lost > 0)
}

fn severity(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::Attention => 1,
        Exit::Salvaged => 2,
        Exit::Interrupted => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::stream::{self, BoxStream};
    use holdfast_proto::v1::job_service_server::{JobService, JobServiceServer};
    use holdfast_proto::v1::{
        GetJobRequest, JobChild, JobEvent, JobKind, JobServiceCancelJobRequest, JobServiceCancelJobResponse,
        ListJobsRequest, RestoreFinished, StartBackupRequest, StartBackupResponse, StartPruneRequest,
        StartPruneResponse, StartRestoreRequest, StartRestoreResponse,
    };
    use hyper_util::rt::TokioIo;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Request, Response, Status};

    use super::*;

    const PARENT: &str = "01PARENT";
    const CHILD: &str = "01CHILD";
    /// Each of its watches tells one event and breaks off, but for the last.
    const LONG: &str = "01LONG";
    const LONG_EVENTS: u64 = 3 * MAX_SILENT_WATCHES as u64;
    /// Its first watch tells one event; the others tell nothing.
    const LOST: &str = "01LOST";

    type Answer<T> = std::result::Result<T, Status>;

    /// Serves two watches of one upgrade: the first breaks off once its child is
    /// known, the second has the end. Each is held until the child was asked
    /// for, which is refused.
    #[derive(Clone, Default)]
    struct Jobs {
        watched: Arc<Mutex<Vec<(String, u64)>>>,
        child_seen: Arc<tokio::sync::Notify>,
    }

    impl Jobs {
        fn watched(&self) -> Vec<(String, u64)> {
            self.watched.lock().expect("no test panics here").clone()
        }
    }

    fn event(sequence: u64, state: JobState) -> JobEvent {
        let child = JobChild {
            id: CHILD.to_owned(),
            kind: JobKind::Backup as i32,
            state: JobState::Running as i32,
            ..JobChild::default()
        };
        let job = Job {
            id: PARENT.to_owned(),
            kind: JobKind::Upgrade as i32,
            state: state as i32,
            children: vec![child],
            ..Job::default()
        };
        JobEvent { sequence, job: Some(job), ..JobEvent::default() }
    }

    #[tonic::async_trait]
    impl JobService for Jobs {
        type ListJobsStream = BoxStream<'static, Answer<Job>>;
        type WatchJobStream = BoxStream<'static, Answer<JobEvent>>;

        async fn watch_job(
            &self,
            request: Request<WatchJobRequest>,
        ) -> Answer<Response<Self::WatchJobStream>> {
            let WatchJobRequest { id, after } = request.into_inner();
            self.watched.lock().expect("no test panics here").push((id.clone(), after));
            let broken = || Err(Status::unavailable("restarts"));
            if id == LONG {
                let state = if after + 1 < LONG_EVENTS { JobState::Running } else { JobState::Succeeded };
                let job = Job { id, state: state as i32, ..Job::default() };
                let told = JobEvent { sequence: after + 1, job: Some(job), ..JobEvent::default() };
                return Ok(Response::new(stream::iter([Ok(told), broken()]).boxed()));
            }
            if id == LOST {
                let told = (after == 0).then(|| Ok(JobEvent { sequence: 1, ..JobEvent::default() }));
                return Ok(Response::new(stream::iter(told).chain(stream::iter([broken()])).boxed()));
            }
            if id == CHILD {
                self.child_seen.notify_one();
                return Err(Status::permission_denied("not yours"));
            }
            let end = if after == 0 { broken() } else { Ok(event(3, JobState::Failed)) };
            let seen = Arc::clone(&self.child_seen);
            let wait = after == 0;
            let tail = stream::once(async move {
                if wait {
                    seen.notified().await;
                }
                end
            });
            let head = stream::iter((after == 0).then(|| Ok(event(2, JobState::Running))));
            Ok(Response::new(head.chain(tail).boxed()))
        }

        async fn start_backup(
            &self,
            _: Request<StartBackupRequest>,
        ) -> Answer<Response<StartBackupResponse>> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn start_restore(
            &self,
            _: Request<StartRestoreRequest>,
        ) -> Answer<Response<StartRestoreResponse>> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn start_prune(&self, _: Request<StartPruneRequest>) -> Answer<Response<StartPruneResponse>> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Answer<Response<Self::ListJobsStream>> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn get_job(&self, _: Request<GetJobRequest>) -> Answer<Response<Job>> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn cancel_job(
            &self,
            _: Request<JobServiceCancelJobRequest>,
        ) -> Answer<Response<JobServiceCancelJobResponse>> {
            Err(Status::unimplemented("not asked here"))
        }
    }

    #[test]
    fn a_restore_of_lost_data_ends_with_the_code_for_damage() {
        let ended = |code: &str| Job {
            state: JobState::Failed as i32,
            error_code: code.to_owned(),
            ..Job::default()
        };
        for code in ["damaged", "corrupt", "store-corrupt"] {
            assert_eq!(exit_for(&ended(code)), Exit::Damage);
        }
        assert_eq!(exit_for(&ended("store-unreachable")), Exit::Unreachable);
        assert_eq!(exit_for(&ended("no-space")), Exit::Failed);
    }

    #[test]
    fn a_restore_that_left_something_out_needs_attention() {
        let ended = |left_out| Job {
            state: JobState::Succeeded as i32,
            restore: Some(RestoreFinished { left_out, ..RestoreFinished::default() }),
            ..Job::default()
        };
        assert_eq!((exit_for(&ended(0)), exit_for(&ended(1))), (Exit::Done, Exit::Attention));
    }

    #[test]
    fn h05_a_restore_that_salvaged_has_a_code_of_its_own() {
        let ended = |lost| Job {
            state: JobState::Partial as i32,
            restore: Some(RestoreFinished { lost, left_out: 1, ..RestoreFinished::default() }),
            ..Job::default()
        };
        assert_eq!((exit_for(&ended(1)), exit_for(&ended(0))), (Exit::Salvaged, Exit::Attention));
    }

    /// Watches one job that `jobs` serves over one connection.
    async fn watch_served(jobs: &Jobs, id: &str) -> Result<Job> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let service = JobServiceServer::new(jobs.clone());
        let server =
            tokio::spawn(Server::builder().add_service(service).serve_with_incoming(
                stream::iter([Ok::<_, std::io::Error>(theirs)]).chain(stream::pending()),
            ));
        let mut ours = Some(TokioIo::new(ours));
        let channel = Endpoint::from_static("http://controller")
            .connect_with_connector(tower::service_fn(move |_| {
                let end = ours.take().ok_or_else(|| std::io::Error::other("one connection is enough"));
                async move { end }
            }))
            .await
            .expect("the server is there");
        let client = Client::over(channel);
        let watcher = Watcher::new();
        let ended = watch(&client, id.to_owned(), &watcher, true);
        let ended = tokio::time::timeout(Duration::from_secs(300), ended).await.expect("ends in time");
        server.abort();
        ended
    }

    #[tokio::test]
    async fn a_watch_goes_on_where_it_broke_off_and_no_child_ends_it() {
        let jobs = Jobs::default();
        let ended = watch_served(&jobs, PARENT).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!((ended.state(), exit_for(&ended)), (JobState::Failed, Exit::Failed));
        let parent = |after| (PARENT.to_owned(), after);
        assert_eq!(jobs.watched(), [parent(0), (CHILD.to_owned(), 0), parent(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_breaks_off_many_times_follows_its_job_to_the_end() {
        let jobs = Jobs::default();
        let ended = watch_served(&jobs, LONG).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(ended.state(), JobState::Succeeded);
        assert_eq!(jobs.watched().len() as u64, LONG_EVENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_tell_nothing_are_not_begun_for_ever() {
        let jobs = Jobs::default();
        let error = watch_served(&jobs, LOST).await.expect_err("nothing is told any more");
        assert!(error.message.contains("can no longer be watched"), "{error:?}");
        assert_eq!(jobs.watched().len(), 1 + MAX_SILENT_WATCHES as usize);
    }
}

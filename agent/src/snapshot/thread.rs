//! Work that blocks for long, on threads of its own.

use std::io;

use holdfast_proto::ErrorCode;

/// Lower than what containers run at, so that a backup takes what they leave.
const NICE: i32 = 10;

/// Why the work has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ThreadError {
    #[error("no thread can be started: {0}")]
    Start(io::Error),
    #[error("the agent failed inside ({0}); see its log")]
    Panic(&'static str),
}

impl ThreadError {
    /// Error code for events.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Start(_) => ErrorCode::Resources,
            Self::Panic(_) => ErrorCode::Panic,
        }
    }
}

/// Runs blocking work on a thread of low priority. A panic there is a failure
/// of the one job, not of the agent.
///
/// # Errors
/// When there can be no thread, or the work panics.
pub(super) async fn on_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ThreadError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Not the runtime's pool for blocking work: its threads are shared, and
    // would keep the priority for whatever they run next.
    let thread = std::thread::Builder::new().name(format!("holdfast-{name}")).spawn(move || {
        // On Linux this is the thread's own priority, and its children's.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = sender.send(work());
    });
    thread.map_err(ThreadError::Start)?;
    // A panic drops the sender with the thread's stack.
    receiver.await.map_err(|_| ThreadError::Panic(name))
}

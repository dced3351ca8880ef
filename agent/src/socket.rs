//! The local socket: for root and the agent's own user, nobody else.
//!
//! The mode keeps others out, and the peer's uid is checked all the same: a
//! mode is changed by a careless hand or a bind mount, the kernel's word on who
//! connected is not. A socket left by a killed agent is replaced by a rename,
//! so that there is no moment at which the path has another mode; one that
//! still answers is somebody's, and is left alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;

use crate::durable;

/// The bound socket; its path is removed with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another agent serves on {}: stop it, or give this one another --socket", .0.display())]
    InUse(PathBuf),
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot serve on {}", .path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Socket {
    /// Binds `path`, mode 0600; its directory is made if it is not there.
    ///
    /// # Errors
    /// When another agent serves there, or the path cannot be used.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        make_way(path).await?;
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        let listener = bind_private(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connections of those who may connect; the rest are closed unheard.
    pub fn admitted(&self) -> impl Stream<Item = io::Result<UnixStream>> + '_ {
        futures_util::stream::unfold((), move |()| async move { Some((self.accept().await, ())) })
    }

    async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    tracing::warn!(%error, "a local connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = stream.peer_cred().map(|peer| peer.uid());
            if peer.as_ref().is_ok_and(|&uid| admits(uid)) {
                return Ok(stream);
            }
            tracing::warn!(?peer, "a local connection was refused: neither root nor the agent's own user");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket could not be removed");
        }
    }
}

fn admits(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        // A socket nobody listens on was left by an agent that was killed.
        Ok(_) if UnixStream::connect(path).await.is_ok() => Err(SocketError::InUse(path.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Bound under another name and moved into place when its mode is right.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    // Of an agent that died here with the same process id.
    durable::remove_if_there(&temporary)?;
    // Between bind and chmod the umask decides who may connect: not under the name
    // that is known.
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    const CHILD: &str = "HOLDFAST_TEST_CONNECT_TO";

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.sock");
        let first = Socket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let error = Socket::bind(&path).await.unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener that dies leaves its path");
        Socket::bind(&path).await.unwrap();
        fs::write(&path, "x").unwrap();
        assert!(matches!(Socket::bind(&path).await.unwrap_err(), SocketError::NotASocket(_)));
    }

    /// The other end of the next test: this test binary again, as another user.
    #[test]
    fn connects_as_told() {
        let Ok(path) = std::env::var(CHILD) else { return };
        use std::io::Read;
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let mut heard = String::new();
        drop(stream.read_to_string(&mut heard));
        assert_eq!(heard, "");
    }

    #[tokio::test]
    async fn x24_another_user_is_refused_even_where_the_mode_lets_it_in() {
        if !rustix::process::geteuid().is_root() {
            support::record::skipped("only root can become another user");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("agent.sock");
        let socket = Socket::bind(&path).await.unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        // A copy: the build directory may be closed to others.
        let program = directory.path().join("connects");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let other_user = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                Command::new("setpriv")
                    .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                    .arg(program)
                    .args(["--exact", "socket::tests::connects_as_told"])
                    .env(CHILD, path)
                    .output()
            }
        });
        let admitted = tokio::spawn(async move {
            let mut first = std::pin::pin!(socket.admitted());
            let mut stream = first.next().await.unwrap().unwrap();
            assert_eq!(stream.peer_cred().unwrap().uid(), 0);
            stream.write_all(b"welcome").await.unwrap();
        });
        let output = other_user.await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(!admitted.is_finished(), "another user was let in");

        let mut stream = UnixStream::connect(&path).await.unwrap();
        let mut heard = String::new();
        let reading = stream.read_to_string(&mut heard);
        tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap();
        assert_eq!(heard, "welcome");
        admitted.await.unwrap();
    }
}

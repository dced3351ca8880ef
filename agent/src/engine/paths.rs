//! Single paths inside containers, running or not.

use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;

use super::containers::checked;
use super::volumes::shorten;
use super::{Engine, EngineError, LOOKUP_LIMIT};

/// Bits of a file's mode as the Engine writes it: those of Go, not of the kernel.
const DIRECTORY: u32 = 1 << 31;
const LINK: u32 = 1 << 27;
const SPECIAL: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;

/// What is at a path inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    File {
        size_bytes: u64,
    },
    Link,
    Directory,
    /// A socket, a FIFO or a device.
    Special,
}

impl Engine {
    /// Asks what is at a path inside a container; a link at its end is not
    /// followed.
    ///
    /// # Errors
    /// `NotFound` when nothing is there, or no such container.
    pub async fn path_kind(&self, id: &str, path: &str) -> Result<PathKind, EngineError> {
        let (id, operation) =
            (checked(id)?, format!("look at `{}` in container `{}`", shorten(path), shorten(id)));
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let request = self.docker.get_container_archive_info(id, Some(options));
        let found = self.call(&operation, LOOKUP_LIMIT, request).await?;
        Ok(kind(found.file_mode, found.size))
    }
}

fn kind(mode: u32, size: i64) -> PathKind {
    match mode {
        _ if mode & DIRECTORY != 0 => PathKind::Directory,
        _ if mode & LINK != 0 => PathKind::Link,
        _ if mode & SPECIAL != 0 => PathKind::Special,
        _ => PathKind::File { size_bytes: u64::try_from(size).unwrap_or(0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Scene;

    #[tokio::test]
    async fn paths_are_told_apart_in_a_container_that_does_not_run() {
        let Some(scene) = Scene::open().await else { return };
        let script = "mkdir -p /a && echo 12345 > /a/file && ln -s /a /link && mkfifo /fifo";
        let (name, image) = (scene.name("paths"), scene.image().await);
        scene.docker(&[
            "run",
            "--name",
            &name,
            "--network",
            "none",
            &image,
            "/bin/busybox",
            "sh",
            "-c",
            script,
        ]);
        let at = async |path: &str| scene.engine.path_kind(&name, path).await;
        assert_eq!(at("/a").await.unwrap(), PathKind::Directory);
        assert_eq!(at("/a/file").await.unwrap(), PathKind::File { size_bytes: 6 });
        assert_eq!(at("/link").await.unwrap(), PathKind::Link);
        assert_eq!(at("/fifo").await.unwrap(), PathKind::Special);
        assert!(at("/none").await.unwrap_err().is_not_found());
    }
}

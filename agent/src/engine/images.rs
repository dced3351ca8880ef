//! Images this agent brings along itself. Nothing is ever pulled.

use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{CHANGE_LIMIT, Engine, EngineError, LOOKUP_LIMIT};

impl Engine {
    /// Whether the Engine has an image of this name.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn has_image(&self, reference: &str) -> Result<bool, EngineError> {
        let operation = format!("inspect image `{reference}`");
        match self.call(&operation, LOOKUP_LIMIT, self.docker.inspect_image(reference)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the image `repository:tag` of one uncompressed tar of its root
    /// filesystem. An image of that name loses it to the new one.
    ///
    /// # Errors
    /// When the Engine refuses the archive or cannot be reached.
    pub async fn import_image(
        &self,
        repository: &str,
        tag: &str,
        root: Bytes,
        changes: &[&str],
    ) -> Result<(), EngineError> {
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .changes(changes.iter().map(|&change| change.to_owned()).collect())
            .build();
        let operation = format!("import image `{repository}:{tag}`");
        let answers = self.docker.create_image(Some(options), Some(bollard::body_full(root)), None);
        self.call(&operation, CHANGE_LIMIT, answers.try_for_each(|_| async { Ok(()) })).await
    }
}

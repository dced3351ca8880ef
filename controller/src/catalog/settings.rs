//! Single named values.

use super::{Catalog, CatalogError};

impl Catalog {
    /// The value under `name`, if it was ever set.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, CatalogError> {
        Ok(sqlx::query_scalar("select value from settings where name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?)
    }

    /// Sets or replaces the value under `name`.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn set_setting(&self, name: &str, value: &str) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into settings (name, value) values ($1, $2)
             on conflict (name) do update set value = excluded.value",
        )
        .bind(name)
        .bind(value)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_setting_is_kept_and_replaced() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        assert_eq!(catalog.setting("a").await.expect("reads"), None);
        catalog.set_setting("a", "1").await.expect("writes");
        catalog.set_setting("a", "2").await.expect("writes");
        assert_eq!(catalog.setting("a").await.expect("reads").as_deref(), Some("2"));
    }
}

//! Values that a row keeps as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CatalogError;

pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys is always JSON")
}

/// `what` names the value in the error of a row that cannot be read.
pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, CatalogError> {
    serde_json::from_str(text).map_err(|error| CatalogError::Unreadable { what, value: error.to_string() })
}

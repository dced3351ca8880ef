//! Objects are removed: many by one request, or one by one where a server has
//! no such request.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{Delete, Error as Failed, ObjectIdentifier};

use super::S3;
use super::errors::kind_of;
use crate::store::{RetryPolicy, StoreError, StoreErrorKind};

/// What fails in an answer for many has no status of its own: without a known
/// code it is the store's failure.
const STATUS: u16 = 500;

impl S3 {
    /// Failures by the place of their name.
    pub(in crate::store) async fn delete(
        &self,
        names: &[String],
        policy: &RetryPolicy,
    ) -> Result<Vec<(usize, StoreError)>, StoreError> {
        if !self.single_deletes.load(Ordering::Relaxed) {
            match self.delete_together(names, policy).await? {
                Some(failures) => return Ok(failures),
                // Learned once: later calls do not try the request again.
                None => self.single_deletes.store(true, Ordering::Relaxed),
            }
        }
        let mut failures = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let request = self.client.delete_object().bucket(&self.bucket).key(self.key(name));
            // One by one: S3 itself has the request for many, some servers that speak it do not.
            if let Err(error) = self.answer("remove", name, policy, request.send()).await? {
                match self.failed("remove", name, error) {
                    // That it is not there is what was asked for.
                    error if error.is_not_found() => {}
                    // Every other name would fail in the same way.
                    error if error.kind() == StoreErrorKind::NoBucket => return Err(error),
                    error => failures.push((at, kept(error))),
                }
            }
        }
        Ok(failures)
    }

    /// `None` where the server has no such request.
    async fn delete_together(
        &self,
        names: &[String],
        policy: &RetryPolicy,
    ) -> Result<Option<Vec<(usize, StoreError)>>, StoreError> {
        let objects = names
            .iter()
            .map(|name| ObjectIdentifier::builder().key(self.key(name)).build())
            .collect::<Result<Vec<_>, _>>()
            .expect("each has its key");
        let delete =
            Delete::builder().set_objects(Some(objects)).quiet(true).build().expect("it has its objects");
        let request = self.client.delete_objects().bucket(&self.bucket).delete(delete);
        let answer = match self.answer("remove", "objects", policy, request.send()).await? {
            Ok(answer) => answer,
            Err(error) => {
                let status = error.raw_response().map_or(0, |raw| raw.status().as_u16());
                let unknown = is_unknown_request(status, error.code().unwrap_or_default());
                return if unknown { Ok(None) } else { Err(self.failed("remove", "objects", error)) };
            }
        };
        Ok(Some(self.not_removed(names, answer.errors.unwrap_or_default())))
    }

    /// Failures by the place of their name. The answer lists what failed alone,
    /// so what fails without the name of an object that was asked for may be any
    /// of them: then none counts as removed.
    fn not_removed(&self, names: &[String], failed: Vec<Failed>) -> Vec<(usize, StoreError)> {
        let failed = failed.into_iter().filter(|failed| {
            let code = failed.code.as_deref().unwrap_or_default();
            kind_of(STATUS, code) != StoreErrorKind::NotFound
        });
        let mut failures = BTreeMap::new();
        let mut unnamed = None;
        for failure in failed {
            let key = failure.key.as_deref();
            match names.iter().position(|name| Some(self.key(name).as_str()) == key) {
                Some(at) => drop(failures.insert(at, failure)),
                None => unnamed = Some(failure),
            }
        }
        if let Some(failure) = unnamed {
            for at in 0..names.len() {
                failures.entry(at).or_insert_with(|| failure.clone());
            }
        }
        failures.into_iter().map(|(at, failure)| (at, self.refusal(&names[at], &failure))).collect()
    }

    fn refusal(&self, name: &str, failure: &Failed) -> StoreError {
        let what = format!("could not remove {name} in {}", self.location());
        let code = failure.code.as_deref().unwrap_or_default();
        kept(self.answered(&what, STATUS, code, failure.message.as_deref().unwrap_or_default(), None))
    }
}

/// How servers were seen to refuse a request they do not have. Anything else is
/// a failure of the one that was made.
fn is_unknown_request(status: u16, code: &str) -> bool {
    matches!(status, 405 | 501)
        || matches!(code, "NotImplemented" | "MethodNotAllowed" | "MissingContentMD5" | "InvalidRequest")
}

/// A denied delete concerns that object (a lock, a retention), not us.
fn kept(error: StoreError) -> StoreError {
    match error.kind() {
        StoreErrorKind::Auth => error.of_kind(StoreErrorKind::Refused),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::S3Options;

    fn failed(key: Option<&str>, code: &str) -> Failed {
        Failed::builder().set_key(key.map(str::to_owned)).code(code).build()
    }

    fn not_removed(failures: Vec<Failed>) -> Vec<(usize, StoreErrorKind)> {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        crate::secret_file::write(&credentials, "GKabc\nhush").unwrap();
        let options = S3Options { credentials_file: Some(credentials), ..S3Options::default() };
        let s3 = S3::open("bucket", "p", &options).unwrap();
        let names = ["a", "b", "c"].map(str::to_owned);
        let failures = s3.not_removed(&names, failures);
        failures.into_iter().map(|(at, error)| (at, error.kind())).collect()
    }

    #[test]
    fn what_the_answer_names_is_not_removed() {
        assert_eq!(not_removed(vec![]), []);
        let answer = vec![failed(Some("p/c"), "SlowDown"), failed(Some("p/b"), "NoSuchKey")];
        assert_eq!(not_removed(answer), [(2, StoreErrorKind::Throttled)]);
        assert_eq!(
            not_removed(vec![failed(Some("p/a"), "AccessDenied")]),
            [(0, StoreErrorKind::Refused)],
            "it concerns that object"
        );
    }

    #[test]
    fn a_failure_without_an_object_that_was_asked_for_leaves_all_in_doubt() {
        for key in [None, Some(""), Some("p/other"), Some("a")] {
            let answer = vec![failed(Some("p/b"), "SlowDown"), failed(key, "InternalError")];
            let (other, throttled) = (StoreErrorKind::Other, StoreErrorKind::Throttled);
            assert_eq!(not_removed(answer), [(0, other), (1, throttled), (2, other)], "{key:?}");
        }
    }
}

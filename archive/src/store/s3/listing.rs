//! Names and lengths by pages. What a listing leaves out counts as deleted, so
//! an answer that says less than it has to is no listing.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::Object;

use super::S3;
use crate::store::{PAGE, RawListed, RawPage, RetryPolicy, StoreError, StoreErrorKind};

impl S3 {
    pub(in crate::store) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        policy: &RetryPolicy,
    ) -> Result<RawPage, StoreError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.key(prefix))
            .set_start_after(after.map(|after| self.key(after)))
            .max_keys(i32::try_from(PAGE).expect("a page is small"));
        let answer = self.answer("list", prefix, policy, request.send()).await?.map_err(|error| {
            match self.failed("list", prefix, error) {
                // A listing is of a bucket: what is not found is that.
                error if error.is_not_found() => error.of_kind(StoreErrorKind::NoBucket),
                error => error,
            }
        })?;
        self.page(prefix, answer)
    }

    fn page(&self, prefix: &str, answer: ListObjectsV2Output) -> Result<RawPage, StoreError> {
        let objects = answer.contents.unwrap_or_default();
        // Where it is not said whether there is more, the next page says it: an empty one is the last.
        let truncated = answer.is_truncated.unwrap_or(!objects.is_empty());
        let items = objects.into_iter().filter_map(|object| self.listed(prefix, object).transpose());
        Ok(RawPage { items: items.collect::<Result<_, _>>()?, truncated })
    }

    /// `None`: it lies beside the repository and was not asked for.
    fn listed(&self, prefix: &str, object: Object) -> Result<Option<RawListed>, StoreError> {
        let Some(key) = object.key else {
            return Err(self.incomplete(prefix, "it lists an object without a name"));
        };
        let Some(name) = key.strip_prefix(&self.prefix) else { return Ok(None) };
        match object.size.and_then(|size| u64::try_from(size).ok()) {
            Some(len) => Ok(Some(RawListed { name: name.to_owned(), len })),
            None => Err(self.incomplete(prefix, &format!("it lists {name} without a length"))),
        }
    }

    fn incomplete(&self, prefix: &str, how: &str) -> StoreError {
        let what = match prefix {
            "" => format!("could not list {}", self.location()),
            prefix => format!("could not list {prefix} in {}", self.location()),
        };
        self.answered(&what, 200, "", how, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::S3Options;

    fn page(answer: ListObjectsV2Output) -> Result<RawPage, StoreError> {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        crate::secret_file::write(&credentials, "GKabc\nhush").unwrap();
        let options = S3Options { credentials_file: Some(credentials), ..S3Options::default() };
        S3::open("bucket", "p", &options).unwrap().page("packs/", answer)
    }

    fn answer(objects: &[(Option<&str>, Option<i64>)]) -> ListObjectsV2Output {
        let object = |(key, size): &(Option<&str>, Option<i64>)| {
            Object::builder().set_key(key.map(str::to_owned)).set_size(*size).build()
        };
        let objects = objects.iter().map(object).collect();
        ListObjectsV2Output::builder().set_contents(Some(objects)).is_truncated(false).build()
    }

    #[test]
    fn an_object_without_a_length_or_name_makes_the_listing_an_error_and_is_not_left_out() {
        let whole = page(answer(&[(Some("p/packs/a"), Some(7)), (Some("other/b"), None)])).unwrap();
        let names: Vec<_> = whole.items.iter().map(|item| (item.name.as_str(), item.len)).collect();
        assert_eq!((names, whole.truncated), (vec![("packs/a", 7)], false));
        for size in [None, Some(-1)] {
            let error = page(answer(&[(Some("p/packs/a"), Some(7)), (Some("p/packs/b"), size)])).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Other, "{error}");
            assert!(error.to_string().contains("packs/b without a length"), "{error}");
        }
        assert!(page(answer(&[(None, Some(7))])).is_err());
    }

    #[test]
    fn a_page_that_does_not_say_whether_there_is_more_is_not_the_last() {
        let unsaid = |mut answer: ListObjectsV2Output| {
            answer.is_truncated = None;
            page(answer).unwrap().truncated
        };
        assert!(unsaid(answer(&[(Some("p/packs/a"), Some(7))])));
        assert!(!unsaid(answer(&[])));
    }
}

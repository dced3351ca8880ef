//! What an S3 server or the way to it answered, in words and kinds of ours.
//!
//! The code of an answer decides before its status does: servers agree on
//! codes better. A refusal in an answer whose date is far from our clock is
//! taken for clock skew whatever it is called, because several servers call
//! it a wrong signature.

use std::error::Error;
use std::time::SystemTime;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use super::S3;
use crate::store::{StoreError, StoreErrorKind};

/// S3's own limit.
const MAX_SKEW_SECONDS: i64 = 15 * 60;

impl S3 {
    pub(super) fn failed<E>(&self, verb: &str, name: &str, error: SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let what = match name {
            "" => format!("could not {verb} {}", self.location()),
            name => format!("could not {verb} {name} in {}", self.location()),
        };
        let answer = error.raw_response().map(|raw| (raw.status().as_u16(), skew_seconds(raw)));
        match (&error, answer) {
            (SdkError::ServiceError(_) | SdkError::ResponseError(_), Some((status, skew))) => {
                let code = error.code().unwrap_or_default().to_owned();
                let text = error.message().unwrap_or_default().to_owned();
                self.answered(&what, status, &code, &text, skew).caused_by(error)
            }
            (SdkError::DispatchFailure(_) | SdkError::TimeoutError(_), _) => {
                self.unreachable(&what, &innermost(&error)).caused_by(error)
            }
            _ => StoreError::new(StoreErrorKind::Refused, format!("{what}: {}", innermost(&error)))
                .caused_by(error),
        }
    }

    pub(super) fn answered(
        &self,
        what: &str,
        status: u16,
        code: &str,
        text: &str,
        skew: Option<i64>,
    ) -> StoreError {
        let kind = match skew {
            Some(skew) if matches!(status, 400 | 401 | 403) && skew.abs() > MAX_SKEW_SECONDS => {
                StoreErrorKind::ClockSkew
            }
            _ => kind_of(status, code),
        };
        let said = match (code, text) {
            ("", "") => format!("the store answered {status}"),
            ("", text) => format!("the store answered {status}: {text}"),
            (code, "") => format!("the store answered {status} {code}"),
            (code, text) => format!("the store answered {status} {code}: {text}"),
        };
        let said = said.trim_end_matches('.');
        StoreError::new(kind, format!("{what}: {said}{}", self.remedy(kind, status, code, skew)))
    }

    pub(super) fn unreachable(&self, what: &str, cause: &str) -> StoreError {
        let certificate = ["certificate", "UnknownIssuer"].iter().any(|word| cause.contains(word));
        if certificate {
            return StoreError::new(
                StoreErrorKind::Refused,
                format!(
                    "{what}: the certificate of {} is not trusted ({cause}); if it has a CA of its own, name that in `ca_file`",
                    self.endpoint
                ),
            );
        }
        StoreError::new(
            StoreErrorKind::Unreachable,
            format!("{what}: {cause}; check that {} is the right endpoint and is up", self.endpoint),
        )
    }

    fn remedy(&self, kind: StoreErrorKind, status: u16, code: &str, skew: Option<i64>) -> String {
        match (kind, code) {
            (_, "AuthorizationHeaderMalformed") => {
                format!("; the region is set to `{}`: set the one of the bucket", self.region)
            }
            (StoreErrorKind::Auth, _) => format!(
                "; check that the key in {} is right, not revoked and allowed to use the bucket `{}`",
                self.credentials_file.display(),
                self.bucket
            ),
            (StoreErrorKind::NoBucket, _) => {
                format!("; create the bucket `{}` or correct its name: it is never made here", self.bucket)
            }
            (StoreErrorKind::ClockSkew, _) => match skew {
                Some(skew) if skew > 0 => {
                    format!("; the clock of this machine is {skew} s behind the store's: set it")
                }
                Some(skew) if skew < 0 => {
                    format!("; the clock of this machine is {} s ahead of the store's: set it", -skew)
                }
                _ => "; set the clock of this machine".to_owned(),
            },
            (StoreErrorKind::Full, _) => "; raise its quota or prune the repository".to_owned(),
            (StoreErrorKind::Refused, "InvalidObjectState") => {
                "; the object is in an archived tier: restore it from there first".to_owned()
            }
            (StoreErrorKind::Refused, "") if status == 400 => format!(
                "; it gives no reason: check the region (now `{}`) and the clock of this machine",
                self.region
            ),
            (StoreErrorKind::Refused, _) if (300..400).contains(&status) => format!(
                "; the bucket lies elsewhere: correct the region (now `{}`) or the endpoint",
                self.region
            ),
            _ => String::new(),
        }
    }
}

pub(super) fn kind_of(status: u16, code: &str) -> StoreErrorKind {
    match code {
        "NoSuchKey" | "NotFound" => StoreErrorKind::NotFound,
        "NoSuchBucket" => StoreErrorKind::NoBucket,
        "RequestTimeTooSkewed" => StoreErrorKind::ClockSkew,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AccessDenied"
        | "InvalidToken"
        | "ExpiredToken"
        | "AuthorizationHeaderMalformed"
        | "Forbidden"
        | "NotSignedUp"
        | "AllAccessDisabled" => StoreErrorKind::Auth,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "ServiceUnavailable"
        | "BandwidthLimitExceeded" => StoreErrorKind::Throttled,
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "InsufficientCapacity" => {
            StoreErrorKind::Full
        }
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentChecksumMismatch"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody"
        | "InvalidRange" => StoreErrorKind::Corrupt,
        "InvalidObjectState" => StoreErrorKind::Refused,
        "RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict" | "InternalError" => {
            StoreErrorKind::Other
        }
        _ => match status {
            401 | 403 => StoreErrorKind::Auth,
            404 => StoreErrorKind::NotFound,
            416 => StoreErrorKind::Corrupt,
            408 | 409 | 425 | 500 | 502 | 504 => StoreErrorKind::Other,
            429 | 503 => StoreErrorKind::Throttled,
            507 => StoreErrorKind::Full,
            200..300 => StoreErrorKind::Other,
            _ => StoreErrorKind::Refused,
        },
    }
}

/// How far the store's clock is ahead of ours.
fn skew_seconds(raw: &HttpResponse) -> Option<i64> {
    let theirs = DateTime::from_str(raw.headers().get("date")?, DateTimeFormat::HttpDate).ok()?;
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(theirs.secs() - i64::try_from(ours.as_secs()).ok()?)
}

/// The cause that no other one caused.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_before_the_status_does() {
        let expected = [
            (403, "RequestTimeTooSkewed", StoreErrorKind::ClockSkew),
            (403, "", StoreErrorKind::Auth),
            (404, "NoSuchBucket", StoreErrorKind::NoBucket),
            (404, "", StoreErrorKind::NotFound),
            (503, "SlowDown", StoreErrorKind::Throttled),
            (409, "ConditionalRequestConflict", StoreErrorKind::Other),
            (400, "BadDigest", StoreErrorKind::Corrupt),
            (403, "QuotaExceeded", StoreErrorKind::Full),
            (403, "InvalidObjectState", StoreErrorKind::Refused),
            (301, "PermanentRedirect", StoreErrorKind::Refused),
            (400, "InvalidBucketName", StoreErrorKind::Refused),
            (500, "InternalError", StoreErrorKind::Other),
        ];
        for (status, code, kind) in expected {
            assert_eq!(kind_of(status, code), kind, "{status} {code}");
        }
    }
}

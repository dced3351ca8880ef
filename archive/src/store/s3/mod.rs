//! A repository in a bucket, over whatever speaks S3.
//!
//! The settings are the ones that a range of servers was seen to agree on:
//! path style, checksums only where the protocol demands one or we send our
//! own, bodies signed in memory, no multipart. Each method is one attempt:
//! repeating, counting and time limits over all attempts are the handle's.
//!
//! Two things are left to nobody: how long an answer may take, and that a
//! body moves. The client's own guesses at both are switched off.
//!
//! `backend` alone calls it, and no other part of the workspace names the client.

mod credentials;
mod deletion;
mod endpoint;
mod errors;
mod listing;
mod upload;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::ChecksumMode;
use aws_sdk_s3::{Client, Config};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::base64;
use bytes::{Bytes, BytesMut};

use super::error::{StoreError, StoreErrorKind};
use super::{MAX_OBJECT_BYTES, ObjectMeta, Presigned, RawBody, RetryPolicy, S3Options, StorePlace};
use credentials::AccessKey;
use errors::innermost;
use upload::Watch;

/// An answer may take this many times as long as a body may stand still.
const ANSWER_FACTOR: u32 = 3;
const MAX_CONNECT: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct S3 {
    client: Client,
    endpoint: String,
    region: String,
    bucket: String,
    /// Empty, or ends in a slash.
    prefix: String,
    credentials_file: PathBuf,
    /// What is trusted instead of the machine's list.
    ca_pem: Option<Arc<str>>,
    /// Set once the server has shown that it removes one object at a time.
    single_deletes: Arc<AtomicBool>,
}

impl S3 {
    pub(super) fn open(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, StoreError> {
        let refused = |text: String| StoreError::new(StoreErrorKind::Refused, text);
        let credentials_file = options.credentials_file.clone().ok_or_else(|| {
            refused(format!(
                "s3://{bucket} needs an access key: name the file it is in as `credentials_file`"
            ))
        })?;
        let key = AccessKey::read(&credentials_file, options.profile.as_deref())?;
        let region = options.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = endpoint::address(options, &region)?;
        let ca_pem = endpoint::ca(options)?;
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .endpoint_url(&endpoint)
            .credentials_provider(key.for_client())
            // Servers of one's own have no host name for each bucket.
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // A clock that is wrong has to be named and set: the error says by how much.
            .disable_clock_skew_correction(true)
            // The handle repeats, with its own limits; both together would multiply.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(MAX_CONNECT).build())
            .http_client(http_client(ca_pem.as_deref())?)
            .build();
        Ok(Self {
            client: Client::from_conf(config),
            endpoint,
            region,
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            credentials_file,
            ca_pem: ca_pem.map(Into::into),
            single_deletes: Arc::default(),
        })
    }

    pub(super) fn location(&self) -> String {
        let whole = format!("s3://{}/{}", self.bucket, self.prefix);
        format!("{} at {}", whole.trim_end_matches('/'), self.endpoint)
    }

    /// Where others send objects to, and whom they trust there.
    pub(super) fn place(&self) -> StorePlace {
        let url = format!("{}/{}/{}", self.endpoint, self.bucket, self.prefix);
        let ca_pem = self.ca_pem.as_deref().unwrap_or_default().to_owned();
        StorePlace { url: url.trim_end_matches('/').to_owned(), ca_pem }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) async fn get(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        policy: &RetryPolicy,
    ) -> Result<RawBody, StoreError> {
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let request = self.client.get_object().bucket(&self.bucket).key(self.key(name)).set_range(header);
        let answer = self
            .answer("read", name, policy, request.send())
            .await?
            .map_err(|error| self.failed("read", name, error))?;
        let announced = answer.content_length.and_then(|len| u64::try_from(len).ok());
        let most = range.map_or(MAX_OBJECT_BYTES, |range| range.end - range.start);
        let declared = announced.unwrap_or(most);
        // Before a byte of it is read: nothing is allocated on a server's word.
        if declared > most {
            return Err(self.too_long(name, declared, most));
        }
        let bytes = self.body(name, answer.body, declared, policy).await?;
        Ok(RawBody { declared: announced.unwrap_or(bytes.len() as u64), bytes })
    }

    async fn body(
        &self,
        name: &str,
        mut body: ByteStream,
        most: u64,
        policy: &RetryPolicy,
    ) -> Result<Bytes, StoreError> {
        let what = || format!("could not read {name} in {}", self.location());
        let mut bytes = BytesMut::with_capacity(usize::try_from(most).unwrap_or(0));
        let mut mark = 0;
        let mut deadline = tokio::time::Instant::now() + policy.stall_after;
        loop {
            let piece = match tokio::time::timeout_at(deadline, body.next()).await {
                Err(_) => {
                    let cause = format!("the transfer stood still after {} of {most} bytes", bytes.len());
                    return Err(self.unreachable(&what(), &cause));
                }
                Ok(None) => return Ok(bytes.freeze()),
                Ok(Some(Err(error))) => {
                    let cause =
                        format!("it broke off after {} of {most} bytes: {}", bytes.len(), innermost(&error));
                    return Err(self.unreachable(&what(), &cause).caused_by(error));
                }
                Ok(Some(Ok(piece))) => piece,
            };
            bytes.extend_from_slice(&piece);
            // It may send more than it has announced.
            if bytes.len() as u64 > most {
                return Err(self.too_long(name, bytes.len() as u64, most));
            }
            // A server that sends a byte now and then is not moving.
            if bytes.len() as u64 >= mark + RetryPolicy::STALL_BYTES {
                mark = bytes.len() as u64;
                deadline = tokio::time::Instant::now() + policy.stall_after;
            }
        }
    }

    fn too_long(&self, name: &str, came: u64, wanted: u64) -> StoreError {
        StoreError::new(
            StoreErrorKind::Corrupt,
            format!(
                "{name} in {}: {wanted} bytes at most were asked for and {came} come; the object is damaged or the server ignores ranges",
                self.location()
            ),
        )
    }

    pub(super) async fn put(
        &self,
        name: &str,
        bytes: &Bytes,
        sha256: &[u8; 32],
        policy: &RetryPolicy,
    ) -> Result<(), StoreError> {
        let watch = Watch::new(bytes.clone()).signed_as(sha256);
        self.send(name, watch, sha256, false, policy).await
    }

    /// For probes: the checksum goes along as it is given, right or wrong, and the signature
    /// covers what the bytes are. With `absent`, asks the store to refuse where the object is there.
    pub(super) async fn put_if(
        &self,
        name: &str,
        bytes: &Bytes,
        sha256: &[u8; 32],
        absent: bool,
        policy: &RetryPolicy,
    ) -> Result<(), StoreError> {
        self.send(name, Watch::new(bytes.clone()), sha256, absent, policy).await
    }

    async fn send(
        &self,
        name: &str,
        watch: Watch,
        sha256: &[u8; 32],
        absent: bool,
        policy: &RetryPolicy,
    ) -> Result<(), StoreError> {
        let bytes = watch.bytes();
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            .content_length(signed(bytes.len() as u64))
            .checksum_sha256(base64::encode(sha256))
            .set_if_none_match(absent.then(|| "*".to_owned()))
            .body(SdkBody::from(bytes.clone()).into());
        let upload = request.customize().interceptor(watch.clone()).send();
        self.watched(name, &watch, policy, upload)
            .await?
            .map_err(|error| self.failed("write", name, error))?;
        // Some servers have begun to answer 200 by the time they fail, and write the error into the
        // body.
        if watch.saw_error_in_answer() {
            let what = format!("could not write {name} in {}", self.location());
            return Err(self.answered(&what, 200, "", "success, and an error in the same answer", None));
        }
        Ok(())
    }

    /// Sends the bytes by a presigned request; the status of the answer.
    pub(super) async fn put_presigned(
        &self,
        presigned: Presigned,
        bytes: Bytes,
        policy: &RetryPolicy,
    ) -> Result<u16, StoreError> {
        let watch = Watch::instead(presigned, bytes);
        let upload = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key("replaced")
            .body(ByteStream::default())
            .customize()
            .interceptor(watch.clone())
            .send();
        match self.watched("presigned", &watch, policy, upload).await? {
            Ok(_) => Ok(200),
            Err(error) => match error.raw_response() {
                Some(raw) => Ok(raw.status().as_u16()),
                None => Err(self.failed("write", "presigned", error)),
            },
        }
    }

    pub(super) async fn head(
        &self,
        name: &str,
        policy: &RetryPolicy,
    ) -> Result<Option<ObjectMeta>, StoreError> {
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            // Without this S3 leaves the SHA-256 out of its answer.
            .checksum_mode(ChecksumMode::Enabled);
        let answer = match self.answer("look at", name, policy, request.send()).await? {
            Ok(answer) => answer,
            Err(error) => {
                let error = self.failed("look at", name, error);
                return if error.is_not_found() { Ok(None) } else { Err(error) };
            }
        };
        let len = answer.content_length.and_then(|len| u64::try_from(len).ok()).ok_or_else(|| {
            let what = format!("could not look at {name} in {}", self.location());
            self.answered(&what, 200, "", "no length", None)
        })?;
        // Of an upload in parts the text is no SHA-256 of the whole: it counts as not known.
        let sha256 = answer.checksum_sha256.and_then(|text| base64::decode(text).ok()?.try_into().ok());
        Ok(Some(ObjectMeta { len, sha256 }))
    }

    pub(super) async fn presign_put(
        &self,
        name: &str,
        len: u64,
        sha256: &[u8; 32],
        expires: Duration,
    ) -> Result<Presigned, StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            .content_length(signed(len))
            .checksum_sha256(base64::encode(sha256));
        let presigned = request
            .presigned(self.presigning(name, expires)?)
            .await
            .map_err(|error| self.failed("presign", name, error))?;
        Ok(as_presigned(&presigned))
    }

    pub(super) async fn presign_get(
        &self,
        name: &str,
        range: Range<u64>,
        expires: Duration,
    ) -> Result<Presigned, StoreError> {
        let request = self.client.get_object().bucket(&self.bucket).key(self.key(name)).range(format!(
            "bytes={}-{}",
            range.start,
            range.end.saturating_sub(1)
        ));
        let presigned = request
            .presigned(self.presigning(name, expires)?)
            .await
            .map_err(|error| self.failed("presign", name, error))?;
        Ok(as_presigned(&presigned))
    }

    fn presigning(&self, name: &str, expires: Duration) -> Result<PresigningConfig, StoreError> {
        PresigningConfig::expires_in(expires).map_err(|error| {
            StoreError::new(StoreErrorKind::Refused, format!("could not presign {name}: {error}"))
        })
    }

    async fn answer<T>(
        &self,
        verb: &str,
        name: &str,
        policy: &RetryPolicy,
        request: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let limit = policy.stall_after * ANSWER_FACTOR;
        tokio::time::timeout(limit, request).await.map_err(|error| {
            let what = format!("could not {verb} {name} in {}", self.location());
            self.unreachable(&what, &format!("no answer within {limit:?}")).caused_by(error)
        })
    }

    async fn watched<T>(
        &self,
        name: &str,
        watch: &Watch,
        policy: &RetryPolicy,
        upload: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let limit = policy.stall_after * ANSWER_FACTOR;
        watch.over(policy, limit, upload).await.map_err(|stalled| {
            let what = format!("could not write {name} in {}", self.location());
            self.unreachable(&what, &format!("the transfer stood still after {} bytes", stalled.sent))
        })
    }
}

fn http_client(ca_pem: Option<&str>) -> Result<aws_sdk_s3::config::SharedHttpClient, StoreError> {
    let refused = |text: String| StoreError::new(StoreErrorKind::Refused, text);
    let trust = match ca_pem {
        None => TrustStore::empty().with_native_roots(true),
        Some(pem) => TrustStore::empty().with_pem_certificate(pem.as_bytes()),
    };
    let context = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| refused(format!("could not set up TLS: {error}")).caused_by(error))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

fn as_presigned(request: &PresignedRequest) -> Presigned {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Presigned { url: request.uri().to_owned(), headers: request.headers().map(owned).collect() }
}

fn signed(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

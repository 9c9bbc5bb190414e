//! A store that is a bucket of an S3 service.

use std::{fmt::Display, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedHttpClient, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    BucketSpec, Expected, Found, Listed, Node, Sink, Source, SourceError, Store, StoreError, StoreResult,
    Stored, Usage,
};
use crate::{
    layout::StorePath,
    store::{signature::OldSignature, upload::Upload},
};

/// Reported for a bucket, whose size nobody knows; large enough for every threshold.
const PLENTY: u64 = 1 << 50;
/// Attempts to go on with an object that stopped coming.
const RESUMES: u32 = 5;

/// A bucket.
#[derive(Debug, Clone)]
pub(crate) struct S3Store {
    pub(super) client: Client,
    pub(super) bucket: String,
    /// Bodies travel unsigned: the transport protects them, or their signature could not cover them.
    pub(super) unsigned: bool,
}

impl S3Store {
    /// Builds a client; nothing is sent yet.
    pub(crate) fn new(spec: &BucketSpec) -> StoreResult<Self> {
        let credentials =
            Credentials::new(spec.access_key.expose(), spec.secret_key.expose(), None, None, "store");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(spec.connect_limit))
            .read_timeout(Duration::from_millis(spec.silence_limit))
            .build();
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(spec.region.clone()))
            .credentials_provider(credentials)
            .http_client(http_client(&spec.trust)?)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(spec.attempts.max(1)))
            // Services other than AWS know neither the newer checksums nor chunked signatures.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if !spec.endpoint.is_empty() {
            config = config.endpoint_url(&spec.endpoint).force_path_style(spec.path_style);
        }
        if spec.old_signature {
            config = config.interceptor(OldSignature::new(spec));
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            bucket: spec.bucket.clone(),
            unsigned: spec.old_signature || !spec.endpoint.starts_with("http://"),
        })
    }

    async fn keys(&self, prefix: &str) -> StoreResult<Vec<Listed>> {
        let mut pages =
            self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).into_paginator().send();
        let mut list = Vec::new();
        while let Some(page) = pages.next().await {
            for object in page.map_err(|e| error(prefix, &e))?.contents.unwrap_or_default() {
                super::beneath::bounded(&list)?;
                // Keys that are no paths of a store were not written by one.
                if let Some(path) = object.key.and_then(|key| StorePath::parse(&key).ok()) {
                    let size = object.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                    list.push(Listed { path, size });
                }
            }
        }
        Ok(list)
    }
}

/// What the service said, as the store's error.
pub(super) fn error<E, R>(what: impl Display, source: &SdkError<E, R>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug,
{
    let what = what.to_string();
    match (source.code(), source) {
        (Some("NoSuchKey" | "NotFound"), _) => StoreError::Missing(what),
        (Some("AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch"), _) => {
            StoreError::Denied(format!("{what}: {}", source.code().unwrap_or_default()))
        }
        (_, SdkError::TimeoutError(_)) => {
            StoreError::Other { what, reason: "the object store does not answer".into() }
        }
        _ => StoreError::Other { what, reason: DisplayErrorContext(source).to_string() },
    }
}

fn http_client(trust: &[String]) -> StoreResult<SharedHttpClient> {
    let mut store = TrustStore::empty().with_native_roots(true);
    for pem in trust {
        store.add_pem_certificate(pem.as_bytes());
    }
    let context = TlsContext::builder().with_trust_store(store).build().map_err(|e| StoreError::Other {
        what: "trusted certificates".into(),
        reason: DisplayErrorContext(&e).to_string(),
    })?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https())
}

impl Store for S3Store {
    fn create<'a>(
        &'a self,
        path: &'a StorePath,
        expected: Expected,
    ) -> BoxFuture<'a, StoreResult<Box<dyn Sink>>> {
        Box::pin(async move {
            let sink: Box<dyn Sink> = Box::new(Upload::new(self.clone(), path.clone(), expected));
            Ok(sink)
        })
    }

    fn kept<'a>(&'a self, _path: &'a StorePath) -> BoxFuture<'a, StoreResult<Option<Box<dyn Source>>>> {
        Box::pin(async { Ok(None) })
    }

    fn go_on<'a>(
        &'a self,
        path: &'a StorePath,
        stored: &'a Stored,
    ) -> BoxFuture<'a, StoreResult<Option<Box<dyn Sink>>>> {
        Box::pin(async move {
            let upload = Upload::go_on(self.clone(), path.clone(), stored).await?;
            Ok(upload.map(|upload| Box::new(upload) as Box<dyn Sink>))
        })
    }

    fn discard<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(async move { super::upload::abort_of(self, path).await })
    }

    fn open<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Box<dyn Source>>> {
        Box::pin(async move {
            let object = self
                .client
                .get_object()
                .bucket(&self.bucket)
                .key(path.as_str())
                .send()
                .await
                .map_err(|e| error(path, &e))?;
            let size = object.content_length.and_then(|l| u64::try_from(l).ok()).unwrap_or(0);
            let source: Box<dyn Source> = Box::new(ObjectSource {
                store: self.clone(),
                path: path.clone(),
                etag: object.e_tag,
                body: object.body,
                size,
                got: 0,
                resumes: 0,
            });
            Ok(source)
        })
    }

    fn find<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Found>> {
        Box::pin(async move {
            let head = self.client.head_object().bucket(&self.bucket).key(path.as_str()).send().await;
            match head {
                Ok(head) => {
                    Ok(Found::File(head.content_length.and_then(|l| u64::try_from(l).ok()).unwrap_or(0)))
                }
                Err(e) => match error(path, &e) {
                    StoreError::Missing(_) => Ok(Found::Nothing),
                    other => Err(other),
                },
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<Vec<Listed>>> {
        Box::pin(async move { self.keys(&format!("{folder}/")).await })
    }

    fn remove_file<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<bool>> {
        Box::pin(async move {
            let gone = self.client.delete_object().bucket(&self.bucket).key(path.as_str()).send().await;
            match gone.map_err(|e| error(path, &e)) {
                Ok(_) => Ok(true),
                Err(StoreError::Missing(_)) => Ok(false),
                Err(other) => Err(other),
            }
        })
    }

    fn remove_folder<'a>(
        &'a self,
        path: &'a StorePath,
        _expendable: &'a [&'a str],
    ) -> BoxFuture<'a, StoreResult<bool>> {
        Box::pin(async move {
            let mut any = false;
            for object in self.list(path).await? {
                any |= self.remove_file(&object.path).await?;
            }
            if self.find(path).await? != Found::Nothing {
                any |= self.remove_file(path).await?;
            }
            Ok(any)
        })
    }

    fn tidy<'a>(&'a self, _folder: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(async { Ok(()) })
    }

    fn rename<'a>(&'a self, from: &'a StorePath, _to: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        let reason = "an object store moves nothing".to_owned();
        Box::pin(async move { Err(StoreError::Other { what: from.to_string(), reason }) })
    }

    fn browse<'a>(&'a self, _path: Option<&'a StorePath>) -> BoxFuture<'a, StoreResult<Option<Vec<Node>>>> {
        let (what, reason) = (self.bucket.clone(), "an object store has no folders".to_owned());
        Box::pin(async move { Err(StoreError::Other { what, reason }) })
    }

    fn usage(&self) -> BoxFuture<'_, StoreResult<Usage>> {
        Box::pin(async move {
            self.client
                .head_bucket()
                .bucket(&self.bucket)
                .send()
                .await
                .map_err(|e| error(format_args!("bucket {}", self.bucket), &e))?;
            Ok(Usage { capacity: PLENTY, used: 0 })
        })
    }

    fn sweep<'a>(&'a self, age: u64, _live: &'a [String]) -> BoxFuture<'a, StoreResult<u64>> {
        Box::pin(async move { super::upload::abort_old(self, age).await })
    }

    fn has_properties(&self) -> bool {
        false
    }
}

/// An object that comes in one stream; where the stream breaks it goes on from that byte.
struct ObjectSource {
    store: S3Store,
    path: StorePath,
    etag: Option<String>,
    body: ByteStream,
    size: u64,
    got: u64,
    resumes: u32,
}

impl ObjectSource {
    async fn resume(&mut self) -> StoreResult<()> {
        let range = format!("bytes={}-", self.got);
        let client = &self.store.client;
        let again = client.get_object().bucket(&self.store.bucket).key(self.path.as_str()).range(range);
        let object = again.set_if_match(self.etag.clone()).send().await.map_err(|e| error(&self.path, &e))?;
        self.body = object.body;
        Ok(())
    }
}

impl Source for ObjectSource {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            loop {
                let reason = match self.body.try_next().await {
                    Ok(Some(bytes)) => {
                        self.got += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                    Ok(None) if self.got >= self.size => return Ok(None),
                    Ok(None) => "the object ended too early".to_owned(),
                    Err(e) => DisplayErrorContext(&e).to_string(),
                };
                self.resumes += 1;
                if self.resumes > RESUMES {
                    return Err(StoreError::Other { what: self.path.to_string(), reason }.into());
                }
                tracing::warn!(path = %self.path, at = self.got, %reason, "going on with an object");
                tokio::time::sleep(Duration::from_millis(200 << self.resumes)).await;
                self.resume().await?;
            }
        })
    }
}

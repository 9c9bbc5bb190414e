//! HTTP and HTTPS downloads: one request, and where the connection breaks, others for the rest.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::command::Secret;
use futures_util::future::BoxFuture;
use reqwest::{
    Certificate, Client, Proxy, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Deserialize, Serialize};

use super::{Policy, url};
use crate::store::{Origin, Source, SourceError};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// Connections that wait for the next piece of the same file.
const IDLE: usize = 4;
/// Redirections that are followed.
const HOPS: usize = 10;
/// Attempts to go on without a single new byte in between.
const ATTEMPTS: u32 = 5;
/// Headers that tell the size of a chunked body, in this order.
const SIZES: [&str; 8] = [
    "x-goog-stored-content-length",
    "x-goog-meta-size",
    "x-amz-meta-size",
    "x-amz-meta-content-length",
    "x-object-meta-size",
    "x-original-content-length",
    "x-oss-meta-content-length",
    "x-file-size",
];

/// A proxy on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProxySpec {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<(String, Secret)>,
}

/// What is to be downloaded, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HttpOrder {
    /// May carry credentials.
    pub(crate) url: Secret,
    pub(crate) user: Option<(String, Secret)>,
    pub(crate) proxy: Option<ProxySpec>,
    pub(crate) follow_redirects: bool,
    pub(crate) policy: Policy,
    /// Certificates to trust beside those of the system, PEM.
    pub(crate) trust: Vec<String>,
    /// Longest silence of the other end in seconds before the request is made anew.
    pub(crate) stall: u64,
}

impl HttpOrder {
    /// The host, for limits of simultaneous downloads from one.
    pub(crate) fn host(&self) -> String {
        url::parse(self.url.expose()).ok().and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The same for another URL. Credentials are for the host that they were given for.
    pub(crate) fn of_mirror(&self, url: &str) -> Self {
        let mirror = Self { url: Secret::new(url), ..self.clone() };
        let same = mirror.host() == self.host();
        Self { user: mirror.user.clone().filter(|_| same), ..mirror }
    }

    /// The URL as it may be shown.
    pub(crate) fn shown(&self) -> String {
        url::shown(self.url.expose())
    }
}

/// A download under way.
pub(crate) struct HttpSource {
    client: Client,
    order: HttpOrder,
    url: Url,
    response: Option<Response>,
    /// Bytes in all, where known.
    size: Option<u64>,
    /// Their number was told by what frames the body.
    exact: bool,
    got: u64,
    /// Where it ends if only a part is wanted.
    until: Option<u64>,
    /// The other end serves parts.
    ranges: bool,
    /// What the rest must still belong to.
    validator: Option<HeaderValue>,
    attempts: u32,
}

fn remote(text: impl Into<String>) -> SourceError {
    SourceError::Remote(text.into())
}

/// An error with everything beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Names are resolved by the policy, so that only what it allows is connected to.
struct Resolver(Policy);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = policy.resolve(name.as_str(), 0).await?;
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

impl HttpSource {
    fn new(order: &HttpOrder) -> Result<Self, SourceError> {
        Ok(Self {
            client: client(order)?,
            order: order.clone(),
            url: url::parse(order.url.expose()).map_err(SourceError::Remote)?,
            response: None,
            size: None,
            exact: false,
            got: 0,
            until: None,
            ranges: false,
            validator: None,
            attempts: 0,
        })
    }

    /// Whether parts of it can be fetched side by side: the other end serves them, and tells which file they
    /// belong to.
    pub(crate) fn is_divisible(&self) -> bool {
        self.ranges && self.origin().is_some()
    }

    /// Where the next byte belongs.
    pub(crate) fn position(&self) -> u64 {
        self.got
    }

    /// A part of the same file, which is not asked for yet.
    pub(crate) fn part(&self, from: u64, until: u64) -> Self {
        Self {
            client: self.client.clone(),
            order: self.order.clone(),
            url: self.url.clone(),
            response: None,
            size: self.size,
            exact: self.exact,
            got: from,
            until: Some(until),
            ranges: true,
            validator: self.validator.clone(),
            attempts: 0,
        }
    }

    /// Ends it before its end; `None` takes that back, and goes on from `position`.
    pub(crate) fn end_at(&mut self, until: Option<u64>) {
        self.until = until;
    }

    /// Goes on from another place.
    pub(crate) fn jump(&mut self, position: u64) {
        (self.response, self.got) = (None, position);
    }

    /// Goes on with a file of which so many bytes are there; `None` where it is another file now, or the other
    /// end serves no parts.
    pub(crate) async fn go_on(
        order: &HttpOrder,
        origin: &Origin,
        from: u64,
    ) -> Result<Option<Self>, SourceError> {
        let mut source = Self::new(order)?;
        source.validator = HeaderValue::from_str(&origin.tag).ok();
        if from >= origin.size || source.validator.is_none() {
            return Ok(None);
        }
        (source.size, source.exact, source.got, source.ranges) = (Some(origin.size), true, from, true);
        loop {
            match source.resume().await {
                Ok(()) => break,
                Err(Failure::Final(_)) => return Ok(None),
                Err(passing) => source.pause(passing).await?,
            }
        }
        source.attempts = 0;
        Ok(Some(source))
    }

    /// Sends the request and judges the answer; nothing of the body has been read yet. More than `limit` bytes
    /// are refused where the answer tells their number.
    pub(crate) async fn open(order: &HttpOrder, limit: u64) -> Result<Self, SourceError> {
        let mut source = Self::new(order)?;
        let response = loop {
            match source.request().await {
                Ok(response) => break response,
                Err(error) => source.pause(error).await?,
            }
        };
        source.attempts = 0;
        source.accept(response, limit)?;
        Ok(source)
    }

    fn accept(&mut self, response: Response, limit: u64) -> Result<(), SourceError> {
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(remote(format!(" HTTP Server returned {status} (expected 200 OK) ")));
        }
        let headers = response.headers();
        let chunked =
            headers.get(header::TRANSFER_ENCODING).is_some_and(|v| v.as_bytes().ends_with(b"chunked"));
        self.exact = !chunked && response.content_length().is_some();
        self.size = match response.content_length() {
            Some(length) => Some(length),
            None if chunked => {
                SIZES.iter().find_map(|name| headers.get(*name)?.to_str().ok()?.trim().parse().ok())
            }
            None => return Err(remote(" Failed to receive length of download ")),
        };
        if self.size.is_some_and(|size| size > limit) {
            return Err(remote("Download file size is too large"));
        }
        // A sized body ends where it says; the size of a chunked one is only a hint for the progress.
        if chunked {
            self.size = self.size.filter(|size| *size > 0);
        }
        self.validator = strong_validator(headers);
        self.ranges = headers.get(header::ACCEPT_RANGES).is_some_and(|v| v.as_bytes() == b"bytes");
        self.response = Some(response);
        Ok(())
    }

    /// One request with its redirections.
    async fn request(&mut self) -> Result<Response, Failure> {
        let mut url = self.url.clone();
        for _ in 0..=HOPS {
            self.permit(&url).await.map_err(Failure::Final)?;
            let mut request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let Some((user, password)) = &self.order.user
                && url.host_str() == self.url.host_str()
            {
                request = request.basic_auth(user, Some(password.expose()));
            }
            if self.got > 0 || self.until.is_some() {
                let last = self.until.map(|until| (until - 1).to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={}-{last}", self.got));
                if let Some(validator) = &self.validator {
                    request = request.header(header::IF_RANGE, validator.clone());
                }
            }
            let limit = CONNECT + Duration::from_secs(self.order.stall);
            let response = match tokio::time::timeout(limit, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(Failure::Passing(chain(&error.without_url()))),
                Err(_) => return Err(Failure::Passing("no answer".into())),
            };
            if !response.status().is_redirection() {
                if response.status().is_server_error() {
                    let status = response.status().as_u16();
                    return Err(Failure::Passing(format!(
                        " HTTP Server returned {status} (expected 200 OK) "
                    )));
                }
                return Ok(response);
            }
            url = self.next_hop(&url, &response).map_err(Failure::Final)?;
        }
        Err(Failure::Final(remote(format!("More than {HOPS} redirections"))))
    }

    fn next_hop(&self, url: &Url, response: &Response) -> Result<Url, SourceError> {
        let status = response.status().as_u16();
        if !self.order.follow_redirects || !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Err(remote(format!(
                "Failed to download {} due to redirection, response code: {status}",
                url::shown(url.as_str())
            )));
        }
        let target =
            response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let next = url.join(target).map_err(|_| remote(format!("Invalid URL: {}", url::shown(target))))?;
        let next = url::parse(next.as_str()).map_err(SourceError::Remote)?;
        if url.scheme() == "https" && next.scheme() == "http" {
            return Err(remote("A redirection from https to http is not followed"));
        }
        Ok(next)
    }

    /// A connection is only made to addresses that the policy allows; addresses in the URL never pass
    /// the resolver, and with a proxy nothing does.
    async fn permit(&self, url: &Url) -> Result<(), SourceError> {
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if literal || self.order.proxy.is_none() {
            let port = url.port_or_known_default().unwrap_or(80);
            self.order.policy.resolve(host, port).await.map_err(|e| remote(e.to_string()))?;
        }
        Ok(())
    }

    /// Waits before another attempt, or fails where there were enough.
    async fn pause(&mut self, failure: Failure) -> Result<(), SourceError> {
        let text = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(text) => text,
        };
        self.attempts += 1;
        if self.attempts >= ATTEMPTS {
            let text = match self.got {
                0 => text,
                got => format!("Downloaded {got} bytes (incomplete download): {text}"),
            };
            return Err(remote(text));
        }
        tracing::warn!(url = %self.order.shown(), at = self.got, reason = %text, "the download is tried again");
        tokio::time::sleep(Duration::from_millis(250 << self.attempts)).await;
        Ok(())
    }

    /// Asks for the rest.
    async fn resume(&mut self) -> Result<(), Failure> {
        let response = self.request().await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Failure::Final(remote("HTTP Server does not support partial get")));
        }
        if self.validator.as_ref().is_some_and(|known| is_another(known, response.headers())) {
            return Err(Failure::Final(remote("The file has changed on the HTTP Server meanwhile")));
        }
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
        match range.and_then(content_range) {
            Some((start, total))
                if start == self.got && (total.is_none() || self.size.is_none() || total == self.size) =>
            {
                self.response = Some(response);
                Ok(())
            }
            _ => Err(Failure::Final(remote("HTTP Server answered with another part than asked for"))),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            let left = self.until.map(|until| until.saturating_sub(self.got));
            if left == Some(0) {
                self.response = None;
                return Ok(None);
            }
            let Some(response) = self.response.as_mut() else {
                match self.resume().await {
                    Ok(()) => {}
                    Err(failure) => self.pause(failure).await?,
                }
                continue;
            };
            let stall = Duration::from_secs(self.order.stall);
            let reason = match tokio::time::timeout(stall, response.chunk()).await {
                Ok(Ok(Some(mut bytes))) => {
                    bytes.truncate(left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX));
                    self.got += bytes.len() as u64;
                    self.attempts = 0;
                    return Ok(Some(bytes));
                }
                Ok(Ok(None)) if left.is_some() => "the part ended too early".to_owned(),
                // The body's own framing told that it is whole.
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => chain(&error.without_url()),
                Err(_) => format!("no byte for {} s", stall.as_secs()),
            };
            self.response = None;
            if self.got == 0 && self.size == Some(0) {
                return Ok(None);
            }
            self.pause(Failure::Passing(reason)).await?;
        }
    }
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may help.
    Passing(String),
    /// It will not.
    Final(SourceError),
}

fn client(order: &HttpOrder) -> Result<Client, SourceError> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(IDLE)
        .no_proxy();
    for pem in &order.trust {
        let certificates = Certificate::from_pem_bundle(pem.as_bytes());
        builder = builder.tls_certs_merge(certificates.map_err(|e| remote(chain(&e)))?);
    }
    builder = match &order.proxy {
        Some(spec) => {
            let proxy = Proxy::all(format!("http://{}:{}", spec.host, spec.port));
            let mut proxy = proxy.map_err(|e| remote(chain(&e)))?;
            if let Some((user, password)) = &spec.user {
                proxy = proxy.basic_auth(user, password.expose());
            }
            builder.proxy(proxy)
        }
        None => builder.dns_resolver(Arc::new(Resolver(order.policy.clone()))),
    };
    builder.build().map_err(|e| remote(chain(&e)))
}

/// An entity tag that is not weak, or the date of the last change.
fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(header::ETAG).filter(|t| !t.as_bytes().starts_with(b"W/"));
    tag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

/// Whether an answer says that it is of another file, which a server may do that pays no heed to `If-Range`.
fn is_another(known: &HeaderValue, headers: &HeaderMap) -> bool {
    let is_tag = known.as_bytes().starts_with(b"\"");
    headers.get(if is_tag { header::ETAG } else { header::LAST_MODIFIED }).is_some_and(|now| now != known)
}

/// `bytes <start>-<end>/<total or *>`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

impl Source for HttpSource {
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn origin(&self) -> Option<Origin> {
        let tag = self.validator.as_ref()?.to_str().ok().filter(|tag| tag.starts_with('"'))?;
        Some(Origin { tag: tag.to_owned(), size: self.size.filter(|_| self.exact)? })
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(self.next())
    }
}

#[cfg(test)]
mod tests;

//! Uploads from a browser: the ticket is judged, the core asked, and the file goes through the same
//! pipeline as a download into its place, once.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future::BoxFuture};
use http_body_util::BodyDataStream;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    ADVANCE, Advance, BEGIN, Begin, END, End, Receive, Ticket, Verdict,
    files::{Body, text},
    listen::App,
    multipart::{Fault, Parts, boundary},
    ticket,
};
use crate::{
    format::{Kind, detect, named},
    order::Stored,
    store::{Source, SourceError},
    transfer::Meter,
    worker::{Arrival, NOT_AS_NAMED, arrive, mismatch},
};

/// Longest wait for the core's word.
const ASK: Duration = Duration::from_secs(60);
/// Attempts to tell the core of an end, which must not be lost, and the pause between two.
const TELL: u32 = 30;
const PAUSE: Duration = Duration::from_secs(2);
/// Longest silence of a browser.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes after the file that are read, so that the browser reads the answer.
const REST: usize = 1024 * 1024;

/// Bytes that tell what a file is: those of an ISO image are the furthest.
const PEEK: usize = 36 * 1024;

/// Why an upload is not taken: status and text.
type Refusal = (StatusCode, String);

fn bad(text: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, text.to_owned())
}

/// Takes a request for an upload to its end.
pub(super) async fn receive(
    app: &Arc<App>,
    request: Request<Incoming>,
    uuid: &str,
    https: bool,
) -> Response<Body> {
    let answer = match begin(app, &request, uuid, https).await {
        Err(refusal) => Err(refusal),
        // A task of its own: what has begun is told of in the end, also where the connection breaks.
        Ok(task) => {
            let (app, uuid) = (Arc::clone(app), uuid.to_owned());
            tokio::spawn(async move { take(&app, &uuid, *task, request).await }).await.unwrap_or_else(|_| {
                Err((StatusCode::INTERNAL_SERVER_ERROR, "the upload failed inside, see the log".into()))
            })
        }
    };
    match answer {
        Ok(()) => text(StatusCode::OK, "upload successful."),
        Err((status, reason)) => {
            tracing::warn!(uuid, %status, reason, "an upload is refused or failed");
            text(status, reason)
        }
    }
}

/// Everything that can be said before the body comes.
async fn begin(
    app: &App,
    request: &Request<Incoming>,
    uuid: &str,
    https: bool,
) -> Result<Box<Receive>, Refusal> {
    if *request.method() != Method::POST {
        return Err(bad("only post requests are allowed"));
    }
    let key = app.in_force.borrow().site.upload_key.clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (ticket, length) = judged(request.headers(), key.as_ref().map(|k| k.expose()), uuid, https, now)?;
    let begin = Begin { uuid: uuid.to_owned(), ticket, length };
    match app.core.ask::<_, Verdict>(BEGIN, &begin, ASK).await {
        Ok(Verdict::Receive(task)) => Ok(task),
        Ok(Verdict::Refuse(status, text)) => {
            Err((StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text))
        }
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// The ticket in the headers and the length of the body, if all is well with them. Nothing is remembered of a
/// request that is not signed.
fn judged(
    headers: &HeaderMap,
    key: Option<&str>,
    uuid: &str,
    https: bool,
    now: u64,
) -> Result<(Ticket, u64), Refusal> {
    let value = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim();
    let (signature, metadata, expires) = (value("x-signature"), value("x-metadata"), value("x-expires"));
    if signature.is_empty() || metadata.is_empty() || expires.is_empty() {
        return Err(bad("signature, metadata and expires are compulsory fields."));
    }
    let length: u64 = value("content-length").parse().unwrap_or(0);
    if length == 0 {
        return Err(bad("content length is not set in the request or has invalid value."));
    }
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{}/upload/{uuid}", value("host"));
    let key = key.filter(|key| ticket::is_signed(key, metadata, &url, expires, signature));
    let key = key.ok_or_else(|| bad("signature validation failed."))?;
    let until = ticket::seconds(expires)
        .ok_or_else(|| bad("\r\nException occurred: expires is no time"))
        .map_err(|(_, text)| (StatusCode::INTERNAL_SERVER_ERROR, text))?;
    if u64::try_from(until).unwrap_or(0) < now {
        return Err(bad("request not valid anymore."));
    }
    let ticket = ticket::open(key, metadata);
    let ticket = ticket.filter(|t| t.entity_uuid.as_deref().is_none_or(|named| named == uuid));
    ticket.map(|ticket| (ticket, length)).ok_or_else(|| bad("unable decode and deserialize metadata."))
}

/// Takes the body and tells the core what became of it.
async fn take(app: &App, uuid: &str, task: Receive, request: Request<Incoming>) -> Result<(), Refusal> {
    let running = || app.running.lock().unwrap_or_else(PoisonError::into_inner);
    running().insert(uuid.to_owned());
    let result = match Arc::clone(&app.uploads).try_acquire_owned() {
        Ok(_place) => stored(app, uuid, &task, request).await,
        Err(_) => {
            Err((StatusCode::SERVICE_UNAVAILABLE, "too many uploads at a time, try again later".into()))
        }
    };
    let told = match &result {
        Ok(stored) => Ok(stored.clone()),
        Err((_, text)) => Err(text.clone()),
    };
    let end = End { uuid: uuid.to_owned(), result: told };
    let mut known = false;
    for _ in 0..TELL {
        match app.core.ask::<_, ()>(END, &end, ASK).await {
            Ok(()) => {
                known = true;
                break;
            }
            Err(error) => tracing::warn!(uuid, %error, "the core does not know the end of an upload yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    running().remove(uuid);
    match result {
        Ok(_) if !known => {
            Err((StatusCode::INTERNAL_SERVER_ERROR, "the upload could not be recorded".into()))
        }
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

async fn stored(
    app: &App,
    uuid: &str,
    task: &Receive,
    request: Request<Incoming>,
) -> Result<Stored, Refusal> {
    let internal = |text: String| (StatusCode::INTERNAL_SERVER_ERROR, text);
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let not_a_file = || (StatusCode::UNPROCESSABLE_ENTITY, "received entity is not a file".to_owned());
    let boundary = boundary(kind).ok_or_else(not_a_file)?.to_owned();
    let body = BodyDataStream::new(request.into_body()).map(|bytes| bytes.map_err(|e| e.to_string()));
    let mut parts = Parts::new(&boundary, body);
    let name = match timeout(SILENCE, parts.next_file()).await {
        Ok(Ok(Some(name))) => name,
        Ok(Ok(None)) => return Err(not_a_file()),
        Ok(Err(fault)) => return Err(internal(fault.to_string())),
        Err(_) => return Err(internal(Fault::Broken.to_string())),
    };
    if named(&name).is_some_and(|formats| !formats.contains(&task.format)) {
        let found = beginning(&mut parts).await;
        return Err(failed(mismatch(found, Some(task.format), &name)));
    }
    let store = task.store.open(&task.job).await.map_err(|e| internal(e.to_string()))?;
    let arrival = Arrival {
        folder: &task.folder,
        file: &task.file,
        format: Some(task.format),
        strict: true,
        decompress: true,
        uploaded: Some(&name),
        checksum: task.checksum.clone(),
        limit: task.limit,
        label: Some(&task.label),
        kept: 0,
    };
    let (meter, abort) = (Meter::default(), CancellationToken::new());
    let arrived = arrive(&*store, Box::new(FilePart { parts }), &arrival, &meter, &abort);
    let advance = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            let advance = Advance { uuid: uuid.to_owned(), received: meter.received() };
            // The next one says more.
            let _ = app.core.tell(ADVANCE, &advance);
        }
    };
    tokio::select! {
        result = arrived => result.map_err(|failure| failed(failure.text)),
        never = advance => never,
    }
}

/// What a file is, from its beginning; the rest is taken as far as a browser needs it to read the answer.
async fn beginning<S>(parts: &mut Parts<S>) -> Kind
where
    S: Stream<Item = Result<Bytes, String>> + Unpin + Send,
{
    let mut head = Vec::new();
    while head.len() < PEEK
        && let Ok(Ok(Some(bytes))) = timeout(SILENCE, parts.chunk()).await
    {
        head.extend_from_slice(&bytes);
    }
    let _ = timeout(SILENCE, parts.drain(REST)).await;
    detect(&head)
}

/// An upload that was not stored; it is the user's fault where the file is not what it is called.
fn failed(text: String) -> Refusal {
    let named = text.starts_with(NOT_AS_NAMED);
    (if named { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR }, text)
}

/// The file of a body as a source; at its end the rest of the body is taken too.
struct FilePart<S> {
    parts: Parts<S>,
}

impl<S> Source for FilePart<S>
where
    S: Stream<Item = Result<Bytes, String>> + Unpin + Send,
{
    fn size(&self) -> Option<u64> {
        None
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            match timeout(SILENCE, self.parts.chunk()).await {
                Ok(Ok(None)) => {
                    let _ = timeout(SILENCE, self.parts.drain(REST)).await;
                    Ok(None)
                }
                Ok(Ok(some)) => Ok(some),
                Ok(Err(fault)) => Err(SourceError::Remote(fault.to_string())),
                Err(_) => Err(SourceError::Remote(Fault::Broken.to_string())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    fn headers(words: &[(&'static str, &str)]) -> HeaderMap {
        words
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn tickets_are_judged_in_order() {
        let good = [
            ("host", "10-0-0-5.example.org"),
            ("x-signature", "GCfa0scQmhbOxvtF1Mk5k2Dcriw="),
            ("x-metadata", "TUVUQQ=="),
            ("x-expires", "2030-01-01T00:00:00.000Z"),
            ("content-length", "100"),
        ];
        let text = |words: &[(&'static str, &str)], key, uuid, https, now| {
            judged(&headers(words), key, uuid, https, now).unwrap_err().1
        };
        let key = Some("psk-test");
        // The signature is good, the metadata is not sealed.
        assert_eq!(text(&good, key, UUID, true, 0), "unable decode and deserialize metadata.");
        assert_eq!(text(&good, key, UUID, true, 1_900_000_000), "request not valid anymore.");
        for (key, uuid, https) in
            [(None, UUID, true), (Some("x"), UUID, true), (key, "other", true), (key, UUID, false)]
        {
            assert_eq!(text(&good, key, uuid, https, 0), "signature validation failed.");
        }
        assert!(text(&good[..4], key, UUID, true, 0).starts_with("content length"));
        assert!(text(&good[..3], key, UUID, true, 0).starts_with("signature, metadata"));
    }
}

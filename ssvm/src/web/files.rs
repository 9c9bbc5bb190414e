//! Files of a store as answers: whole or a part (RFC 9110 14), with what tells one state of a file from
//! another. No link is followed, no folder is listed.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::Frame,
    header::{self, HeaderValue},
};

use crate::{
    layout::StorePath,
    store::{FolderStore, Source, StoreError},
};

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A short text as an answer.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The file at `path` below `folder`, or the part of it that is asked for.
pub(super) async fn file(
    folder: &str,
    path: &StorePath,
    asked: &HeaderMap,
    head_only: bool,
) -> Response<Body> {
    let found = async {
        let store = FolderStore::open(folder, "none").await?;
        store.served(path).await
    };
    let file = match found.await {
        Ok(file) => file,
        Err(StoreError::Missing(_) | StoreError::Path(_)) => {
            return text(StatusCode::NOT_FOUND, "Not found\n");
        }
        Err(error) => {
            tracing::warn!(%path, %error, "a file cannot be served");
            return text(StatusCode::SERVICE_UNAVAILABLE, "The store does not answer\n");
        }
    };
    let size = file.size;
    let changed = UNIX_EPOCH + Duration::from_secs(file.modified);
    let tag = format!("\"{:x}-{size:x}\"", file.modified);
    let part = match wanted(asked, size, &tag, changed) {
        Ok(part) => part,
        Err(status) => {
            let mut response = text(status, "");
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                insert(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{size}"));
            }
            return response;
        }
    };
    let (from, length) = part.unwrap_or((0, size));
    let body = if head_only {
        empty()
    } else {
        match file.into_source(from, length) {
            Ok(source) => streamed(source),
            Err(error) => {
                tracing::warn!(%path, %error, "a file cannot be served");
                return text(StatusCode::SERVICE_UNAVAILABLE, "The store does not answer\n");
            }
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(headers, header::CONTENT_LENGTH, &length.to_string());
    insert(headers, header::ETAG, &tag);
    insert(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(changed));
    if part.is_some() {
        insert(headers, header::CONTENT_RANGE, &format!("bytes {from}-{}/{size}", from + length - 1));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn streamed(source: Box<dyn Source>) -> Body {
    let chunks = stream::try_unfold(source, |mut source| async move {
        let chunk = source.chunk().await.map_err(|error| {
            tracing::warn!(%error, "a file stopped coming while it was served");
            io::Error::other(error)
        })?;
        Ok(chunk.map(|chunk| (Frame::data(chunk), source)))
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// The part that is asked for as offset and length, `None` for the whole; or the status that answers alone.
fn wanted(
    asked: &HeaderMap,
    size: u64,
    tag: &str,
    changed: SystemTime,
) -> Result<Option<(u64, u64)>, StatusCode> {
    let value = |name: header::HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    if let Some(known) = value(header::IF_NONE_MATCH)
        && known.split(',').any(|known| known.trim() == tag || known.trim() == "*")
    {
        return Err(StatusCode::NOT_MODIFIED);
    }
    let same = value(header::IF_RANGE).is_none_or(|known| {
        known.trim() == tag || httpdate::parse_http_date(known).is_ok_and(|date| date == changed)
    });
    match value(header::RANGE).filter(|_| same) {
        Some(range) => part(range, size),
        None => Ok(None),
    }
}

/// `bytes=<first>-<last>`, either may be absent. Several ranges, and what is no range, give the whole.
fn part(range: &str, size: u64) -> Result<Option<(u64, u64)>, StatusCode> {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>();
    let (from, to) = match (first.trim(), last.trim()) {
        ("", count) => match number(count) {
            Ok(0) => return Err(StatusCode::RANGE_NOT_SATISFIABLE),
            Ok(count) => (size.saturating_sub(count), size.saturating_sub(1)),
            Err(_) => return Ok(None),
        },
        (first, "") => match number(first) {
            Ok(first) => (first, size.saturating_sub(1)),
            Err(_) => return Ok(None),
        },
        (first, last) => match (number(first), number(last)) {
            (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
            _ => return Ok(None),
        },
    };
    if from >= size { Err(StatusCode::RANGE_NOT_SATISFIABLE) } else { Ok(Some((from, to - from + 1))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_of_a_file() {
        for (range, expected) in [
            ("bytes=0-", Some((0, 100))),
            ("bytes=10-19", Some((10, 10))),
            ("bytes=90-200", Some((90, 10))),
            ("bytes=-5", Some((95, 5))),
            ("bytes=-500", Some((0, 100))),
            ("bytes=5-1", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
            ("nonsense", None),
        ] {
            assert_eq!(part(range, 100), Ok(expected), "{range}");
        }
        for range in ["bytes=100-", "bytes=-0", "bytes=200-300"] {
            assert_eq!(part(range, 100), Err(StatusCode::RANGE_NOT_SATISFIABLE), "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Err(StatusCode::RANGE_NOT_SATISFIABLE));
    }

    #[test]
    fn only_the_same_file_is_gone_on_with() {
        let changed = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ask = |name: header::HeaderName, value: &str| {
            let mut asked = HeaderMap::new();
            insert(&mut asked, header::RANGE, "bytes=10-");
            insert(&mut asked, name, value);
            wanted(&asked, 100, "\"a\"", changed)
        };
        assert_eq!(ask(header::IF_RANGE, "\"a\""), Ok(Some((10, 90))));
        assert_eq!(ask(header::IF_RANGE, "\"b\""), Ok(None));
        assert_eq!(ask(header::IF_RANGE, &httpdate::fmt_http_date(changed)), Ok(Some((10, 90))));
        assert_eq!(ask(header::IF_NONE_MATCH, "\"x\", \"a\""), Err(StatusCode::NOT_MODIFIED));
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(range in "(bytes=)?[0-9]{0,20}-?[0-9]{0,20}", size in 0_u64..1000) {
            if let Ok(Some((from, length))) = part(&range, size) {
                prop_assert!(length > 0 && from + length <= size);
            }
        }
    }
}

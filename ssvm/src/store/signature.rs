//! Requests signed as S3 did at first ("Signature Version 2": HMAC-SHA1 of what is asked), for services that know
//! nothing newer.

use std::{fmt::Write as _, time::SystemTime};

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut},
    error::BoxError,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::command::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use super::BucketSpec;

/// Words of a query that are part of what is signed.
const SIGNED: [&str; 20] = [
    "acl",
    "delete",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "partNumber",
    "policy",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-type",
    "response-expires",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
];

/// Puts the old signature in the place of the new one.
#[derive(Debug)]
pub(super) struct OldSignature {
    access_key: Secret,
    secret_key: Secret,
    /// The bucket where URLs name it in their host.
    bucket: Option<String>,
}

impl OldSignature {
    /// For the requests to a bucket.
    pub(super) fn new(spec: &BucketSpec) -> Self {
        Self {
            access_key: spec.access_key.clone(),
            secret_key: spec.secret_key.clone(),
            bucket: (!spec.path_style).then(|| spec.bucket.clone()),
        }
    }
}

impl Intercept for OldSignature {
    fn name(&self) -> &'static str {
        "OldSignature"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let date = httpdate::fmt_http_date(SystemTime::now());
        let headers = request.headers_mut();
        for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
            headers.remove(name);
        }
        headers.insert("date", date);
        let headers: Vec<(String, String)> =
            request.headers().iter().map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        let text = to_sign(request.method(), request.uri(), &headers, self.bucket.as_deref());
        let signature = sign(&self.secret_key, &text)?;
        let value = format!("AWS {}:{signature}", self.access_key.expose());
        request.headers_mut().insert("authorization", value);
        Ok(())
    }
}

fn sign(key: &Secret, text: &str) -> Result<String, BoxError> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.expose().as_bytes())?;
    mac.update(text.as_bytes());
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

/// What is signed: the method, some headers, and what is asked for. Names of headers are in lower case.
fn to_sign(method: &str, uri: &str, headers: &[(String, String)], bucket: Option<&str>) -> String {
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str());
    let mut text = [method, header("content-md5"), header("content-type"), header("date")]
        .map(|w| format!("{w}\n"))
        .concat();
    let mut own: Vec<_> = headers.iter().filter(|(name, _)| name.starts_with("x-amz-")).collect();
    own.sort();
    for (name, value) in own {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}:{value}");
    }
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if let Some(bucket) = bucket {
        text.push('/');
        text.push_str(bucket);
    }
    text.push_str(path);
    let mut words: Vec<&str> = query
        .split('&')
        .filter(|word| SIGNED.contains(&word.split('=').next().unwrap_or_default()))
        .collect();
    words.sort_unstable();
    for (number, word) in words.into_iter().enumerate() {
        text.push(if number == 0 { '?' } else { '&' });
        match word.split_once('=') {
            Some((name, "")) => text.push_str(name),
            Some((name, value)) => {
                let _ = write!(text, "{name}={}", decoded(value));
            }
            None => text.push_str(word),
        }
    }
    text
}

/// Undoes percent-encoding (RFC 3986 2.1).
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| *first == b'%').and_then(|pair| hex::decode(pair).ok());
        match pair.as_deref() {
            Some([byte]) => {
                bytes.push(*byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the service's own description of this signature.
    #[test]
    fn published_examples() {
        let key = Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let of = |method: &str, uri: &str, headers: &[(&str, &str)], bucket: Option<&str>| {
            let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            sign(&key, &to_sign(method, uri, &headers, bucket)).unwrap()
        };
        let host = "https://awsexamplebucket1.us-west-1.s3.amazonaws.com";
        let bucket = Some("awsexamplebucket1");
        let get = of(
            "GET",
            &format!("{host}/photos/puppy.jpg"),
            &[("date", "Tue, 27 Mar 2007 19:36:42 +0000")],
            bucket,
        );
        assert_eq!(get, "qgk2+6Sv9/oM7G3qLEjTH1a1l1g=");
        let put = of(
            "PUT",
            &format!("{host}/photos/puppy.jpg"),
            &[
                ("content-type", "image/jpeg"),
                ("content-length", "94328"),
                ("date", "Tue, 27 Mar 2007 21:15:45 +0000"),
            ],
            bucket,
        );
        assert_eq!(put, "iqRzw+ileNPu1fhspnRs8nOjjIA=");
        let list = of(
            "GET",
            &format!("{host}/?prefix=photos&max-keys=50&marker=puppy"),
            &[("date", "Tue, 27 Mar 2007 19:42:41 +0000")],
            bucket,
        );
        assert_eq!(list, "m0WP8eCtspQl5Ahe6L1SozdX9YA=");
        let acl = of("GET", &format!("{host}/?acl"), &[("date", "Tue, 27 Mar 2007 19:44:46 +0000")], bucket);
        assert_eq!(acl, "82ZHiFIjc+WbcwFKGUVEQspPn+0=");
    }

    #[test]
    fn parts_of_an_upload_are_named() {
        let text = to_sign("PUT", "http://h:1/b/k?x-id=UploadPart&partNumber=2&uploadId=2~a%2Fb", &[], None);
        assert_eq!(text, "PUT\n\n\n\n/b/k?partNumber=2&uploadId=2~a/b");
        assert_eq!(to_sign("POST", "http://h/b/k?uploads=", &[], None), "POST\n\n\n\n/b/k?uploads");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}

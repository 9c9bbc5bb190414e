//! URLs of downloads.

use reqwest::Url;

/// Reads a URL that may be downloaded from: http or https with a host.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(format!("Scheme is not supported {}", shown(text)));
    }
    match Url::parse(text) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Err(format!("Invalid URL: {}", shown(text))),
    }
}

/// A URL as it may appear in a message: without credentials and without the query.
pub(super) fn shown(text: &str) -> String {
    let text: String = text.chars().take(300).collect();
    let bare = text.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, p)| (a, Some(p)));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
        }
        None => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_http_and_https() {
        assert!(parse("http://h/x").is_ok() && parse("HTTPS://h:8443/x?y").is_ok());
        for bad in ["ftp://h/x", "file:///etc/passwd", "nfs://h/x", "scp://h/x", "x", ""] {
            assert!(parse(bad).unwrap_err().starts_with("Scheme is not supported"), "{bad}");
        }
        assert!(parse("http://").unwrap_err().starts_with("Invalid URL"));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("https://u:p@h:1/a/b?X-Amz-Signature=s"), "https://h:1/a/b");
        assert_eq!(shown("http://u:p@h"), "http://h");
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_refused(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = shown(&text);
        }
    }
}

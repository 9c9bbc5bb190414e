//! What a browser brings to a console: the token of the URL, opened and checked as far as the proxy
//! can without asking anybody. Everything but `extra` is taken from the token alone.

use std::net::IpAddr;

use common::token::{OpenError, Token, TokenKey};
use hyper::Uri;
use subtle::ConstantTimeEq as _;

use crate::{screen::Screen, wire::Open};

/// Longest query that is looked at, in bytes.
const QUERY_LIMIT: usize = 32 * 1024;

/// The parameters of a console URL that count.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Query {
    token: String,
    extra: Option<String>,
}

/// Why a token opens no console. The text is for the user and says nothing of the cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token of this cloud, or changed on the way.
    #[error("this console address is not valid, open the console again")]
    Token(OpenError),
    /// The token lacks what a console needs.
    #[error("this console address is not complete, open the console again")]
    Incomplete(&'static str),
    /// A hypervisor whose consoles the proxy does not speak.
    #[error("consoles of virtual machines on {0} are not supported by this console proxy")]
    Unsupported(&'static str),
    /// The address is not the one that asked for the console.
    #[error("this console was opened for another address")]
    Source,
    /// The second secret is missing or wrong.
    #[error("the security token of this console is missing or wrong")]
    Extra,
}

impl Refusal {
    /// One word for logs and counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Incomplete(_) => "incomplete",
            Self::Unsupported(_) => "unsupported",
            Self::Source => "source",
            Self::Extra => "extra",
        }
    }
}

/// A console that the token allows, before management has been asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// For the core.
    pub open: Open,
    /// How the screen is spoken to.
    pub screen: Screen,
    /// Whether the viewer may look and no more.
    pub view_only: bool,
    /// Whether it is for one picture and no viewer.
    pub picture: bool,
    /// Whether what it shows is recorded; the core says so.
    pub recorded: bool,
    /// Viewers of the same key replace each other.
    pub viewer: String,
    /// Name that the browser shows.
    pub name: String,
}

impl Query {
    /// Splits a query at `&`, each part at its first `=`; the last of a name wins. `+` is itself.
    pub fn parse(query: &str) -> Self {
        let mut found = Self::default();
        if query.len() > QUERY_LIMIT {
            return found;
        }
        for (name, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            match name {
                "token" => value.clone_into(&mut found.token),
                "extra" if !value.is_empty() => found.extra = Some(value.to_owned()),
                _ => {}
            }
        }
        found
    }

    /// Opens the token: as it stands, else with `%xx` decoded and spaces read as the `+` that they were.
    pub fn open(&self, key: &TokenKey) -> Result<Token, Refusal> {
        let first = match key.open(&self.token) {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        let decoded = percent_decoded(&self.token).replace(' ', "+");
        if first != OpenError::Base64 || decoded == self.token {
            return Err(Refusal::Token(first));
        }
        key.open(&decoded).map_err(Refusal::Token)
    }

    /// The order of the checks is the contract's: complete, source address, second secret.
    pub fn order(&self, token: Token, client: IpAddr, source_check: bool) -> Result<Order, Refusal> {
        let host = token.host.filter(|host| !host.is_empty()).ok_or(Refusal::Incomplete("host"))?;
        if token.port == 0 {
            return Err(Refusal::Incomplete("port"));
        }
        let password = token.password.ok_or(Refusal::Incomplete("password"))?;
        if source_check && !token.source.is_some_and(|source| same_address(&source, client)) {
            return Err(Refusal::Source);
        }
        if let Some(wanted) = token.extra_security_token.filter(|wanted| !wanted.trim().is_empty()) {
            let given = self.extra.as_deref().unwrap_or_default();
            let decoded = percent_decoded(given);
            let equal = |given: &str| bool::from(wanted.as_bytes().ct_eq(given.as_bytes()));
            if !equal(given) && !equal(&decoded) {
                return Err(Refusal::Extra);
            }
        }
        let session =
            token.session_uuid.filter(|uuid| !uuid.is_empty()).ok_or(Refusal::Incomplete("session"))?;
        if token.hyperv_host.is_some_and(|host| !host.is_empty()) {
            return Err(Refusal::Unsupported("Hyper-V"));
        }
        let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let (websocket, tunnel) =
            (given(token.websocket_url), given(token.tunnel_url).zip(given(token.tunnel_session)));
        let ask = websocket.is_none();
        let (screen, to) = match (websocket, tunnel) {
            (Some(url), _) => websocket_of(url)?,
            (None, Some((url, session))) => tunnel_of(&url, session)?,
            (None, None) => {
                let port = u16::try_from(token.port).map_err(|_| Refusal::Incomplete("port"))?;
                (Screen::Direct, (host.clone(), port))
            }
        };
        let (port, view_only, picture) = (token.port, token.view_only, token.picture);
        let vm = token.tag.unwrap_or_default();
        // Who only looks takes nobody's place.
        let own = token.session_requires_new_viewer || view_only || picture;
        let viewer = match (own, vm.is_empty()) {
            (true, _) => session.clone(),
            (false, false) => vm.clone(),
            (false, true) => format!("{host}:{port}"),
        };
        let name = token.display_name.filter(|name| !name.is_empty()).unwrap_or_else(|| vm.clone());
        let open = Open {
            key: 0,
            host,
            port,
            to,
            ask,
            vm,
            password,
            ticket: token.ticket,
            session,
            client: client.to_canonical(),
        };
        Ok(Order { open, screen, view_only, picture, recorded: false, viewer, name })
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Query")
    }
}

/// The parts of a URL: whether it goes over TLS, host, port, path with query.
fn parts(url: &str, schemes: [&str; 2]) -> Option<(bool, String, u16, String)> {
    let uri: Uri = url.trim().parse().ok()?;
    let tls = schemes.iter().position(|scheme| uri.scheme_str() == Some(scheme))? == 1;
    // A user with a password, as a URL may have one, is no part of these.
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    (!host.is_empty()).then(|| (tls, host, port, path.to_owned()))
}

/// The screen behind XenServer's API.
fn tunnel_of(url: &str, session: String) -> Result<(Screen, (String, u16)), Refusal> {
    let (tls, host, port, path) = parts(url, ["http", "https"]).ok_or(Refusal::Incomplete("tunnel"))?;
    // It becomes a header's value.
    if !session.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        return Err(Refusal::Incomplete("tunnel"));
    }
    Ok((Screen::Tunnel { tls, host: host.clone(), path, session }, (host, port)))
}

/// The screen in VMware's websocket.
fn websocket_of(url: String) -> Result<(Screen, (String, u16)), Refusal> {
    let (tls, host, port, _) = parts(&url, ["ws", "wss"]).ok_or(Refusal::Incomplete("websocket"))?;
    Ok((Screen::Websocket { tls, url: url.trim().to_owned() }, (host, port)))
}

fn same_address(text: &str, client: IpAddr) -> bool {
    text.trim().parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == client.to_canonical())
}

/// `%xx` as the byte it stands for; anything else as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let value =
            pair.filter(|pair| !pair.starts_with('+')).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (first, value) {
            (b'%', Some(value)) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn token() -> Token {
        Token {
            host: Some("10.1.1.20".into()),
            port: 5901,
            password: Some("Secr3tPw".into()),
            tag: Some("vm-uuid".into()),
            display_name: Some("web 01".into()),
            source: Some("203.0.113.7".into()),
            session_uuid: Some("session-uuid".into()),
            ..Token::default()
        }
    }

    fn order(token: Token, query: &str) -> Result<Order, Refusal> {
        Query::parse(query).order(token, CLIENT, true)
    }

    #[test]
    fn a_query_gives_token_and_extra_only() {
        for (query, wanted, extra) in [
            ("token=a+b/c==&extra=x=", "a+b/c==", Some("x=")),
            ("host=evil&token=1&port=1&token=2", "2", None),
            ("&&token=T&", "T", None),
            ("token=&extra=", "", None),
            ("token", "", None),
            ("", "", None),
        ] {
            let found = Query::parse(query);
            assert_eq!((found.token.as_str(), found.extra.as_deref()), (wanted, extra), "{query}");
        }
        assert_eq!(Query::parse(&format!("token={}", "a".repeat(QUERY_LIMIT))), Query::default());
    }

    #[test]
    fn tokens_open_as_browsers_and_proxies_mangle_them() {
        let key = TokenKey::generate().unwrap();
        // Until one contains both characters that get mangled.
        let sealed = std::iter::repeat_with(|| key.seal(&token()).unwrap())
            .find(|sealed| sealed.contains('+') && sealed.contains('/'))
            .unwrap();
        for mangled in [
            sealed.clone(),
            sealed.trim_end_matches('=').to_owned(),
            sealed.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"),
            sealed.replace('+', " "),
            sealed.replace('+', "%20"),
        ] {
            assert_eq!(Query::parse(&format!("token={mangled}")).open(&key).unwrap(), token());
        }
        let other = TokenKey::generate().unwrap();
        let refused = Query::parse(&format!("token={sealed}")).open(&other).unwrap_err();
        assert_eq!(refused, Refusal::Token(OpenError::Seal));
        assert!(!refused.to_string().contains("key"));
    }

    #[test]
    fn an_order_comes_from_the_token_alone() {
        let order =
            order(token(), "token=x&host=evil&port=1&sid=x&sessionUuid=evil&sourceIP=6.6.6.6").unwrap();
        assert_eq!((order.open.host.as_str(), order.open.port), ("10.1.1.20", 5901));
        assert_eq!((order.open.session.as_str(), order.viewer.as_str()), ("session-uuid", "vm-uuid"));
        assert_eq!(order.name, "web 01");
    }

    #[test]
    fn viewers_replace_each_other_by_vm_session_or_place() {
        let viewer = |token| order(token, "").unwrap().viewer;
        assert_eq!(viewer(token()), "vm-uuid");
        assert_eq!(viewer(Token { session_requires_new_viewer: true, ..token() }), "session-uuid");
        assert_eq!(viewer(Token { tag: None, ..token() }), "10.1.1.20:5901");
    }

    #[test]
    fn incomplete_tokens_are_refused() {
        for (token, what) in [
            (Token { host: None, ..token() }, "host"),
            (Token { host: Some(String::new()), ..token() }, "host"),
            (Token { port: 0, ..token() }, "port"),
            (Token { port: -1, ..token() }, "port"),
            (Token { port: 65536, ..token() }, "port"),
            (Token { password: None, ..token() }, "password"),
            (Token { session_uuid: None, ..token() }, "session"),
        ] {
            assert_eq!(order(token, ""), Err(Refusal::Incomplete(what)));
        }
        let tunnel = Token { tunnel_url: Some("https://x/".into()), port: -1, ..token() };
        assert_eq!(order(tunnel, ""), Err(Refusal::Incomplete("port")), "a tunnel needs a session");
        let hyperv = Token { hyperv_host: Some("10.1.1.40".into()), port: 2179, ..token() };
        let refused = order(hyperv, "").unwrap_err();
        assert_eq!(refused, Refusal::Unsupported("Hyper-V"));
        assert!(refused.to_string().contains("Hyper-V"));
    }

    #[test]
    fn tunnels_and_websockets_come_from_their_urls() {
        let tunnel = |url: &str, session: &str| {
            let (url, session) = (Some(url.to_owned()), Some(session.to_owned()));
            order(Token { tunnel_url: url, tunnel_session: session, port: -1, ..token() }, "")
        };
        let xen = tunnel("https://10.1.1.30/console?uuid=a", "OpaqueRef:1").unwrap();
        let path = "/console?uuid=a".to_owned();
        let session = "OpaqueRef:1".to_owned();
        assert_eq!(xen.screen, Screen::Tunnel { tls: true, host: "10.1.1.30".into(), path, session });
        assert_eq!(xen.open.to, ("10.1.1.30".to_owned(), 443));
        assert_eq!((xen.open.host.as_str(), xen.open.port, xen.open.ask), ("10.1.1.20", -1, true));
        assert_eq!(tunnel("http://x:8080/", "s").unwrap().open.to, ("x".to_owned(), 8080));
        for (url, session) in [
            ("ftp://x/", "s"),
            ("https:///", "s"),
            ("https://a:b@x/", "s"),
            ("https://x/", "s\r\nHost: y"),
            ("https://x/\r\n", "s t"),
        ] {
            assert_eq!(tunnel(url, session), Err(Refusal::Incomplete("tunnel")), "{url} {session}");
        }
        let websocket =
            |url: &str| order(Token { websocket_url: Some(url.to_owned()), port: 443, ..token() }, "");
        let esx = websocket("wss://10.1.1.40:443/ticket/ab").unwrap();
        assert_eq!(esx.open.to, ("10.1.1.40".to_owned(), 443));
        assert!(!esx.open.ask);
        assert_eq!(esx.screen, Screen::Websocket { tls: true, url: "wss://10.1.1.40:443/ticket/ab".into() });
        assert_eq!(websocket("https://x/"), Err(Refusal::Incomplete("websocket")));
    }

    #[test]
    fn who_only_looks_takes_nobodys_place() {
        let looking = order(Token { view_only: true, ..token() }, "").unwrap();
        assert_eq!((looking.viewer.as_str(), looking.view_only), ("session-uuid", true));
    }

    #[test]
    fn the_source_address_counts_where_it_is_checked() {
        let from = |source: Option<&str>, client: &str, check| {
            let token = Token { source: source.map(str::to_owned), ..token() };
            Query::default().order(token, client.parse().unwrap(), check).is_ok()
        };
        assert!(from(Some("203.0.113.7"), "203.0.113.7", true));
        assert!(from(Some("203.0.113.7"), "::ffff:203.0.113.7", true));
        assert!(from(Some("2001:DB8::1"), "2001:db8:0::1", true));
        assert!(!from(Some("203.0.113.7"), "203.0.113.8", true));
        assert!(!from(None, "203.0.113.7", true));
        assert!(from(None, "203.0.113.7", false));
    }

    #[test]
    fn the_second_secret_counts_where_the_token_has_one() {
        let with = |wanted: &str, query: &str| {
            order(Token { extra_security_token: Some(wanted.into()), ..token() }, query).is_ok()
        };
        assert!(with("my extra", "extra=my%20extra"));
        assert!(with("100%", "extra=100%"));
        assert!(with(" ", ""));
        assert!(!with("my-extra", ""));
        assert!(!with("my-extra", "extra=my-extr"));
        assert!(order(token(), "extra=whatever").is_ok());
    }

    proptest! {
        #[test]
        fn any_query_is_survived(query in "\\PC*") {
            let key = TokenKey::from_encryptor_password(
                r#"{"base64EncodedKeyBytes":"AAECAwQFBgcICQoLDA0ODw","base64EncodedIvBytes":"8OHSw7Sllod4aVpLPC0eDw"}"#,
            ).unwrap();
            prop_assert!(Query::parse(&query).open(&key).is_err());
            percent_decoded(&query);
        }
    }
}

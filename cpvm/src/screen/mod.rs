//! Where a machine's screen is, and the way there: a VNC server, one behind XenServer's API ([`tunnel`]), or VMware's
//! websocket ([`websocket`]). All that the far end says is taken as hostile.

pub mod tunnel;
pub mod websocket;

use std::{net::Ipv4Addr, sync::Arc};

use common::channel::tls::{certificates, peer_config, private_key};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client, server};

use crate::{rfb::hypervisor::Error, wire::Trust};

/// A connection of whatever layers.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {
    /// The connection itself, where no layer lies between it and the bytes.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl Duplex for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Duplex for Box<dyn Duplex> {
    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }
}

impl<S: Duplex> Duplex for client::TlsStream<S> {}
impl<S: Duplex> Duplex for server::TlsStream<S> {}
impl Duplex for DuplexStream {}

/// How a screen is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub enum Screen {
    /// VNC.
    Direct,
    /// VNC behind an HTTP request.
    Tunnel {
        /// Whether the request goes over TLS.
        tls: bool,
        /// Host, as the request names it.
        host: String,
        /// Path with query.
        path: String,
        /// Session of the API; a secret.
        session: String,
    },
    /// VNC in a websocket, whose other end is the browser itself.
    Websocket {
        /// Whether it goes over TLS.
        tls: bool,
        /// The whole URL; its path is a secret.
        url: String,
    },
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "Direct",
            Self::Tunnel { .. } => "Tunnel",
            Self::Websocket { .. } => "Websocket",
        })
    }
}

/// What the proxy shows to hypervisors and trusts of them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// For VNC servers with certificates; `None` while the proxy has none of its own.
    pub vnc: Option<Arc<ClientConfig>>,
    /// For XenServer and VMware.
    pub web: Option<Arc<ClientConfig>>,
    /// Whether a screen is shown only where TLS leads to it.
    pub required: bool,
}

impl Credentials {
    /// From what the core has read.
    ///
    /// # Errors
    /// What is wrong with a certificate or key.
    pub fn new(trust: &Trust) -> Result<Self, String> {
        let list = |what: &str, pem: &str| match pem {
            "" => Ok(Vec::new()),
            pem => certificates(what, pem).map_err(|error| error.to_string()),
        };
        let authorities = list("the authorities of VNC servers", &trust.authorities)?;
        let identity = match (trust.chain.as_str(), trust.key.as_str()) {
            ("", _) | (_, "") => None,
            (chain, key) => {
                let key = private_key("the proxy's key", key).map_err(|error| error.to_string())?;
                Some((list("the proxy's certificate", chain)?, key))
            }
        };
        let web = list("the certificates of XenServer and VMware", &trust.web)?;
        let config = |known: &[_], identity| peer_config(known, identity).map_err(|error| error.to_string());
        let vnc = if authorities.is_empty() { None } else { Some(config(&authorities, identity)?) };
        Ok(Self { vnc, web: Some(config(&web, None)?), required: trust.required })
    }
}

/// Speaks TLS over a connection.
pub(crate) async fn secured(
    stream: Box<dyn Duplex>,
    config: &Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Duplex>, Error> {
    let config = config.as_ref().ok_or(Error::NoCertificate)?;
    // Hosts are reached by their addresses: names are neither sent nor checked.
    let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

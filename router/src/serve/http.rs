//! HTTP for guests: a small server whose every resource has a bound. What is answered is up to the
//! feature that brings the handler.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    counters::{Counters, count},
    crowd::Crowd,
};
use crate::dhcp::task::Server as Guests;

/// Connections to one service at a time, and of one guest.
const CONNECTIONS: (usize, usize) = (256, 16);
/// Time for a request's header to arrive, and for the next request on a kept connection.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// The life of a connection where the feature does not say otherwise.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
/// The longest request header, bytes.
const LONGEST_HEADER: usize = 16 * 1024;
/// Header fields of a request.
const FIELDS: usize = 64;

/// The content of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer.
pub type Answer = Response<Body>;

/// What one service answers.
pub trait Handler: Send + Sync + 'static {
    /// Whether the connection is kept for further requests.
    const KEPT: bool;

    /// How long a connection may last.
    const LIFE: Duration = CONNECTION_LIMIT;

    /// Answers the guest at `guest`, who asked at the router's address `listener`. One who asks by IPv6 is told by its
    /// IPv4 address. The request's body is
    /// never read.
    fn answer(
        self: Arc<Self>,
        listener: Ipv4Addr,
        guest: Ipv4Addr,
        request: &Request<Incoming>,
    ) -> impl Future<Output = Answer> + Send;
}

/// Serves connections with a handler.
#[derive(Debug)]
pub struct Server<H> {
    /// The feature.
    pub handler: Arc<H>,
    /// Who is who.
    guests: Arc<Guests>,
    crowd: Arc<Crowd>,
    counters: Arc<Counters>,
}

impl<H: Handler> Server<H> {
    /// A server for all listeners of one feature.
    pub fn new(handler: Arc<H>, guests: Arc<Guests>, counters: Arc<Counters>) -> Self {
        Self { handler, guests, crowd: Arc::new(Crowd::new(CONNECTIONS.0, CONNECTIONS.1)), counters }
    }

    /// Serves connections to the router's address `listener`, until the socket breaks; behind TLS where there is
    /// an acceptor.
    pub async fn serve(
        self: Arc<Self>,
        listener: IpAddr,
        socket: TcpListener,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<()> {
        loop {
            let (stream, from) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(place) = self.crowd.enter(from.ip()) else {
                count(&self.counters.connections_refused);
                continue;
            };
            let (this, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                let _place = place;
                let whole = async {
                    match tls {
                        None => this.converse(listener, from, stream).await,
                        Some(tls) => match timeout(HEADER_LIMIT, tls.accept(stream)).await {
                            Ok(Ok(stream)) => this.converse(listener, from, stream).await,
                            Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS"),
                            Err(_) => tracing::debug!(%from, "TLS took too long"),
                        },
                    }
                };
                if timeout(H::LIFE, whole).await.is_err() {
                    tracing::debug!(%from, "connection took too long");
                }
            });
        }
    }

    async fn converse<S>(&self, listener: IpAddr, from: SocketAddr, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (listener, guest) = self.guests.table.load().known_as(listener, from.ip());
        let service = service_fn(|request: Request<Incoming>| {
            let handler = self.handler.clone();
            async move { Ok::<_, Infallible>(handler.answer(listener, guest, &request).await) }
        });
        let connection = http1::Builder::new()
            .keep_alive(H::KEPT)
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .max_buf_size(LONGEST_HEADER)
            .max_headers(FIELDS)
            .serve_connection(TokioIo::new(stream), service);
        // Malformed requests are answered by the server itself; the rest is the guest's own affair.
        if let Err(error) = connection.await {
            tracing::debug!(%from, %error, "connection ended");
        }
    }
}

/// Errors of accept(2) that say nothing about the listening socket.
pub fn is_passing(error: &io::Error) -> bool {
    let passing = [
        Errno::CONNABORTED,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::PROTO,
        Errno::INTR,
    ];
    Errno::from_io_error(error).is_some_and(|e| passing.contains(&e))
}

/// An answer of a status and a body.
pub fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

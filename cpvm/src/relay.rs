//! Copies between browser and hypervisor once both are ready. Each direction waits for its reader,
//! so that memory stays bounded; the end of either side ends the other at once; a browser that has
//! vanished is found by pings.

use std::{
    pin::pin,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    end::End,
    rfb::browser::{Browser, broken, close, payload},
    wire::now,
};

/// Bytes read from the hypervisor at a time, and so the largest message to the browser.
const CHUNK: usize = 32 * 1024;

/// How long the parts of a relay may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two pings.
    pub ping: Duration,
    /// A browser that has said nothing for this long is gone.
    pub silence: Duration,
    /// For saying good-bye.
    pub close: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(30),
            silence: Duration::from_secs(85),
            close: Duration::from_secs(2),
        }
    }
}

/// What one session has carried.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes from the hypervisor to the browser.
    pub down: AtomicU64,
    /// Bytes from the browser to the hypervisor.
    pub up: AtomicU64,
    /// Last byte in either direction, milliseconds since 1970.
    pub used: AtomicI64,
}

impl Meter {
    fn count(&self, direction: &AtomicU64, bytes: usize) {
        direction.fetch_add(bytes as u64, Ordering::Relaxed);
        self.used.store(now(), Ordering::Relaxed);
    }
}

/// Copies until one side ends or `orders` carries an end. The hypervisor's connection is closed before
/// the browser is told, and all is over when this returns.
pub async fn relay<B, H>(
    browser: Browser<B>,
    hypervisor: H,
    orders: &mut watch::Receiver<Option<End>>,
    meter: &Meter,
    timing: Timing,
) -> End
where
    B: AsyncRead + AsyncWrite + Unpin,
    H: AsyncRead + AsyncWrite + Unpin,
{
    let (mut socket, early) = browser.into_parts();
    let end = {
        let (mut from, mut to) = tokio::io::split(hypervisor);
        let (mut sink, mut stream) = (&mut socket).split();
        let start = Instant::now();
        let heard = AtomicU64::new(0);

        let down = async {
            let mut pings = interval_at(start + timing.ping, timing.ping);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(CHUNK);
                let message = tokio::select! {
                    read = from.read_buf(&mut buffer) => match read {
                        Ok(0) => return End::HypervisorClosed,
                        Err(_) => return End::HypervisorGone,
                        Ok(count) => {
                            meter.count(&meter.down, count);
                            Message::Binary(buffer.split().freeze())
                        }
                    },
                    _ = pings.tick() => Message::Ping(Bytes::new()),
                };
                if let Err(error) = sink.send(message).await {
                    return broken(&error);
                }
            }
        };
        let up = async {
            let mut bytes = early;
            loop {
                if !bytes.is_empty() {
                    meter.count(&meter.up, bytes.len());
                    if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                        return End::HypervisorGone;
                    }
                }
                let Some(message) = stream.next().await else { return End::BrowserGone };
                heard.store(millis(start), Ordering::Relaxed);
                bytes = match payload(message) {
                    Ok(bytes) => bytes.unwrap_or_default(),
                    Err(end) => return end,
                };
            }
        };
        let silence = async {
            loop {
                let last = start + Duration::from_millis(heard.load(Ordering::Relaxed));
                if last.elapsed() >= timing.silence {
                    return End::BrowserSilent;
                }
                tokio::time::sleep_until(last + timing.silence).await;
            }
        };
        let ordered = async {
            match orders.wait_for(Option::is_some).await {
                Ok(order) => order.unwrap_or(End::Stopped),
                Err(_) => End::Stopped,
            }
        };
        let (down, up) = (pin!(down), pin!(up));
        tokio::select! {
            biased;
            end = ordered => end,
            end = up => end,
            end = down => end,
            end = silence => end,
        }
    };
    // The browser may have vanished: it gets a moment, not more.
    let _ = timeout(timing.close, close(&mut socket, &end)).await;
    end
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

    use super::*;

    struct Lab {
        client: WebSocketStream<DuplexStream>,
        server: DuplexStream,
        stop: watch::Sender<Option<End>>,
        ended: tokio::task::JoinHandle<(End, u64, u64)>,
    }

    async fn lab(timing: Timing) -> Lab {
        let (near, far) = duplex(16 * 1024);
        let (hypervisor, server) = duplex(16 * 1024);
        let browser = Browser::new(near).await;
        let client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let (stop, mut orders) = watch::channel(None);
        let ended = tokio::spawn(async move {
            let meter = Meter::default();
            let end = relay(browser, hypervisor, &mut orders, &meter, timing).await;
            (end, meter.down.into_inner(), meter.up.into_inner())
        });
        Lab { client, server, stop, ended }
    }

    fn close_code(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> u16 {
        match message {
            Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_both_ways() {
        let mut lab = lab(Timing::default()).await;
        let sent: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n * 7 + n / 251) as u8).collect();
        let copy = sent.clone();
        let (mut from, mut to) = tokio::io::split(lab.server);
        let serving = tokio::spawn(async move {
            to.write_all(&copy).await.unwrap();
            let mut got = vec![0; 300_000];
            from.read_exact(&mut got).await.unwrap();
            (got, from, to)
        });
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let message = lab.client.next().await.unwrap().unwrap();
            assert!(message.len() <= CHUNK);
            got.extend_from_slice(&message.into_data());
        }
        assert!(got == sent);
        for piece in sent[..300_000].chunks(10_000) {
            lab.client.send(Message::binary(piece.to_vec())).await.unwrap();
        }
        let (up, from, to) = serving.await.unwrap();
        assert!(up == sent[..300_000]);
        drop((from, to));
        assert_eq!(close_code(lab.client.next().await), 4002);
        assert_eq!(lab.ended.await.unwrap(), (End::HypervisorClosed, sent.len() as u64, 300_000));
    }

    #[tokio::test]
    async fn the_browsers_end_closes_the_hypervisor() {
        let mut one = lab(Timing::default()).await;
        one.client.close(None).await.unwrap();
        assert_eq!(one.server.read(&mut [0]).await.unwrap(), 0);
        while let Some(Ok(_)) = one.client.next().await {}
        assert_eq!(one.ended.await.unwrap().0, End::BrowserClosed);

        let mut two = lab(Timing::default()).await;
        drop(two.client);
        assert_eq!(two.server.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(two.ended.await.unwrap().0, End::BrowserGone);
    }

    #[tokio::test]
    async fn text_and_frames_over_the_limit_reach_no_hypervisor() {
        for (message, end, code) in [
            (Message::text("x"), End::BrowserText, 1003),
            (Message::binary(vec![0; 65_537]), End::BrowserTooBig, 1009),
        ] {
            let mut lab = lab(Timing::default()).await;
            // The proxy stops reading in the middle of what is too long.
            let _ = lab.client.feed(message).await;
            let (mut sink, mut stream) = lab.client.split();
            let (_, closed) = tokio::join!(sink.flush(), stream.next());
            assert_eq!(close_code(closed), code);
            drop((sink, stream));
            let mut seen = Vec::new();
            lab.server.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, b"");
            assert_eq!(lab.ended.await.unwrap().0, end);
        }
    }

    #[tokio::test]
    async fn an_order_ends_it() {
        for end in [End::TakenOver, End::Cut] {
            let mut lab = lab(Timing::default()).await;
            lab.stop.send_replace(Some(end));
            assert_eq!(close_code(lab.client.next().await), end.close().0);
            assert_eq!(lab.server.read(&mut [0]).await.unwrap(), 0);
            while let Some(Ok(_)) = lab.client.next().await {}
            assert_eq!(lab.ended.await.unwrap().0, end);
        }
    }

    const QUICK: Timing = Timing {
        ping: Duration::from_millis(50),
        silence: Duration::from_millis(400),
        close: Duration::from_millis(50),
    };

    #[tokio::test]
    async fn a_browser_that_answers_pings_stays_and_a_silent_one_goes() {
        let mut lab = lab(QUICK).await;
        // Reading answers the pings; nothing else is sent for three times the silence that is allowed.
        for _ in 0..24 {
            assert!(matches!(lab.client.next().await, Some(Ok(Message::Ping(_)))));
            lab.client.flush().await.unwrap();
        }
        assert!(!lab.ended.is_finished());
        // From now on nobody reads.
        let silent = Instant::now();
        assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
        assert!(silent.elapsed() < QUICK.silence * 3, "{:?}", silent.elapsed());
    }

    #[tokio::test]
    async fn a_browser_that_does_not_read_holds_the_hypervisor_back() {
        let mut lab = lab(QUICK).await;
        let mut taken = 0;
        while lab.server.write_all(&[0; 4096]).await.is_ok() {
            taken += 4096;
            assert!(taken < 1024 * 1024, "nothing holds it back");
        }
        assert_eq!(lab.ended.await.unwrap().0, End::BrowserSilent);
    }

    #[test]
    fn a_vanished_browser_is_found_within_90_seconds() {
        let timing = Timing::default();
        assert!(timing.silence + timing.close < Duration::from_secs(90));
        assert!(timing.silence > timing.ping * 2);
    }
}

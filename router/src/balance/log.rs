//! HAProxy's log: servers that go down and come back, pools that have none left. It comes as datagrams and is
//! kept in a small file, `/var/log/haproxy.log`.

use std::{
    io,
    time::{Duration, Instant},
};

use common::{journal, paths::Paths};
use tokio::net::UdpSocket;

use super::config::LOG;
use crate::serve::limit::Limiter;

/// Lines in a row, and each second after that.
const LINES: (u32, u32) = (500, 50);
/// After a failure to listen, how long until the next try.
const RETRY: Duration = Duration::from_secs(30);

/// Keeps what comes, for as long as the core runs.
pub async fn keep(paths: &Paths) {
    let mut limiter = Limiter::new(LINES.0, LINES.1, 1);
    loop {
        let Err(error) = listen(paths, &mut limiter).await;
        tracing::warn!(%error, "the log of HAProxy is not kept");
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(paths: &Paths, limiter: &mut Limiter<()>) -> io::Result<std::convert::Infallible> {
    let socket = UdpSocket::bind(std::net::SocketAddr::from(LOG)).await?;
    let mut bytes = [0; 2048];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if limiter.allows((), Instant::now()) {
            journal::note(paths, "haproxy", &text(bytes.get(..length).unwrap_or_default()));
        }
    }
}

/// What a message says, without its priority and time: `<134>Nov  2 10:15:00 haproxy[7]: Server … is DOWN`.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.split_once("]: ").map_or(&*text, |(_, rest)| rest);
    text.trim_end().to_owned()
}

/// What a check complains about, without where the program lies and what else it has to say.
pub(super) fn complaints(output: &str) -> String {
    let alerts: Vec<&str> = output
        .lines()
        .filter(|line| {
            line.contains("[ALERT]") && !line.contains("rror(s) found") && !line.contains("Fatal errors")
        })
        // `[ALERT]    (8) : config : parsing [/run/…/candidate.cfg:23] : 'bind …' : unable to …`
        .map(|line| {
            line.split_once(".cfg:")
                .and_then(|(_, rest)| rest.split_once("] : "))
                .map_or(line, |(_, text)| text)
        })
        .collect();
    let text = if alerts.is_empty() { output.trim().to_owned() } else { alerts.join("; ") };
    text.chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_message_is_kept() {
        let line = b"<129>Nov  2 10:15:00 haproxy[77]: Server a-80/10.1.1.20:80 is DOWN, reason: [x]: y\n";
        assert_eq!(text(line), "Server a-80/10.1.1.20:80 is DOWN, reason: [x]: y");
        assert_eq!(text(b"what else\xff\n"), "what else\u{fffd}");
    }
}

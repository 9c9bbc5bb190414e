//! How a session ends: for the browser, the log and the counters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a console session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The browser said good-bye.
    BrowserClosed,
    /// The browser's connection broke.
    BrowserGone,
    /// The browser has not been heard of for too long.
    BrowserSilent,
    /// The browser sent text, which no console has.
    BrowserText,
    /// The browser sent a frame or message over the limit.
    BrowserTooBig,
    /// The browser broke the websocket's or the console's protocol.
    BrowserProtocol,
    /// The browser did not finish its part of the handshake in time.
    BrowserLate,
    /// The hypervisor closed the screen.
    HypervisorClosed,
    /// The hypervisor's connection broke.
    HypervisorGone,
    /// The hypervisor did not let the proxy in; the reason has been told.
    HypervisorRefused,
    /// The session was not admitted; the reason has been told.
    Refused,
    /// Another viewer of the same VM took over.
    TakenOver,
    /// An operator cut it.
    Cut,
    /// The proxy stops.
    Stopped,
}

impl End {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 14] = [
        Self::BrowserClosed,
        Self::BrowserGone,
        Self::BrowserSilent,
        Self::BrowserText,
        Self::BrowserTooBig,
        Self::BrowserProtocol,
        Self::BrowserLate,
        Self::HypervisorClosed,
        Self::HypervisorGone,
        Self::HypervisorRefused,
        Self::Refused,
        Self::TakenOver,
        Self::Cut,
        Self::Stopped,
    ];

    /// Close code (RFC 6455 7.4) and reason for the browser.
    pub fn close(self) -> (u16, &'static str) {
        match self {
            Self::BrowserClosed | Self::BrowserGone => (1000, ""),
            Self::BrowserSilent => (1001, "the browser did not answer"),
            Self::BrowserText => (1003, "only binary messages"),
            Self::BrowserTooBig => (1009, "message too big"),
            Self::BrowserProtocol => (1002, "protocol error"),
            Self::BrowserLate => (1008, "handshake took too long"),
            Self::HypervisorClosed | Self::HypervisorGone => (4002, "the screen was closed"),
            Self::HypervisorRefused => (1011, "the screen could not be opened"),
            Self::Refused => (1008, "session refused"),
            Self::TakenOver => (4001, "session taken over"),
            Self::Cut => (4003, "session ended by an operator"),
            Self::Stopped => (1001, "the console proxy stops"),
        }
    }

    /// One word for logs and counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::BrowserClosed => "browser_closed",
            Self::BrowserGone => "browser_gone",
            Self::BrowserSilent => "browser_silent",
            Self::BrowserText => "browser_text",
            Self::BrowserTooBig => "browser_too_big",
            Self::BrowserProtocol => "browser_protocol",
            Self::BrowserLate => "browser_late",
            Self::HypervisorClosed => "hypervisor_closed",
            Self::HypervisorGone => "hypervisor_gone",
            Self::HypervisorRefused => "hypervisor_refused",
            Self::Refused => "refused",
            Self::TakenOver => "taken_over",
            Self::Cut => "cut",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_may_be_sent_and_labels_are_the_wire_names() {
        for end in End::ALL {
            let (code, reason) = end.close();
            assert!(matches!(code, 1000..=1003 | 1007..=1011 | 4000..=4999) && reason.len() <= 123);
            assert_eq!(serde_json::to_string(&end).unwrap(), format!("{:?}", end.label()));
        }
    }
}

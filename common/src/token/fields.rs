//! The fields of a token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a token says. Field names and their order are the wire's; unknown fields are ignored.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Token {
    /// Address of the hypervisor.
    #[serde(rename = "clientHostAddress", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// VNC port there; -1 where a tunnel is used, 0 counts as missing.
    #[serde(rename = "clientHostPort")]
    pub port: i32,
    /// VNC password of the VM.
    #[serde(rename = "clientHostPassword", skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// UUID of the VM.
    #[serde(rename = "clientTag", skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Name that the browser shows.
    #[serde(rename = "clientDisplayName", skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Proof of management that the URL is fresh; see [`super::ticket`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Keyboard layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Where to open a tunnel to the screen (XenServer).
    #[serde(rename = "clientTunnelUrl", skip_serializing_if = "Option::is_none")]
    pub tunnel_url: Option<String>,
    /// Session of that tunnel.
    #[serde(rename = "clientTunnelSession", skip_serializing_if = "Option::is_none")]
    pub tunnel_session: Option<String>,
    /// Address of a Hyper-V host.
    #[serde(rename = "hypervHost", skip_serializing_if = "Option::is_none")]
    pub hyperv_host: Option<String>,
    /// User on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// That user's password.
    #[serde(rename = "password", skip_serializing_if = "Option::is_none")]
    pub user_password: Option<String>,
    /// Every session of this VM gets a viewer of its own.
    pub session_requires_new_viewer: bool,
    /// Address that asked for the URL.
    #[serde(rename = "sourceIP", skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Websocket of the hypervisor (VMware 7 and later).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket_url: Option<String>,
    /// The session, good for one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_uuid: Option<String>,
    /// Second secret that the caller must repeat beside the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_security_token: Option<String>,
    /// The viewer may look and no more, beside others. No part of CloudStack's tokens.
    #[serde(skip_serializing_if = "is_false")]
    pub view_only: bool,
    /// The token is good for one picture of the screen and no viewer. No part of CloudStack's tokens.
    #[serde(skip_serializing_if = "is_false")]
    pub picture: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tag", &self.tag)
            .field("session_uuid", &self.session_uuid)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// The JSON text, with the characters `< > & = '` as `\u00xx`.
    pub(super) fn text(&self) -> Result<String, serde_json::Error> {
        let plain = serde_json::to_string(self)?;
        let mut text = String::with_capacity(plain.len() + 32);
        for character in plain.chars() {
            match character {
                '<' | '>' | '&' | '=' | '\'' | '\u{2028}' | '\u{2029}' => {
                    text.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                _ => text.push(character),
            }
        }
        Ok(text)
    }
}

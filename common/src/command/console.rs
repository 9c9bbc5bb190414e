//! Commands and answers of the console proxy.
//!
//! Management starts the listeners ([`StartConsoleProxyAgentHttpHandlerCommand`]) after every
//! connect, announces each session ([`AllowConsoleAccessCommand`]), and is asked once per session
//! ([`ConsoleAccessAuthenticationCommand`]). The proxy reports its load as a text of its own,
//! [`LoadInfo`], inside [`ConsoleProxyLoadReportCommand`].

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::channel::message::{AnswerBase, Base, Wire};

macro_rules! wire {
    ($($name:ident = $class:literal),* $(,)?) => {
        $(impl Wire for $name {
            const CLASS: &'static str = $class;
        })*
    };
}

wire! {
    StartConsoleProxyAgentHttpHandlerCommand = "com.cloud.agent.api.proxy.StartConsoleProxyAgentHttpHandlerCommand",
    AllowConsoleAccessCommand = "com.cloud.agent.api.proxy.AllowConsoleAccessCommand",
    ConsoleAccessAuthenticationCommand = "com.cloud.agent.api.ConsoleAccessAuthenticationCommand",
    ConsoleAccessAuthenticationAnswer = "com.cloud.agent.api.ConsoleAccessAuthenticationAnswer",
    ConsoleProxyLoadReportCommand = "com.cloud.agent.api.ConsoleProxyLoadReportCommand",
    CheckConsoleProxyLoadCommand = "com.cloud.agent.api.proxy.CheckConsoleProxyLoadCommand",
    WatchConsoleProxyLoadCommand = "com.cloud.agent.api.proxy.WatchConsoleProxyLoadCommand",
    ConsoleProxyLoadAnswer = "com.cloud.agent.api.proxy.ConsoleProxyLoadAnswer",
}

/// Bytes that travel as a JSON array of signed numbers, -128 to 127; 128 to 255 are read as well.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SignedBytes(pub Vec<u8>);

impl fmt::Debug for SignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for SignedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|byte| i8::from_ne_bytes([*byte])))
    }
}

impl<'de> Deserialize<'de> for SignedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let numbers = Vec::<i16>::deserialize(deserializer)?;
        let byte = |(index, number): (usize, i16)| {
            match number {
                -128..=-1 => u8::try_from(number + 256),
                _ => u8::try_from(number),
            }
            .map_err(|_| D::Error::custom(format!("element {index} is {number}, a byte is -128 to 255")))
        };
        numbers.into_iter().enumerate().map(byte).collect::<Result<_, _>>().map(Self)
    }
}

/// Opens the listeners, or replaces what they use. Sent after every connect of the agent.
/// Answered by a plain answer.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartConsoleProxyAgentHttpHandlerCommand {
    /// A Java key store with the browsers' certificate; absent where TLS is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keystore_bits: Option<SignedBytes>,
    /// Password of the store and of its key.
    #[serde(default)]
    pub keystore_password: String,
    /// JSON text with the token's key, read by [`crate::token::TokenKey`].
    #[serde(default)]
    pub encryptor_password: String,
    /// Whether a session is bound to the address that asked for it.
    #[serde(default)]
    pub is_source_ip_check_enabled: bool,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for StartConsoleProxyAgentHttpHandlerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartConsoleProxyAgentHttpHandlerCommand")
            .field("keystore_bits", &self.keystore_bits)
            .field("is_source_ip_check_enabled", &self.is_source_ip_check_enabled)
            .finish_non_exhaustive()
    }
}

/// Announces one session. Answered by a plain answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowConsoleAccessCommand {
    /// The session that may be opened once.
    pub session_uuid: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Asks management, as a control request, whether a session may be opened.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsoleAccessAuthenticationCommand {
    /// `clientHostAddress` of the token, as it stands there.
    #[serde(rename = "_host")]
    pub host: String,
    /// `clientHostPort` of the token in decimal; may be `-1`.
    #[serde(rename = "_port")]
    pub port: String,
    /// `clientTag` of the token: UUID of the VM.
    #[serde(rename = "_vmId")]
    pub vm: String,
    /// VNC password of the VM, untruncated.
    #[serde(rename = "_sid")]
    pub password: String,
    /// Ticket of the token; only management can verify it.
    #[serde(rename = "_ticket")]
    pub ticket: Option<String>,
    /// The session.
    #[serde(rename = "sessionUuid")]
    pub session: Option<String>,
    /// Address of the browser.
    #[serde(rename = "clientAddress")]
    pub client: String,
    /// Asks where the VM is now, for a session that already runs.
    #[serde(rename = "_isReauthenticating")]
    pub reauthenticating: bool,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for ConsoleAccessAuthenticationCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleAccessAuthenticationCommand")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("vm", &self.vm)
            .field("session", &self.session)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Answer to [`ConsoleAccessAuthenticationCommand`]. `result` is true even for a denial:
/// only [`Self::success`] counts.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsoleAccessAuthenticationAnswer {
    /// Whether the session may be opened.
    #[serde(rename = "_success", default)]
    pub success: bool,
    /// Repeats the request's flag.
    #[serde(rename = "_isReauthenticating", default)]
    pub reauthenticating: bool,
    /// Where the VM is now; only when re-authenticating.
    #[serde(rename = "_host", default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its VNC port; only when re-authenticating.
    #[serde(rename = "_port", default)]
    pub port: i32,
    /// Tunnel to it; only when re-authenticating.
    #[serde(rename = "_tunnelUrl", default, skip_serializing_if = "Option::is_none")]
    pub tunnel_url: Option<String>,
    /// Session of that tunnel.
    #[serde(rename = "_tunnelSession", default, skip_serializing_if = "Option::is_none")]
    pub tunnel_session: Option<String>,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub answer: AnswerBase,
}

impl ConsoleAccessAuthenticationAnswer {
    /// The answer to a first authentication: granted or denied.
    pub fn decided(success: bool) -> Self {
        Self {
            success,
            reauthenticating: false,
            host: None,
            port: 0,
            tunnel_url: None,
            tunnel_session: None,
            answer: AnswerBase::ok(),
        }
    }
}

impl fmt::Debug for ConsoleAccessAuthenticationAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleAccessAuthenticationAnswer")
            .field("success", &self.success)
            .field("reauthenticating", &self.reauthenticating)
            .finish_non_exhaustive()
    }
}

/// Tells management, as a control request, which sessions are open and which have ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsoleProxyLoadReportCommand {
    /// `proxy_vm` of the boot arguments.
    #[serde(rename = "_proxyVmId")]
    pub proxy: i64,
    /// [`LoadInfo`] as text.
    #[serde(rename = "_loadInfo")]
    pub load_info: String,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// The text of a load report, and of `/cmd/getstatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadInfo {
    /// Open sessions.
    pub connections: Vec<Connection>,
    /// Sessions that ended since the last report; present in periodic reports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_sessions: Option<Vec<String>>,
}

/// One open session in a [`LoadInfo`]. Of those for which there was no room only the number is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// Counter of this process, from 1.
    pub id: u64,
    /// Always empty.
    pub client_info: String,
    /// Address of the hypervisor.
    pub host: String,
    /// Its VNC port.
    pub port: i32,
    /// UUID of the VM.
    pub tag: String,
    /// Start, milliseconds since 1970.
    pub create_time: i64,
    /// Last byte in either direction, milliseconds since 1970.
    pub last_used_time: i64,
    /// The session, where the token named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_uuid: Option<String>,
}

/// JSON on one line, ASCII only.
fn line(value: &impl Serialize) -> String {
    ascii(&serde_json::to_string(value).unwrap_or_default())
}

/// JSON with all that is not ASCII as `\uxxxx`.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0_u16; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

impl LoadInfo {
    /// Bytes that management has room for; it stores a report whole or not at all.
    pub const STORED: usize = 65_535;

    /// The report as management expects it: two spaces of indent, ASCII only.
    pub fn text(&self) -> String {
        ascii(&serde_json::to_string_pretty(self).unwrap_or_default())
    }

    /// The same within [`LoadInfo::STORED`]. Where there is no room, the indent goes first, then all but the numbers of
    /// the last connections: how many there are is what management decides by.
    pub fn stored_text(&self) -> String {
        let pretty = self.text();
        if pretty.len() <= Self::STORED {
            return pretty;
        }
        let removed = self.removed_sessions.as_ref();
        let removed =
            removed.map(|removed| format!(",\"removedSessions\":{}", line(removed))).unwrap_or_default();
        let numbers = self.connections.iter().map(|one| format!("{{\"id\":{}}}", one.id));
        let least = numbers.clone().map(|number| number.len() + 1).sum::<usize>() + removed.len() + 20;
        let mut room = Self::STORED.saturating_sub(least);
        let each = self.connections.iter().zip(numbers).map(|(one, number)| {
            let whole = line(one);
            match room.checked_sub(whole.len() - number.len()) {
                Some(left) => {
                    room = left;
                    whole
                }
                None => number,
            }
        });
        format!("{{\"connections\":[{}]{removed}}}", each.collect::<Vec<_>>().join(","))
    }

    /// Reads such a text.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// Asks the proxy for its load. Answered by [`ConsoleProxyLoadAnswer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckConsoleProxyLoadCommand {
    /// Number of the proxy VM.
    pub proxy_vm_id: i64,
    /// Its name.
    #[serde(default)]
    pub proxy_vm_name: String,
    /// Its management address.
    #[serde(default)]
    pub proxy_management_ip: String,
    /// Its command port, normally 8001.
    #[serde(default)]
    pub proxy_cmd_port: i32,
    /// See [`Base`].
    #[serde(flatten)]
    pub base: Base,
}

/// Asks the proxy for its load, repeatedly. Each answer is a [`ConsoleProxyLoadAnswer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchConsoleProxyLoadCommand {
    /// What is asked.
    #[serde(flatten)]
    pub check: CheckConsoleProxyLoadCommand,
    /// Seconds between two answers.
    #[serde(default)]
    pub interval: i32,
}

/// Answer with the load of the proxy as text in `details`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsoleProxyLoadAnswer {
    /// Number of the proxy VM.
    pub proxy_vm_id: i64,
    /// Its name.
    #[serde(default)]
    pub proxy_vm_name: String,
    /// See [`AnswerBase`].
    #[serde(flatten)]
    pub answer: AnswerBase,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::channel::message::Message;

    /// A body of the wire reads as `T` and is written back the same.
    fn same<T: Wire>(body: Value) -> T {
        let message = Message { class: T::CLASS.to_owned(), body: body.as_object().unwrap().clone() };
        let typed = message.read::<T>().unwrap();
        assert_eq!(Message::of(&typed).unwrap(), message);
        typed
    }

    #[test]
    fn start_command_with_a_key_store() {
        let start = same::<StartConsoleProxyAgentHttpHandlerCommand>(json!({
            "keystoreBits": [-2, -19, -2, -19, 0, 0, 0, 2], "keystorePassword": "AAECAwQFBgcICQoLDA0ODw==",
            "encryptorPassword": "{\"base64EncodedKeyBytes\":\"AAECAwQFBgcICQoLDA0ODw\",\"base64EncodedIvBytes\":\"8OHSw7Sllod4aVpLPC0eDw\"}",
            "isSourceIpCheckEnabled": true, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        assert_eq!(start.keystore_bits.as_ref().unwrap().0, [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]);
        let shown = format!("{start:?}");
        assert!(!shown.contains("AAECAw") && !shown.contains("8OHSw"), "{shown}");
    }

    #[test]
    fn start_command_without_a_key_store() {
        let start = same::<StartConsoleProxyAgentHttpHandlerCommand>(json!({
            "keystorePassword": "x", "encryptorPassword": "{}", "isSourceIpCheckEnabled": false,
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        assert_eq!(start.keystore_bits, None);
    }

    #[test]
    fn unsigned_bytes_are_read_and_others_named() {
        assert_eq!(serde_json::from_str::<SignedBytes>("[254,-2,127,0]").unwrap().0, [254, 254, 127, 0]);
        let error = serde_json::from_str::<SignedBytes>("[1,256]").unwrap_err().to_string();
        assert!(error.contains("element 1 is 256"), "{error}");
        assert!(serde_json::from_str::<SignedBytes>("[-129]").is_err());
    }

    #[test]
    fn authentication_and_its_answers() {
        same::<ConsoleAccessAuthenticationCommand>(json!({
            "_host": "10.1.1.20", "_port": "5901", "_vmId": "5b0d2f6e-1111-4222-8333-000000000000",
            "_sid": "Secr3tPw", "_ticket": "ticket==", "sessionUuid": "9f1c0c1e-aaaa-4bbb-8ccc-000000000000",
            "clientAddress": "203.0.113.7", "_isReauthenticating": false,
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        let denied = same::<ConsoleAccessAuthenticationAnswer>(json!({
            "_success": false, "_isReauthenticating": false, "_port": 0, "result": true,
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        assert_eq!(denied, ConsoleAccessAuthenticationAnswer::decided(false));
        let moved = same::<ConsoleAccessAuthenticationAnswer>(json!({
            "_success": true, "_isReauthenticating": true, "_host": "10.1.1.12", "_port": 5903, "result": true,
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        assert_eq!(moved.port, 5903);
    }

    #[test]
    fn load_commands() {
        same::<ConsoleProxyLoadReportCommand>(json!({
            "_proxyVmId": 42, "_loadInfo": "{\n  \"connections\": [],\n  \"removedSessions\": []\n}",
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        same::<WatchConsoleProxyLoadCommand>(json!({
            "proxyVmId": 42, "proxyVmName": "v-42-VM", "proxyManagementIp": "10.1.1.5", "proxyCmdPort": 8001,
            "interval": 30, "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
        same::<ConsoleProxyLoadAnswer>(json!({
            "proxyVmId": 42, "proxyVmName": "v-42-VM", "result": true, "details": "{\n  \"connections\": []\n}\n",
            "contextMap": {}, "wait": 0, "bypassHostMaintenance": false
        }));
    }

    #[test]
    fn report_text_is_the_one_management_knows() {
        let one = LoadInfo {
            connections: vec![Connection {
                id: 17,
                host: "127.0.0.1".to_owned(),
                port: 5901,
                tag: "tk".to_owned(),
                create_time: 1_795_369_288_253,
                last_used_time: 1_795_369_288_253,
                session_uuid: Some("4e07875a-5f1b-4228-bd12-0f6248a436c9".to_owned()),
                ..Connection::default()
            }],
            removed_sessions: None,
        };
        assert_eq!(
            one.text(),
            "{\n  \"connections\": [\n    {\n      \"id\": 17,\n      \"clientInfo\": \"\",\n      \
             \"host\": \"127.0.0.1\",\n      \"port\": 5901,\n      \"tag\": \"tk\",\n      \
             \"createTime\": 1795369288253,\n      \"lastUsedTime\": 1795369288253,\n      \
             \"sessionUuid\": \"4e07875a-5f1b-4228-bd12-0f6248a436c9\"\n    }\n  ]\n}"
        );
        let ended = LoadInfo { connections: vec![], removed_sessions: Some(vec!["4e07".to_owned()]) };
        assert_eq!(ended.text(), "{\n  \"connections\": [],\n  \"removedSessions\": [\n    \"4e07\"\n  ]\n}");
        assert_eq!(LoadInfo::default().text(), "{\n  \"connections\": []\n}");
    }

    #[test]
    fn a_report_of_many_sessions_is_one_that_management_can_store() {
        let many = |count| {
            let one = |id| Connection {
                id,
                host: "192.168.100.200".to_owned(),
                port: 5901,
                tag: "5b0d2f6e-1111-4222-8333-000000000000".to_owned(),
                create_time: 1_795_369_288_253,
                last_used_time: 1_795_369_288_253,
                session_uuid: Some("4e07875a-5f1b-4228-bd12-0f6248a436c9".to_owned()),
                ..Connection::default()
            };
            let removed = vec!["9f1c0c1e-aaaa-4bbb-8ccc-000000000000".to_owned(); 20];
            LoadInfo { connections: (1..=count).map(one).collect(), removed_sessions: Some(removed) }
        };
        assert_eq!(many(200).stored_text(), many(200).text());
        for (count, told) in [(250, 250), (300, 270), (1536, 180)] {
            let (info, text) = (many(count), many(count).stored_text());
            assert!(text.len() <= LoadInfo::STORED && text.is_ascii(), "{} bytes", text.len());
            let read = LoadInfo::parse(&text).unwrap();
            assert_eq!(read.removed_sessions, info.removed_sessions);
            assert!(read.connections.iter().map(|one| one.id).eq(1..=count), "each counts");
            assert_eq!(read.connections[..told], info.connections[..told]);
        }
    }

    #[test]
    fn report_text_is_ascii_and_reads_back() {
        let info = LoadInfo {
            connections: vec![Connection { tag: "日本 é 😀".to_owned(), ..Connection::default() }],
            removed_sessions: Some(vec![]),
        };
        assert!(info.text().is_ascii());
        assert_eq!(LoadInfo::parse(&info.text()).unwrap(), info);
    }
}

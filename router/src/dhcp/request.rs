//! What a client says, out of any bytes.

use std::net::Ipv4Addr;

use dhcproto::v4::{HType, MessageType, Opcode, OptionCode, borrowed};

use crate::mac::Mac;

/// The largest message that is looked at, bytes; no client needs more.
pub const LARGEST: usize = 1500;
/// Header and magic cookie, bytes.
const HEADER: usize = 240;
/// The longest client identifier and relay information that is echoed, bytes.
const LONGEST_ECHO: usize = 255;

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the client wants.
    pub kind: MessageType,
    /// Transaction, echoed.
    pub xid: u32,
    /// All flags, echoed; see [`Self::broadcast`].
    pub flags: u16,
    /// The address that the client uses now, else 0.0.0.0.
    pub ciaddr: Ipv4Addr,
    /// The relay agent that passed the message on, else 0.0.0.0.
    pub giaddr: Ipv4Addr,
    /// Who asks.
    pub mac: Mac,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 55; `None` when the client gave no list.
    pub parameters: Option<Vec<u8>>,
    /// Option 57, bytes of the whole IP packet.
    pub largest_reply: Option<u16>,
    /// Whether option 60 begins with `MSFT`.
    pub microsoft: bool,
    /// Option 61, echoed (RFC 6842).
    pub client_id: Option<Vec<u8>>,
    /// Option 82, echoed (RFC 3046 2.2).
    pub relay_info: Option<Vec<u8>>,
}

/// Why bytes are no message of a client. Such bytes are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than header and magic cookie, or longer than [`LARGEST`].
    #[error("A message of {0} bytes")]
    Size(usize),
    /// Not a BOOTREQUEST.
    #[error("Not a request")]
    Opcode,
    /// Not from an Ethernet address.
    #[error("Hardware address is not Ethernet")]
    Hardware,
    /// A group or zero address as sender.
    #[error("Hardware address of a group")]
    Group,
    /// The options hold no message type (BOOTP), or one that servers do not take.
    #[error("No message type of a client")]
    Kind,
}

impl Request {
    /// Reads one UDP payload. Options that cannot be right are ignored, as RFC 2131 4.1 wants.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER || bytes.len() > LARGEST {
            return Err(Malformed::Size(bytes.len()));
        }
        let message = borrowed::Message::new(bytes).map_err(|_| Malformed::Size(bytes.len()))?;
        if message.opcode() != Opcode::BootRequest {
            return Err(Malformed::Opcode);
        }
        if message.htype() != HType::Eth || message.hlen() != 6 {
            return Err(Malformed::Hardware);
        }
        let mac: [u8; 6] = message.chaddr().try_into().map_err(|_| Malformed::Hardware)?;
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(Malformed::Group);
        }
        let mut request = Self {
            kind: MessageType::Unknown(0),
            xid: message.xid(),
            flags: message.flags().into(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac: Mac(mac),
            requested: None,
            server: None,
            parameters: None,
            largest_reply: None,
            microsoft: false,
            client_id: None,
            relay_info: None,
        };
        for option in message.opts() {
            request.take(option.code(), option.data());
        }
        match request.kind {
            MessageType::Discover
            | MessageType::Request
            | MessageType::Decline
            | MessageType::Release
            | MessageType::Inform => Ok(request),
            _ => Err(Malformed::Kind),
        }
    }

    fn take(&mut self, code: OptionCode, data: &[u8]) {
        let address = || <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from);
        match code {
            OptionCode::MessageType => {
                if let [kind] = data {
                    self.kind = MessageType::from(*kind);
                }
            }
            OptionCode::RequestedIpAddress => self.requested = address(),
            OptionCode::ServerIdentifier => self.server = address(),
            OptionCode::ParameterRequestList => self.parameters = Some(data.to_vec()),
            OptionCode::MaxMessageSize => {
                self.largest_reply = <[u8; 2]>::try_from(data).ok().map(u16::from_be_bytes);
            }
            OptionCode::ClassIdentifier => self.microsoft = data.starts_with(b"MSFT"),
            OptionCode::ClientIdentifier if (2..=LONGEST_ECHO).contains(&data.len()) => {
                self.client_id = Some(data.to_vec());
            }
            OptionCode::RelayAgentInformation if data.len() <= LONGEST_ECHO => {
                self.relay_info = Some(data.to_vec());
            }
            _ => {}
        }
    }

    /// Whether the client asks for a broadcast answer.
    pub fn broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Whether the client wants an option: it listed it, or it gave no list.
    pub fn wants(&self, code: OptionCode) -> bool {
        self.parameters.as_ref().is_none_or(|list| list.contains(&u8::from(code)))
    }

    /// Whether the client listed an option.
    pub fn lists(&self, code: OptionCode) -> bool {
        self.parameters.as_ref().is_some_and(|list| list.contains(&u8::from(code)))
    }
}

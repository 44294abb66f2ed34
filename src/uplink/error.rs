//! Why a connection ends, and what a refusal means.

use std::sync::Arc;

use thiserror::Error;

use super::codec::reason_name;

/// Why a connection ended, or was not made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    #[error("the server refused the connection: {}", described(*.code, .text.as_deref()))]
    Refused { code: u8, text: Option<String> },
    #[error("the server ended the connection: {}", described(*.code, .text.as_deref()))]
    Ended { code: u8, text: Option<String> },
    #[error("the server closed the connection")]
    Closed,
    #[error("the server sent what is not MQTT: {0}")]
    Malformed(String),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("no CONNACK within 10 s")]
    NoConnack,
    #[error("no sign of life from the server")]
    Silent,
    #[error("{0}")]
    Transport(String),
    /// The server refused a message for now and took a later one of its topic.
    #[error("the server refused a message for now and took a later one, topic {0}: both go again, in order")]
    Overtaken(Arc<str>),
    #[error("MQTT cannot carry the client id, user name, password, topic or filters: {0}")]
    Unsendable(String),
}

impl SessionError {
    /// Whether trying again soon is pointless: a person has to change something, or another client uses the same client id.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Refused { code, .. } => !matches!(code, 0x80 | 0x83 | 0x88 | 0x89 | 0x97 | 0x9F),
            Self::Ended { code, .. } => matches!(code, 0x87 | 0x8A | 0x8E | 0x98),
            Self::Unsendable(_) => true,
            Self::Closed
            | Self::Malformed(_)
            | Self::Protocol(_)
            | Self::NoConnack
            | Self::Silent
            | Self::Overtaken(_)
            | Self::Transport(_) => false,
        }
    }
}

/// A reason code in words, with its number and what the server said about it.
pub fn described(code: u8, text: Option<&str>) -> String {
    let name = reason_name(code);
    match text {
        Some(text) => format!("{name} (0x{code:02X}): {text}"),
        None => format!("{name} (0x{code:02X})"),
    }
}

/// Whether a publish refused for this reason may be taken later (MQTT 5, 2.4).
pub fn will_pass(code: u8) -> bool {
    matches!(code, 0x88 | 0x89 | 0x8B | 0x91 | 0x93 | 0x96 | 0x97)
}

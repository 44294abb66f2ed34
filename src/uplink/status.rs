//! What an uplink tells about itself, and what passes between it and its owner.

use std::sync::Arc;

use crate::clock::UnixMs;
use crate::message::Message;

use super::inbox::Token;

/// From an uplink to its owner.
#[derive(Clone, Debug)]
pub enum UplinkEvent {
    /// Came from upstream and matches `accept`; the topic is without the prefix. The sender gets its acknowledgement with
    /// [`UplinkControl::Acknowledge`]. A retained one keeps its flag.
    Message { uplink: u16, message: Message, token: Token },
    /// At once when the state changes, else at most once a second and only when something changed.
    Status(u16, UplinkStatus),
}

/// From the owner to an uplink. The channel closed: say goodbye and end.
#[derive(Clone, Copy, Debug)]
pub enum UplinkControl {
    /// What came with this token is taken care of. One of an earlier connection does nothing.
    Acknowledge(Token),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkState {
    Connecting,
    Connected,
    BackingOff,
    /// The server answered, and does not want this client; tried again slowly.
    Refused,
    Stopped,
}

impl UplinkState {
    /// As status topics and the page name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::BackingOff => "backing_off",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// Counts are since the start of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct UplinkStatus {
    pub state: UplinkState,
    /// When it came into this state.
    pub since: UnixMs,
    /// Why the last connection ended or was not made, or what the server did not grant. Kept when connected again.
    pub last_error: Option<Arc<str>>,
    /// Published and not yet acknowledged.
    pub in_flight: usize,
    pub delivered: u64,
    /// Set aside because the server will not take them (its reason code, its packet size).
    pub refused: u64,
    pub last_refusal: Option<Refusal>,
    /// Times the server asked to wait (quota exceeded and the like): nothing is set aside for that.
    pub deferred: u64,
    /// Dropped because their expiry passed before they could be sent.
    pub expired: u64,
    /// Came from upstream without having been asked for: dropped.
    pub unasked: u64,
    /// Delivered a second, of late.
    pub rate: f64,
    /// Until the backlog is gone at the rate of late, in seconds. `None`: no backlog, or not moving.
    pub eta_secs: Option<u64>,
}

/// The last message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The local topic.
    pub topic: Arc<str>,
    pub reason: Arc<str>,
}

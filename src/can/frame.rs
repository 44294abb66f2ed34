//! CAN identifiers and frames, and the form that they have on a SocketCAN socket.

use std::fmt;

use crate::driver::ControllerState;

/// Set in an identifier word for a 29-bit identifier (`linux/can.h`, `CAN_EFF_FLAG`).
const EXTENDED: u32 = 0x8000_0000;
/// Remote transmission request (`CAN_RTR_FLAG`).
const REMOTE: u32 = 0x4000_0000;
/// An error frame made by the controller's driver (`CAN_ERR_FLAG`).
const ERROR: u32 = 0x2000_0000;
const STANDARD_MASK: u32 = 0x7FF;
const EXTENDED_MASK: u32 = 0x1FFF_FFFF;

/// Bytes of `struct can_frame` and of `struct canfd_frame`.
const CLASSIC_MTU: usize = 16;
const FD_MTU: usize = 72;
/// Bytes before the data in both.
const HEADER: usize = 8;
const FD_BRS: u8 = 0x01;
const FD_ESI: u8 = 0x02;

/// An 11-bit or a 29-bit identifier; the two number spaces are apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanId(u32);

impl CanId {
    /// `None` above 0x7FF.
    pub fn standard(id: u32) -> Option<Self> {
        (id <= STANDARD_MASK).then_some(Self(id))
    }

    /// `None` above 0x1FFFFFFF.
    pub fn extended(id: u32) -> Option<Self> {
        (id <= EXTENDED_MASK).then_some(Self(id | EXTENDED))
    }

    /// The low 29 bits.
    pub(super) fn extended_masked(id: u32) -> Self {
        Self(id & EXTENDED_MASK | EXTENDED)
    }

    pub fn is_extended(self) -> bool {
        self.0 & EXTENDED != 0
    }

    /// The identifier alone.
    pub fn raw(self) -> u32 {
        self.0 & EXTENDED_MASK
    }

    /// The identifier with SocketCAN's flag for 29 bits.
    pub fn word(self) -> u32 {
        self.0
    }

    /// Of a word as SocketCAN has it; everything but the identifier and its length is ignored.
    fn from_word(word: u32) -> Self {
        if word & EXTENDED != 0 { Self(EXTENDED | (word & EXTENDED_MASK)) } else { Self(word & STANDARD_MASK) }
    }
}

/// As candump has it: three hexadecimal digits, or eight for 29 bits.
impl fmt::Display for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_extended() { write!(f, "{:08X}", self.raw()) } else { write!(f, "{:03X}", self.raw()) }
    }
}

impl fmt::Debug for CanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Up to 8 bytes.
    Classic,
    /// Up to 64 bytes, in the lengths that CAN FD has.
    Fd { bit_rate_switch: bool, error_state: bool },
}

/// A data frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    id: CanId,
    kind: FrameKind,
    len: u8,
    data: [u8; 64],
}

impl Frame {
    /// `None` for more than 8 bytes.
    pub fn classic(id: CanId, data: &[u8]) -> Option<Self> {
        (data.len() <= 8).then(|| Self::build(id, FrameKind::Classic, data, 0))
    }

    /// Filled with `fill` to the next length that CAN FD has; `None` for more than 64 bytes.
    pub fn fd(id: CanId, data: &[u8], bit_rate_switch: bool, fill: u8) -> Option<Self> {
        let padded = fd_length(data.len())?;
        let mut frame = Self::build(id, FrameKind::Fd { bit_rate_switch, error_state: false }, data, fill);
        frame.len = padded;
        Some(frame)
    }

    fn build(id: CanId, kind: FrameKind, from: &[u8], fill: u8) -> Self {
        let mut data = [fill; 64];
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
        Self { id, kind, len: u8::try_from(from.len().min(64)).unwrap_or(64), data }
    }

    pub fn id(&self) -> CanId {
        self.id
    }

    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    pub fn data(&self) -> &[u8] {
        &self.data[..usize::from(self.len)]
    }

    /// `struct can_frame` or `struct canfd_frame` in this machine's byte order.
    pub fn to_wire(&self) -> ([u8; FD_MTU], usize) {
        let mut wire = [0; FD_MTU];
        wire[..4].copy_from_slice(&self.id.word().to_ne_bytes());
        wire[4] = self.len;
        wire[HEADER..HEADER + usize::from(self.len)].copy_from_slice(self.data());
        match self.kind {
            FrameKind::Classic => (wire, CLASSIC_MTU),
            FrameKind::Fd { bit_rate_switch, error_state } => {
                wire[5] = if bit_rate_switch { FD_BRS } else { 0 } | if error_state { FD_ESI } else { 0 };
                (wire, FD_MTU)
            }
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::candump::format_frame(self))
    }
}

/// The smallest CAN FD length that holds so many bytes (ISO 11898-1: 0 to 8, 12, 16, 20, 24, 32, 48, 64).
pub fn fd_length(bytes: usize) -> Option<u8> {
    const LONG: [u8; 7] = [12, 16, 20, 24, 32, 48, 64];
    match bytes {
        0..=8 => u8::try_from(bytes).ok(),
        _ => LONG.into_iter().find(|length| usize::from(*length) >= bytes),
    }
}

/// What one read of a SocketCAN socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Data(Frame),
    Remote(CanId),
    Error(ErrorFrame),
    /// Not of a length that frames have, or with more data than it can hold.
    Malformed,
}

impl Received {
    /// Of the bytes of one read.
    pub fn from_wire(wire: &[u8]) -> Self {
        let &[w0, w1, w2, w3, len, flags, _, _, ref payload @ ..] = wire else { return Self::Malformed };
        let word = u32::from_ne_bytes([w0, w1, w2, w3]);
        let kind = match wire.len() {
            CLASSIC_MTU => FrameKind::Classic,
            FD_MTU => FrameKind::Fd { bit_rate_switch: flags & FD_BRS != 0, error_state: flags & FD_ESI != 0 },
            _ => return Self::Malformed,
        };
        let Some(data) = payload.get(..usize::from(len)) else { return Self::Malformed };
        if word & ERROR != 0 {
            let mut detail = [0; 8];
            for (to, byte) in detail.iter_mut().zip(data) {
                *to = *byte;
            }
            return Self::Error(ErrorFrame { class: word & EXTENDED_MASK, detail });
        }
        let id = CanId::from_word(word);
        if word & REMOTE != 0 { Self::Remote(id) } else { Self::Data(Frame::build(id, kind, data, 0)) }
    }
}

/// What the controller tells of itself (`linux/can/error.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFrame {
    class: u32,
    detail: [u8; 8],
}

/// A controller's state for a status; `None` where nothing is wrong.
pub fn describe(state: ControllerState) -> Option<&'static str> {
    match state {
        ControllerState::Active => None,
        ControllerState::Warning => Some("error-warning: the controller counts 96 bus errors or more"),
        ControllerState::Passive => Some("error-passive: check wiring, termination and bit rate"),
        ControllerState::BusOff => {
            Some("bus-off: check wiring and bit rate; `ip link set IFACE type can restart-ms 100` restarts by itself")
        }
    }
}

/// The error classes that a socket is to report: controller problems, bus-off, restarted.
pub const ERROR_CLASSES: u32 = CLASS_CONTROLLER | CLASS_BUS_OFF | CLASS_RESTARTED;
const CLASS_CONTROLLER: u32 = 0x0004;
const CLASS_BUS_OFF: u32 = 0x0040;
const CLASS_RESTARTED: u32 = 0x0100;
const CONTROLLER_RX_OVERFLOW: u8 = 0x01;
const CONTROLLER_WARNING: u8 = 0x04 | 0x08;
const CONTROLLER_PASSIVE: u8 = 0x10 | 0x20;
const CONTROLLER_ACTIVE: u8 = 0x40;

impl ErrorFrame {
    /// The state that the controller has now, where the frame tells one.
    pub fn state(&self) -> Option<ControllerState> {
        if self.class & CLASS_BUS_OFF != 0 {
            return Some(ControllerState::BusOff);
        }
        if self.class & CLASS_RESTARTED != 0 {
            return Some(ControllerState::Active);
        }
        if self.class & CLASS_CONTROLLER == 0 {
            return None;
        }
        let problem = self.detail[1];
        if problem & CONTROLLER_PASSIVE != 0 {
            Some(ControllerState::Passive)
        } else if problem & CONTROLLER_WARNING != 0 {
            Some(ControllerState::Warning)
        } else if problem & CONTROLLER_ACTIVE != 0 {
            Some(ControllerState::Active)
        } else {
            None
        }
    }

    /// The controller lost frames because nobody fetched them in time.
    pub fn receive_overflow(&self) -> bool {
        self.class & CLASS_CONTROLLER != 0 && self.detail[1] & CONTROLLER_RX_OVERFLOW != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_received(raw in 0u32..=0x1FFF_FFFF, extended: bool, data in proptest::collection::vec(any::<u8>(), 0..=64), brs: bool) {
            let id = if extended { CanId::extended(raw).unwrap() } else { CanId::standard(raw & 0x7FF).unwrap() };
            let frame = if data.len() <= 8 { Frame::classic(id, &data).unwrap() } else { Frame::fd(id, &data, brs, 0).unwrap() };
            let (wire, length) = frame.to_wire();
            prop_assert_eq!(Received::from_wire(&wire[..length]), Received::Data(frame));
            prop_assert_eq!(&frame.data()[..data.len()], &data[..]);
        }

        #[test]
        fn no_bytes_are_too_strange(wire in proptest::collection::vec(any::<u8>(), 0..=80)) {
            let _ = Received::from_wire(&wire);
        }
    }

    #[test]
    fn controller_states_are_told_apart() {
        let error = |class: u32, problem: u8| {
            let mut wire = [0u8; 16];
            wire[..4].copy_from_slice(&(class | ERROR).to_ne_bytes());
            wire[4] = 8;
            wire[HEADER + 1] = problem;
            let Received::Error(frame) = Received::from_wire(&wire) else { panic!("{wire:?}") };
            frame
        };
        assert_eq!(error(CLASS_BUS_OFF, 0).state(), Some(ControllerState::BusOff));
        assert_eq!(error(CLASS_RESTARTED, 0).state(), Some(ControllerState::Active));
        assert_eq!(error(CLASS_CONTROLLER, 0x20).state(), Some(ControllerState::Passive));
        assert_eq!(error(CLASS_CONTROLLER, 0x04).state(), Some(ControllerState::Warning));
        assert_eq!(error(0x0008, 0x20).state(), None);
        assert!(error(CLASS_CONTROLLER, 0x01).receive_overflow());
    }
}

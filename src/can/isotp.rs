//! ISO-TP (ISO 15765-2): messages of up to 4095 bytes in frames, sent and received, with flow control.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::frame::fd_length;
use super::spec::Addressing;

/// Longer messages are refused, by the sender here and with "overflow" to the sender there.
pub const MESSAGE_BYTES_MAX: usize = 4095;
/// N_Bs and N_Cr (9.7, table 16).
const FLOW_CONTROL_MAX: Duration = Duration::from_millis(1000);
const CONSECUTIVE_MAX: Duration = Duration::from_millis(1000);
/// N_WFTmax: how often a receiver may ask for patience.
const WAITS_MAX: u8 = 16;

const SINGLE: u8 = 0x0;
const FIRST: u8 = 0x1;
const CONSECUTIVE: u8 = 0x2;
const FLOW: u8 = 0x3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IsotpError {
    #[error("an ISO-TP message has 1 to 4095 bytes, not {0}")]
    Length(usize),
    #[error("the receiver gave no flow control in time")]
    NoFlowControl,
    #[error("the receiver has no room for the message")]
    Overflow,
    #[error("the receiver asked for patience too often")]
    TooManyWaits,
    #[error("a consecutive frame did not come in time")]
    NoConsecutive,
    #[error("a consecutive frame was lost or doubled")]
    Sequence,
    #[error("a frame of no known form")]
    Malformed,
}

/// How frames look on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub addressing: Addressing,
    /// What fills frames up; `None`: as short as they can be.
    pub padding: Option<u8>,
    pub fd: bool,
}

impl Form {
    fn frame_bytes(self) -> usize {
        if self.fd { 64 } else { 8 }
    }

    fn prefix(self) -> &'static [u8] {
        match self.addressing {
            Addressing::Normal => &[],
            Addressing::Extended { .. } => &[0],
        }
    }

    /// The data of a frame: address byte, protocol control information, payload, padding.
    fn build(self, control: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.frame_bytes());
        if let Addressing::Extended { target, .. } = self.addressing {
            data.push(target);
        }
        data.extend_from_slice(control);
        data.extend_from_slice(payload);
        let fill = self.padding.unwrap_or(0xCC);
        let length = match self.padding {
            Some(_) => {
                if data.len() <= 8 {
                    8
                } else {
                    fd_length(data.len()).map_or(64, usize::from)
                }
            }
            None => fd_length(data.len()).map_or(64, usize::from),
        };
        data.resize(length, fill);
        data
    }

    /// What comes after the address byte; `None` where the frame is for somebody else.
    fn strip(self, data: &[u8]) -> Option<&[u8]> {
        match self.addressing {
            Addressing::Normal => Some(data),
            Addressing::Extended { source, .. } => {
                data.split_first().filter(|(first, _)| **first == source).map(|(_, rest)| rest)
            }
        }
    }

    /// A message in one frame, where it fits.
    fn single(self, message: &[u8]) -> Option<Vec<u8>> {
        let room = self.frame_bytes() - self.prefix().len();
        let length = u8::try_from(message.len()).ok()?;
        if message.len() < room.min(8 - self.prefix().len()) {
            return Some(self.build(&[SINGLE << 4 | length], message));
        }
        // CAN FD: a zero nibble, and the length in the next byte.
        (self.fd && message.len() + 2 <= room).then(|| self.build(&[SINGLE << 4, length], message))
    }
}

/// Sends one message. Ask [`Self::poll_transmit`] whenever something happened or [`Self::deadline`] passed.
#[derive(Debug)]
pub struct Sender {
    form: Form,
    message: Arc<[u8]>,
    sent: usize,
    sequence: u8,
    state: SendState,
    /// Frames until the next flow control; `None`: no more is needed.
    block: Option<u8>,
    gap: Duration,
    waits: u8,
}

#[derive(Clone, Copy, Debug)]
enum SendState {
    Begin,
    AwaitFlow(Instant),
    Sending(Instant),
    Done,
    Failed(IsotpError),
}

impl Sender {
    pub fn new(form: Form, message: Arc<[u8]>) -> Result<Self, IsotpError> {
        if message.is_empty() || message.len() > MESSAGE_BYTES_MAX {
            return Err(IsotpError::Length(message.len()));
        }
        Ok(Self {
            form,
            message,
            sent: 0,
            sequence: 0,
            state: SendState::Begin,
            block: None,
            gap: Duration::ZERO,
            waits: 0,
        })
    }

    /// The data of the next frame, where one may go now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.state {
            SendState::Begin => Some(self.begin(now)),
            SendState::Sending(at) if at <= now => Some(self.consecutive(now)),
            SendState::AwaitFlow(until) if until <= now => {
                self.state = SendState::Failed(IsotpError::NoFlowControl);
                None
            }
            SendState::Sending(_) | SendState::AwaitFlow(_) | SendState::Done | SendState::Failed(_) => None,
        }
    }

    fn begin(&mut self, now: Instant) -> Vec<u8> {
        if let Some(frame) = self.form.single(&self.message) {
            self.state = SendState::Done;
            return frame;
        }
        let [high, low] = u16::try_from(self.message.len()).unwrap_or(u16::MAX).to_be_bytes();
        self.sent = self.form.frame_bytes() - self.form.prefix().len() - 2;
        self.sequence = 1;
        self.state = SendState::AwaitFlow(now + FLOW_CONTROL_MAX);
        self.form.build(&[FIRST << 4 | high & 0xF, low], &self.message[..self.sent])
    }

    fn consecutive(&mut self, now: Instant) -> Vec<u8> {
        let room = self.form.frame_bytes() - self.form.prefix().len() - 1;
        let end = (self.sent + room).min(self.message.len());
        let frame = self.form.build(&[CONSECUTIVE << 4 | self.sequence], &self.message[self.sent..end]);
        self.sent = end;
        self.sequence = (self.sequence + 1) & 0xF;
        self.block = self.block.map(|left| left.saturating_sub(1));
        self.state = if self.sent == self.message.len() {
            SendState::Done
        } else if self.block == Some(0) {
            SendState::AwaitFlow(now + FLOW_CONTROL_MAX)
        } else {
            SendState::Sending(now + self.gap)
        };
        frame
    }

    /// A frame that came from the receiver. Anything but a flow control that is waited for is ignored.
    pub fn handle(&mut self, data: &[u8], now: Instant) {
        let SendState::AwaitFlow(_) = self.state else { return };
        let Some(&[control, block, separation, ..]) = self.form.strip(data) else { return };
        if control >> 4 != FLOW {
            return;
        }
        self.state = match control & 0xF {
            0 => {
                self.block = (block != 0).then_some(block);
                self.gap = separation_time(separation);
                self.waits = 0;
                SendState::Sending(now)
            }
            1 if self.waits == WAITS_MAX => SendState::Failed(IsotpError::TooManyWaits),
            1 => {
                self.waits += 1;
                SendState::AwaitFlow(now + FLOW_CONTROL_MAX)
            }
            2 => SendState::Failed(IsotpError::Overflow),
            _ => SendState::Failed(IsotpError::Malformed),
        };
    }

    /// When [`Self::poll_transmit`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            SendState::AwaitFlow(at) | SendState::Sending(at) => Some(at),
            SendState::Begin | SendState::Done | SendState::Failed(_) => None,
        }
    }

    /// `None` while it goes on.
    pub fn result(&self) -> Option<Result<(), IsotpError>> {
        match self.state {
            SendState::Done => Some(Ok(())),
            SendState::Failed(error) => Some(Err(error)),
            SendState::Begin | SendState::AwaitFlow(_) | SendState::Sending(_) => None,
        }
    }
}

/// STmin (9.6.5.5): 0 to 127 ms, 100 to 900 µs; what is reserved counts as the longest.
fn separation_time(code: u8) -> Duration {
    match code {
        0..=0x7F => Duration::from_millis(u64::from(code)),
        0xF1..=0xF9 => Duration::from_micros(u64::from(code - 0xF0) * 100),
        _ => Duration::from_millis(127),
    }
}

/// What a frame led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not for this receiver, or not expected.
    Ignored,
    /// Part of a message.
    Partial,
    /// The data of a flow control frame that is to be sent.
    FlowControl(Vec<u8>),
    Message(Vec<u8>),
    Failed(IsotpError),
}

/// Receives messages from one sender; holds at most one, of at most 4095 bytes.
#[derive(Debug)]
pub struct Receiver {
    form: Form,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    message: Vec<u8>,
    length: usize,
    /// Bytes that each consecutive frame but the last must carry.
    step: usize,
    sequence: u8,
    deadline: Instant,
}

impl Receiver {
    pub fn new(form: Form) -> Self {
        Self { form, partial: None }
    }

    pub fn handle(&mut self, data: &[u8], now: Instant) -> Progress {
        let Some(pdu) = self.form.strip(data) else { return Progress::Ignored };
        let Some((&control, rest)) = pdu.split_first() else { return Progress::Ignored };
        match control >> 4 {
            SINGLE => self.single(control, rest, data.len()),
            FIRST => self.first(control, rest, data.len(), now),
            CONSECUTIVE => self.consecutive(control, rest, now),
            _ => Progress::Ignored,
        }
    }

    fn single(&mut self, control: u8, rest: &[u8], frame_bytes: usize) -> Progress {
        let (length, payload) = match (control & 0xF, rest.split_first()) {
            // Only frames of more than 8 bytes have their length in the second byte.
            (0, Some((&length, payload))) if frame_bytes > 8 => (usize::from(length), payload),
            (short, _) => (usize::from(short), rest),
        };
        match payload.get(..length).filter(|message| !message.is_empty()) {
            Some(message) => {
                self.partial = None;
                Progress::Message(message.to_vec())
            }
            None => Progress::Failed(IsotpError::Malformed),
        }
    }

    fn first(&mut self, control: u8, rest: &[u8], frame_bytes: usize, now: Instant) -> Progress {
        let Some((&low, payload)) = rest.split_first() else { return Progress::Failed(IsotpError::Malformed) };
        let length = usize::from(u16::from_be_bytes([control & 0xF, low]));
        if frame_bytes < 8 {
            return Progress::Failed(IsotpError::Malformed);
        }
        self.partial = None;
        // A length of zero announces more than 4095 bytes in the next four.
        if length == 0 {
            return Progress::FlowControl(self.form.build(&[FLOW << 4 | 2, 0, 0], &[]));
        }
        // It would have fitted into a single frame: no sender does that.
        if length <= payload.len() {
            return Progress::Failed(IsotpError::Malformed);
        }
        let mut message = Vec::with_capacity(length);
        message.extend_from_slice(payload);
        let step = payload.len() + 1;
        self.partial = Some(Partial { message, length, step, sequence: 1, deadline: now + CONSECUTIVE_MAX });
        Progress::FlowControl(self.form.build(&[FLOW << 4, 0, 0], &[]))
    }

    fn consecutive(&mut self, control: u8, rest: &[u8], now: Instant) -> Progress {
        let Some(mut partial) = self.partial.take() else { return Progress::Ignored };
        if partial.deadline <= now {
            return Progress::Failed(IsotpError::NoConsecutive);
        }
        if control & 0xF != partial.sequence {
            return Progress::Failed(IsotpError::Sequence);
        }
        let expected = partial.step.min(partial.length - partial.message.len());
        let Some(payload) = rest.get(..expected) else { return Progress::Failed(IsotpError::Malformed) };
        partial.message.extend_from_slice(payload);
        if partial.message.len() == partial.length {
            return Progress::Message(partial.message);
        }
        partial.sequence = (partial.sequence + 1) & 0xF;
        partial.deadline = now + CONSECUTIVE_MAX;
        self.partial = Some(partial);
        Progress::Partial
    }

    /// When the message under way is given up; `None` where there is none.
    pub fn deadline(&self) -> Option<Instant> {
        self.partial.as_ref().map(|partial| partial.deadline)
    }

    /// Gives up a message whose next frame is late; true where there was one.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let late = self.deadline().is_some_and(|deadline| deadline <= now);
        if late {
            self.partial = None;
        }
        late
    }
}

#[cfg(test)]
mod tests;

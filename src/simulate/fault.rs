//! Faults on request, under a fixed seed: what lines and devices do to answers.

use std::time::Duration;

use crate::modbus::frame;

/// What happens to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It comes after the master's time-out.
    Late,
    Short,
    Long,
    /// Another unit's number stands in it.
    Foreign,
    /// Another function code stands in it.
    Function,
    /// One bit is wrong: on a line anywhere; on TCP, which has its own checksums, in the header.
    Corrupt,
    Doubled,
    Silent,
    /// Exception 6.
    Busy,
}

impl FaultKind {
    pub const ALL: [Self; 9] = [
        Self::Late,
        Self::Short,
        Self::Long,
        Self::Foreign,
        Self::Function,
        Self::Corrupt,
        Self::Doubled,
        Self::Silent,
        Self::Busy,
    ];
}

/// Which answers suffer what.
#[derive(Clone, Debug)]
pub struct Faults {
    random: fastrand::Rng,
    kinds: Vec<FaultKind>,
    /// Of a hundred answers.
    percent: u8,
    /// The master's time-out, which late answers miss by up to as much again.
    timeout: Duration,
}

/// Bytes to send so long from now.
pub type Delivery = (Duration, Vec<u8>);

impl Faults {
    pub fn new(seed: u64, kinds: Vec<FaultKind>, percent: u8, timeout: Duration) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), kinds, percent, timeout }
    }

    /// No fault ever.
    pub fn none() -> Self {
        Self::new(0, Vec::new(), 0, Duration::ZERO)
    }

    /// The answer as an RTU line brings it.
    pub fn rtu(&mut self, unit: u8, pdu: Vec<u8>) -> Vec<Delivery> {
        let (kind, unit, pdu) = self.before_framing(unit, pdu);
        let mut bytes = frame::rtu(unit, &pdu);
        if kind == Some(FaultKind::Corrupt) {
            let bit = self.random.usize(0..bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.deliver(kind, bytes)
    }

    /// The answer as a TCP connection brings it.
    pub fn tcp(&mut self, transaction: u16, unit: u8, pdu: Vec<u8>) -> Vec<Delivery> {
        let (kind, unit, pdu) = self.before_framing(unit, pdu);
        let mut bytes = frame::tcp(transaction, unit, &pdu);
        if kind == Some(FaultKind::Corrupt) {
            let bit = self.random.usize(0..frame::MBAP * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.deliver(kind, bytes)
    }

    fn before_framing(&mut self, unit: u8, mut pdu: Vec<u8>) -> (Option<FaultKind>, u8, Vec<u8>) {
        if self.kinds.is_empty() || self.random.u8(0..100) >= self.percent {
            return (None, unit, pdu);
        }
        let kind = self.kinds[self.random.usize(0..self.kinds.len())];
        let mut from = unit;
        match kind {
            FaultKind::Foreign => from = unit.wrapping_add(1),
            FaultKind::Function => {
                if let Some(code) = pdu.first_mut() {
                    *code ^= 7;
                }
            }
            FaultKind::Busy => pdu = vec![pdu.first().copied().unwrap_or(0) | 0x80, 6],
            FaultKind::Late
            | FaultKind::Short
            | FaultKind::Long
            | FaultKind::Corrupt
            | FaultKind::Doubled
            | FaultKind::Silent => {}
        }
        (Some(kind), from, pdu)
    }

    fn deliver(&mut self, kind: Option<FaultKind>, mut bytes: Vec<u8>) -> Vec<Delivery> {
        let mut delay = Duration::ZERO;
        match kind {
            Some(FaultKind::Silent) => return Vec::new(),
            Some(FaultKind::Late) => delay = self.timeout.mul_f64(1.0 + self.random.f64()),
            Some(FaultKind::Short) => bytes.truncate(self.random.usize(1..bytes.len())),
            Some(FaultKind::Long) => bytes.extend((0..self.random.usize(1..9)).map(|_| self.random.u8(..))),
            Some(FaultKind::Doubled) => bytes.extend_from_within(..),
            Some(FaultKind::Foreign | FaultKind::Function | FaultKind::Corrupt | FaultKind::Busy) | None => {}
        }
        vec![(delay, bytes)]
    }
}

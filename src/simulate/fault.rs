//! Faults on request, under a fixed seed: what lines and devices do to answers.

use std::fmt;
use std::str::FromStr;
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
    /// Random bytes in its place.
    Babble,
    /// This exception code in its place.
    Exception(u8),
}

/// The kinds by the names that `fieldgate simulate --fault` takes.
const NAMES: [(&str, FaultKind); 10] = [
    ("late", FaultKind::Late),
    ("short", FaultKind::Short),
    ("long", FaultKind::Long),
    ("foreign", FaultKind::Foreign),
    ("function", FaultKind::Function),
    ("corrupt", FaultKind::Corrupt),
    ("doubled", FaultKind::Doubled),
    ("silent", FaultKind::Silent),
    ("babble", FaultKind::Babble),
    ("busy", FaultKind::Exception(6)),
];

impl FaultKind {
    /// One of each.
    pub fn all() -> Vec<Self> {
        NAMES.iter().map(|(_, kind)| *kind).collect()
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(code) = text.strip_prefix("exception-") {
            let code = code.parse().ok().filter(|code| (1..=127).contains(code));
            return code.map(Self::Exception).ok_or(format!("{text:?}: an exception code is a number from 1 to 127"));
        }
        let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        named.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no fault; there are {} and exception-N", names.join(", "))
        })
    }
}

/// A fault that was asked for: `TARGET:KIND` or `TARGET:KIND:PERCENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A device's or a bus's name, or `*`.
    pub target: String,
    pub kind: FaultKind,
    /// Of a hundred answers, 1 to 100.
    pub percent: u8,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (Some(target), Some(kind), share, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("write DEVICE:KIND or DEVICE:KIND:PERCENT, as meter-1:silent or '*:late:5'".to_owned());
        };
        let share = share.unwrap_or("100").trim_end_matches('%');
        let percent = share.parse().ok().filter(|percent| (1..=100).contains(percent));
        let percent = percent.ok_or(format!("{share:?} is no percentage; write a whole number from 1 to 100"))?;
        Ok(Self { target: target.to_owned(), kind: kind.parse()?, percent })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}, {} % of its answers", self.target, self.kind, self.percent)
    }
}

/// Answers of these units (`None`: of all) that suffer one of these kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub unit: Option<u8>,
    pub kinds: Vec<FaultKind>,
    /// Of a hundred answers.
    pub percent: u8,
}

/// Which answers suffer what.
#[derive(Clone, Debug)]
pub struct Faults {
    random: fastrand::Rng,
    rules: Vec<Rule>,
    /// The master's time-out, which late answers miss by up to as much again.
    timeout: Duration,
}

/// Bytes to send so long from now.
pub type Delivery = (Duration, Vec<u8>);

impl Faults {
    /// The first rule that strikes an answer has it.
    pub fn new(seed: u64, rules: Vec<Rule>, timeout: Duration) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), rules, timeout }
    }

    /// No fault ever.
    pub fn none() -> Self {
        Self::new(0, Vec::new(), Duration::ZERO)
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

    /// The answer as an ASCII line brings it.
    pub fn ascii(&mut self, unit: u8, pdu: Vec<u8>) -> Vec<Delivery> {
        let (kind, unit, pdu) = self.before_framing(unit, pdu);
        let mut bytes = frame::ascii(unit, &pdu);
        if kind == Some(FaultKind::Corrupt) {
            // One wrong digit of those between the colon and the end.
            let digit = self.random.usize(1..bytes.len() - 2);
            bytes[digit] = if bytes[digit] == b'0' { b'1' } else { b'0' };
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

    fn strikes(&mut self, unit: u8) -> Option<FaultKind> {
        let random = &mut self.random;
        let of = |rule: &&Rule| rule.unit.is_none_or(|of| of == unit) && random.u8(0..100) < rule.percent;
        let rule = self.rules.iter().find(of)?;
        let kind = random.usize(0..rule.kinds.len());
        rule.kinds.get(kind).copied()
    }

    fn before_framing(&mut self, unit: u8, mut pdu: Vec<u8>) -> (Option<FaultKind>, u8, Vec<u8>) {
        let Some(kind) = self.strikes(unit) else { return (None, unit, pdu) };
        let mut from = unit;
        match kind {
            FaultKind::Foreign => from = unit.wrapping_add(1),
            FaultKind::Function => {
                if let Some(code) = pdu.first_mut() {
                    *code ^= 7;
                }
            }
            FaultKind::Exception(code) => pdu = vec![pdu.first().copied().unwrap_or(0) | 0x80, code],
            FaultKind::Late
            | FaultKind::Short
            | FaultKind::Long
            | FaultKind::Corrupt
            | FaultKind::Doubled
            | FaultKind::Babble
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
            Some(FaultKind::Babble) => bytes = (0..self.random.usize(1..65)).map(|_| self.random.u8(..)).collect(),
            Some(FaultKind::Foreign | FaultKind::Function | FaultKind::Corrupt | FaultKind::Exception(_)) | None => {}
        }
        vec![(delay, bytes)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_asked_for_by_name_and_share() {
        let asked = |target: &str, kind, percent| Ok(Asked { target: target.to_owned(), kind, percent });
        assert_eq!("meter-1:silent".parse(), asked("meter-1", FaultKind::Silent, 100));
        assert_eq!("*:late:5%".parse(), asked("*", FaultKind::Late, 5));
        assert_eq!("line:exception-4:50".parse(), asked("line", FaultKind::Exception(4), 50));
        for wrong in
            ["", "meter-1", "meter-1:dead", "meter-1:late:0", "meter-1:late:101", "a:late:5:6", "a:exception-0"]
        {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_units_that_were_asked_for_suffer() {
        let rule = Rule { unit: Some(2), kinds: vec![FaultKind::Silent], percent: 100 };
        let mut faults = Faults::new(1, vec![rule], Duration::ZERO);
        assert!(faults.rtu(2, vec![3, 2, 0, 1]).is_empty());
        assert_eq!(faults.rtu(1, vec![3, 2, 0, 1]).len(), 1);
    }
}

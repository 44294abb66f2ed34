//! A range of addresses, and how it is read whole although the device may have holes in it.

use std::collections::BTreeMap;
use std::str::FromStr;

use thiserror::Error;

use crate::modbus::pdu::{Answer, MAX_BITS, MAX_REGISTERS};
use crate::modbus::spec::Table;
use crate::sample::Fault;

/// A range as it stands on the command line: `A..B`, both ends included, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub first: u16,
    pub last: u16,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("write A..B, both ends included, or one address; addresses are the protocol's zero-based 0 to 65535")]
pub struct RangeError;

impl FromStr for Addresses {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| -> Result<u16, RangeError> {
            let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(RangeError)
        };
        let (first, last) = (number(first)?, number(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(RangeError) }
    }
}

/// Addresses of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub table: Table,
    pub addresses: Addresses,
}

/// What one address holds: a register, a bit as 0 or 1, or why it could not be read.
pub(super) type Cells = BTreeMap<u16, Result<u16, Fault>>;

/// Reads a range in the fewest requests that the device allows: one that is refused is halved, down to the hole itself.
#[derive(Debug)]
pub(super) struct Reading {
    table: Table,
    /// Still to be asked, the next last.
    left: Vec<(u16, u16)>,
    cells: Cells,
}

impl Reading {
    pub(super) fn new(range: Range) -> Self {
        let most = match range.table {
            Table::Coil | Table::Discrete => MAX_BITS,
            Table::Input | Table::Holding => MAX_REGISTERS,
        };
        let Addresses { first, last } = range.addresses;
        let starts = (first..=last).step_by(usize::from(most));
        let mut left: Vec<(u16, u16)> =
            starts.map(|start| (start, (last - start).saturating_add(1).min(most))).collect();
        left.reverse();
        Self { table: range.table, left, cells: Cells::new() }
    }

    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// First address and count of the next request; `None` when all is read.
    pub(super) fn next(&self) -> Option<(u16, u16)> {
        self.left.last().copied()
    }

    /// Takes what the request that [`Reading::next`] told brought.
    pub(super) fn answered(&mut self, answer: &Answer) {
        let Some((start, count)) = self.left.pop() else { return };
        let place = |words: &mut dyn Iterator<Item = u16>, cells: &mut Cells| {
            cells.extend((start..=u16::MAX).zip(words).map(|(address, word)| (address, Ok(word))));
        };
        match answer {
            Answer::Registers(words) => place(&mut words.iter().copied(), &mut self.cells),
            Answer::Bits(bits) => place(&mut bits.iter().map(|bit| u16::from(*bit)), &mut self.cells),
            Answer::Written => {}
            Answer::Exception(exception) => self.refused(start, count, crate::modbus::pdu::fault(*exception)),
        }
    }

    /// The request that [`Reading::next`] told brought nothing.
    pub(super) fn failed(&mut self, fault: Fault) {
        if let Some((start, count)) = self.left.pop() {
            self.give_up(start, count, fault);
        }
    }

    /// An address that is not there, or more at once than the device takes: half of it may be read.
    fn refused(&mut self, start: u16, count: u16, fault: Fault) {
        if count > 1 && matches!(fault, Fault::IllegalAddress | Fault::IllegalValue | Fault::DeviceFailure) {
            let half = count / 2;
            self.left.push((start + half, count - half));
            self.left.push((start, half));
        } else {
            self.give_up(start, count, fault);
        }
    }

    fn give_up(&mut self, start: u16, count: u16, fault: Fault) {
        self.cells.extend((start..=u16::MAX).take(usize::from(count)).map(|address| (address, Err(fault))));
    }

    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use tokio_modbus::ExceptionCode;

    fn range(first: u16, last: u16) -> Range {
        Range { table: Table::Holding, addresses: Addresses { first, last } }
    }

    /// Reads from a device with holes that takes so many registers at once; gives the requests.
    fn read(reading: &mut Reading, holes: &BTreeSet<u16>, most: u16) -> usize {
        let mut requests = 0;
        while let Some((start, count)) = reading.next() {
            assert!(count > 0 && count <= MAX_REGISTERS);
            requests += 1;
            let asked: Vec<u16> = (start..=u16::MAX).take(usize::from(count)).collect();
            assert_eq!(asked.len(), usize::from(count), "past the last address");
            let answer = if count > most {
                Answer::Exception(ExceptionCode::IllegalDataValue)
            } else if asked.iter().any(|address| holes.contains(address)) {
                Answer::Exception(ExceptionCode::IllegalDataAddress)
            } else {
                Answer::Registers(asked)
            };
            reading.answered(&answer);
        }
        requests
    }

    #[test]
    fn a_range_has_both_its_ends_and_may_be_one_address() {
        assert_eq!("0..9".parse(), Ok(Addresses { first: 0, last: 9 }));
        assert_eq!("7".parse(), Ok(Addresses { first: 7, last: 7 }));
        for text in ["", "..", "9..0", "0..65536", "a..b", "+1", "1...2", "0..=3", "-1..3"] {
            assert_eq!(text.parse::<Addresses>(), Err(RangeError), "{text}");
        }
    }

    #[test]
    fn a_hole_costs_a_few_requests_and_its_neighbours_are_read() {
        let mut reading = Reading::new(range(0, 124));
        let requests = read(&mut reading, &BTreeSet::from([60]), 125);
        assert!(requests <= 15, "{requests}");
        let faulty: Vec<_> = reading.cells().iter().filter(|(_, cell)| cell.is_err()).collect();
        assert_eq!(faulty, [(&60, &Err(Fault::IllegalAddress))]);
    }

    #[test]
    fn silence_is_not_asked_in_halves() {
        let mut reading = Reading::new(range(10, 11));
        reading.failed(Fault::Timeout);
        assert_eq!(reading.next(), None);
        assert_eq!(reading.cells().values().copied().collect::<Vec<_>>(), [Err(Fault::Timeout); 2]);
    }

    proptest! {
        #[test]
        fn every_address_is_read_but_the_holes(
            first in 0_u16..=u16::MAX, length in 0_u16..400, holes in prop::collection::btree_set(any::<u16>(), 0..8),
            near in prop::collection::btree_set(0_u16..400, 0..8), most in 1_u16..=125,
        ) {
            let last = first.saturating_add(length);
            let holes: BTreeSet<u16> =
                holes.into_iter().chain(near.into_iter().map(|offset| first.saturating_add(offset))).collect();
            let mut reading = Reading::new(range(first, last));
            read(&mut reading, &holes, most);
            let wanted: Cells = (first..=last)
                .map(|address| (address, if holes.contains(&address) { Err(Fault::IllegalAddress) } else { Ok(address) }))
                .collect();
            prop_assert_eq!(reading.cells(), &wanted);
        }
    }
}

//! The registers of a bus's devices: what each request to them is answered with.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_modbus::{ExceptionCode, Request};

use super::{request, wave};
use crate::mapping::rule::PointRule;
use crate::modbus::codec;
use crate::modbus::pdu::{write_bits, write_registers, write_request};
use crate::modbus::spec::{BusSpec, PointSpec, Table};
use crate::sample::Value;

/// All devices of one bus.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    units: BTreeMap<u8, BTreeMap<(Table, u16), Cell>>,
    points: Vec<PointSpec>,
    /// As `points`; empty where none are known.
    rules: Vec<PointRule>,
}

#[derive(Clone, Copy, Debug)]
enum Cell {
    /// Register `word` of a moving point.
    Wave { point: usize, word: usize },
    /// Keeps what was written.
    Held(u16),
}

impl Registers {
    /// The devices of a bus: moving values; what can be written begins at rest and keeps what is written. `rules` are
    /// the points' own, or none: with them the values are plausible in the units that are published.
    pub fn of(spec: &BusSpec, rules: &[PointRule]) -> Self {
        let mut units: BTreeMap<u8, BTreeMap<(Table, u16), Cell>> =
            spec.devices.iter().map(|device| (device.unit, BTreeMap::new())).collect();
        for (index, point) in spec.points.iter().enumerate() {
            let Some(unit) = spec.devices.get(point.device).and_then(|device| units.get_mut(&device.unit)) else {
                continue;
            };
            for word in 0..words(point) {
                let address = point.address.saturating_add(u16::try_from(word).unwrap_or(u16::MAX));
                let cell = if point.write.is_some() {
                    Cell::Held(word_of(point, rules.get(index), index, word, Duration::ZERO))
                } else {
                    Cell::Wave { point: index, word }
                };
                unit.insert((point.table, address), cell);
            }
        }
        Self { units, points: spec.points.clone(), rules: rules.to_vec() }
    }

    /// Puts a register or bit (0 or 1) to rest at a value, and makes it where it was not.
    pub fn set(&mut self, unit: u8, table: Table, address: u16, word: u16) {
        self.units.entry(unit).or_default().insert((table, address), Cell::Held(word));
    }

    /// The answer's PDU; `None` where no such unit is there.
    pub fn answer(&mut self, unit: u8, pdu: &[u8], elapsed: Duration) -> Option<Vec<u8>> {
        if !self.units.contains_key(&unit) {
            return None;
        }
        let code = pdu.first().copied().unwrap_or(0);
        Some(
            request::parse(pdu)
                .and_then(|request| self.carry_out(unit, &request, elapsed))
                .unwrap_or_else(|exception| vec![code | 0x80, u8::from(exception)]),
        )
    }

    fn carry_out(&mut self, unit: u8, request: &Request<'_>, elapsed: Duration) -> Result<Vec<u8>, ExceptionCode> {
        let code = request.function_code().value();
        match request {
            Request::ReadCoils(from, count) => self.bits(code, unit, Table::Coil, *from, *count, elapsed),
            Request::ReadDiscreteInputs(from, count) => self.bits(code, unit, Table::Discrete, *from, *count, elapsed),
            Request::ReadHoldingRegisters(from, count) => {
                self.registers(code, unit, Table::Holding, *from, *count, elapsed)
            }
            Request::ReadInputRegisters(from, count) => {
                self.registers(code, unit, Table::Input, *from, *count, elapsed)
            }
            Request::WriteSingleCoil(at, on) => {
                self.write(unit, Table::Coil, *at, &[u16::from(*on)])?;
                Ok(echo(request, 5))
            }
            Request::WriteMultipleCoils(at, bits) => {
                let words: Vec<u16> = bits.iter().map(|on| u16::from(*on)).collect();
                self.write(unit, Table::Coil, *at, &words)?;
                Ok(echo(request, 5))
            }
            Request::WriteSingleRegister(at, word) => {
                self.write(unit, Table::Holding, *at, &[*word])?;
                Ok(echo(request, 5))
            }
            Request::WriteMultipleRegisters(at, words) => {
                self.write(unit, Table::Holding, *at, words)?;
                Ok(echo(request, 5))
            }
            Request::MaskWriteRegister(at, and, or) => {
                let held = self.read(unit, Table::Holding, *at, 1, elapsed)?;
                let word = held.first().map_or(0, |held| (held & and) | (or & !and));
                self.write(unit, Table::Holding, *at, &[word])?;
                Ok(echo(request, 7))
            }
            Request::ReadWriteMultipleRegisters(from, count, to, words) => {
                self.read(unit, Table::Holding, *from, *count, elapsed)?;
                self.write(unit, Table::Holding, *to, words)?;
                self.registers(code, unit, Table::Holding, *from, *count, elapsed)
            }
            Request::ReportServerId | Request::ReadDeviceIdentification(..) | Request::Custom(..) => {
                Err(ExceptionCode::IllegalFunction)
            }
        }
    }

    fn bits(
        &self,
        code: u8,
        unit: u8,
        table: Table,
        from: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u8>, ExceptionCode> {
        let bits: Vec<bool> = self.read(unit, table, from, count, elapsed)?.iter().map(|word| *word != 0).collect();
        let mut pdu = vec![code, u8::try_from(bits.len().div_ceil(8)).unwrap_or(u8::MAX)];
        write_bits(&bits, &mut pdu);
        Ok(pdu)
    }

    fn registers(
        &self,
        code: u8,
        unit: u8,
        table: Table,
        from: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u8>, ExceptionCode> {
        let words = self.read(unit, table, from, count, elapsed)?;
        let mut pdu = vec![code, u8::try_from(words.len() * 2).unwrap_or(u8::MAX)];
        write_registers(&words, &mut pdu);
        Ok(pdu)
    }

    fn read(
        &self,
        unit: u8,
        table: Table,
        from: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u16>, ExceptionCode> {
        (0..count).map(|offset| self.word(unit, table, from.checked_add(offset), elapsed)).collect()
    }

    fn word(&self, unit: u8, table: Table, at: Option<u16>, elapsed: Duration) -> Result<u16, ExceptionCode> {
        let cell = at.and_then(|at| self.units.get(&unit)?.get(&(table, at)));
        match cell.ok_or(ExceptionCode::IllegalDataAddress)? {
            Cell::Held(word) => Ok(*word),
            Cell::Wave { point, word } => Ok(self
                .points
                .get(*point)
                .map_or(0, |spec| word_of(spec, self.rules.get(*point), *point, *word, elapsed))),
        }
    }

    fn write(&mut self, unit: u8, table: Table, from: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        let cells = self.units.get_mut(&unit).ok_or(ExceptionCode::IllegalDataAddress)?;
        let addresses = || (0..words.len()).map(|offset| u16::try_from(usize::from(from) + offset).ok());
        if !addresses().all(|at| at.is_some_and(|at| cells.contains_key(&(table, at)))) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        for (at, word) in addresses().flatten().zip(words) {
            cells.insert((table, at), Cell::Held(*word));
        }
        Ok(())
    }
}

fn words(point: &PointSpec) -> usize {
    match point.table {
        Table::Coil | Table::Discrete => 1,
        Table::Input | Table::Holding => usize::from(point.data.registers()),
    }
}

fn word_of(point: &PointSpec, rule: Option<&PointRule>, index: usize, word: usize, elapsed: Duration) -> u16 {
    let value = wave::value(point, rule, u32::try_from(index).unwrap_or(0), elapsed);
    if let (Table::Coil | Table::Discrete, Value::Bool(on)) = (point.table, &value) {
        return u16::from(*on);
    }
    codec::encode(point.data, point.order, &value).ok().and_then(|words| words.get(word).copied()).unwrap_or(0)
}

fn echo(request: &Request<'_>, length: usize) -> Vec<u8> {
    let mut pdu = Vec::new();
    write_request(&request.clone().into_owned(), &mut pdu);
    pdu.truncate(length);
    pdu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        let mut registers = Registers::default();
        for address in 0..4 {
            registers.set(1, Table::Holding, address, address * 10);
            registers.set(1, Table::Coil, address, address % 2);
        }
        registers
    }

    #[test]
    fn written_registers_keep_what_was_written() {
        let mut registers = registers();
        assert_eq!(registers.answer(1, &[6, 0, 1, 0, 99], Duration::ZERO), Some(vec![6, 0, 1, 0, 99]));
        assert_eq!(registers.answer(1, &[3, 0, 0, 0, 2], Duration::ZERO), Some(vec![3, 4, 0, 0, 0, 99]));
        assert_eq!(registers.answer(1, &[1, 0, 0, 0, 4], Duration::ZERO), Some(vec![1, 1, 0b1010]));
    }

    #[test]
    fn a_mask_write_changes_only_its_bits() {
        // Modbus Application Protocol 1.1b3, section 6.16.
        let mut registers = registers();
        registers.set(1, Table::Holding, 4, 0x12);
        registers.answer(1, &[0x16, 0, 4, 0, 0xF2, 0, 0x25], Duration::ZERO);
        assert_eq!(registers.answer(1, &[3, 0, 4, 0, 1], Duration::ZERO), Some(vec![3, 2, 0, 0x17]));
    }

    #[test]
    fn addresses_without_a_point_are_refused_and_absent_units_silent() {
        let mut registers = registers();
        assert_eq!(registers.answer(1, &[3, 0, 3, 0, 2], Duration::ZERO), Some(vec![0x83, 2]));
        assert_eq!(registers.answer(1, &[6, 0, 9, 0, 2], Duration::ZERO), Some(vec![0x86, 2]));
        assert_eq!(registers.answer(2, &[3, 0, 0, 0, 1], Duration::ZERO), None);
    }
}

//! One bus's devices as registers: what is read moves, what was written stays.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_modbus::{ExceptionCode, Request, Response};

use super::wave::Wave;
use crate::config::plan::BusPlan;
use crate::mapping::rule::{Kind, PointRule};
use crate::modbus::codec;
use crate::modbus::pdu::{MAX_BITS, MAX_REGISTERS};
use crate::modbus::spec::{BusSpec, DataType, PointSpec, Table};
use crate::sample::Value;

/// The devices of one bus. Addresses that no point covers are illegal, as on real devices.
pub(super) struct Registers {
    points: Vec<Point>,
    units: Vec<u8>,
    /// By unit, table, address.
    cells: BTreeMap<(u8, Table, u16), u16>,
}

struct Point {
    unit: u8,
    spec: PointSpec,
    rule: PointRule,
    wave: Wave,
    phase: f64,
    /// Written from outside: it keeps that.
    held: bool,
}

/// What a request gets; `None`: silence, because no such unit is there.
pub(super) type Reply = Result<Option<Response>, ExceptionCode>;

impl Registers {
    pub(super) fn new(spec: &BusSpec, bus: &BusPlan) -> Self {
        let count = spec.points.len().max(1) as f64;
        let points = spec.points.iter().zip(&bus.rules).enumerate().filter_map(|(index, (point, rule))| {
            let unit = spec.devices.get(point.device)?.unit;
            let wave = Wave::for_point(rule.unit.as_deref(), &rule.point);
            let phase = index as f64 / count;
            Some(Point { unit, spec: point.clone(), rule: rule.clone(), wave, phase, held: false })
        });
        let units = spec.devices.iter().map(|device| device.unit).collect();
        let mut registers = Self { points: points.collect(), units, cells: BTreeMap::new() };
        registers.advance(Duration::ZERO);
        registers
    }

    /// Brings every point that nobody has written to what it is so long after the start.
    pub(super) fn advance(&mut self, since: Duration) {
        for point in self.points.iter().filter(|point| !point.held) {
            for (offset, word) in (0u16..).zip(point.words(since)) {
                let Some(address) = point.spec.address.checked_add(offset) else { break };
                self.cells.insert((point.unit, point.spec.table, address), word);
            }
        }
    }

    pub(super) fn answer(&mut self, unit: u8, request: &Request<'_>) -> Reply {
        if !self.units.contains(&unit) {
            return Ok(None);
        }
        let response = match request {
            Request::ReadCoils(address, count) => {
                Response::ReadCoils(self.bits(unit, Table::Coil, *address, *count)?)
            }
            Request::ReadDiscreteInputs(address, count) => {
                Response::ReadDiscreteInputs(self.bits(unit, Table::Discrete, *address, *count)?)
            }
            Request::ReadInputRegisters(address, count) => {
                Response::ReadInputRegisters(self.words(unit, Table::Input, *address, *count)?)
            }
            Request::ReadHoldingRegisters(address, count) => {
                Response::ReadHoldingRegisters(self.words(unit, Table::Holding, *address, *count)?)
            }
            Request::WriteSingleCoil(address, on) => {
                self.write(unit, Table::Coil, *address, &[u16::from(*on)])?;
                Response::WriteSingleCoil(*address, *on)
            }
            Request::WriteMultipleCoils(address, bits) => {
                let words: Vec<u16> = bits.iter().map(|bit| u16::from(*bit)).collect();
                self.write(unit, Table::Coil, *address, &words)?;
                Response::WriteMultipleCoils(*address, count_of(&words))
            }
            Request::WriteSingleRegister(address, word) => {
                self.write(unit, Table::Holding, *address, &[*word])?;
                Response::WriteSingleRegister(*address, *word)
            }
            Request::WriteMultipleRegisters(address, words) => {
                self.write(unit, Table::Holding, *address, words)?;
                Response::WriteMultipleRegisters(*address, count_of(words))
            }
            Request::MaskWriteRegister(address, and, or) => {
                let before = self.words(unit, Table::Holding, *address, 1)?.first().copied().unwrap_or(0);
                self.write(unit, Table::Holding, *address, &[(before & and) | (or & !and)])?;
                Response::MaskWriteRegister(*address, *and, *or)
            }
            Request::ReadWriteMultipleRegisters(address, count, write_address, words) => {
                self.write(unit, Table::Holding, *write_address, words)?;
                Response::ReadWriteMultipleRegisters(self.words(unit, Table::Holding, *address, *count)?)
            }
            Request::ReportServerId | Request::ReadDeviceIdentification(..) | Request::Custom(..) => {
                return Err(ExceptionCode::IllegalFunction);
            }
        };
        Ok(Some(response))
    }

    fn words(&self, unit: u8, table: Table, address: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let most = if matches!(table, Table::Coil | Table::Discrete) { MAX_BITS } else { MAX_REGISTERS };
        if count == 0 || count > most {
            return Err(ExceptionCode::IllegalDataValue);
        }
        (0..count)
            .map(|offset| {
                let cell = address.checked_add(offset).and_then(|address| self.cells.get(&(unit, table, address)));
                cell.copied().ok_or(ExceptionCode::IllegalDataAddress)
            })
            .collect()
    }

    fn bits(&self, unit: u8, table: Table, address: u16, count: u16) -> Result<Vec<bool>, ExceptionCode> {
        Ok(self.words(unit, table, address, count)?.into_iter().map(|word| word != 0).collect())
    }

    fn write(&mut self, unit: u8, table: Table, address: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        self.words(unit, table, address, count_of(words))?;
        for (offset, word) in (0u16..).zip(words) {
            self.cells.insert((unit, table, address.saturating_add(offset)), *word);
        }
        let written = u32::from(address)..u32::from(address) + u32::from(count_of(words));
        for point in &mut self.points {
            let first = u32::from(point.spec.address);
            let covers = first < written.end && written.start < first + u32::from(point.spec.data.registers());
            point.held |= point.unit == unit && point.spec.table == table && covers;
        }
        Ok(())
    }
}

impl Point {
    fn words(&self, since: Duration) -> Vec<u16> {
        let registers = usize::from(self.spec.data.registers());
        let turned = self.wave.at(since, self.phase);
        // A writable point waits for its first command somewhere in the middle of its range.
        let value = match &self.rule.write {
            Some(write) => write.min.unwrap_or(0.0).midpoint(write.max.unwrap_or(100.0)),
            None => turned,
        };
        let raw = (value - self.rule.offset) / self.rule.scale;
        let named = || self.rule.map.keys().nth(((since.as_secs() / 20) as usize) % self.rule.map.len().max(1));
        let raw = match self.rule.kind {
            Kind::Bool => Value::Bool((since.as_secs() / 10).is_multiple_of(2) && self.rule.write.is_none()),
            Kind::Integer { min, max } => {
                let whole = named().map_or(raw.round() as i128, |name| i128::from(*name)).clamp(min, max);
                let whole = i64::try_from(whole).unwrap_or(i64::MAX);
                if min < 0 { Value::Int(whole) } else { Value::Uint(whole.unsigned_abs()) }
            }
            Kind::F32 => Value::F32(raw as f32),
            Kind::F64 => Value::F64(raw),
            Kind::Text { .. } => Value::Text("simulated".into()),
        };
        if matches!(self.spec.table, Table::Coil | Table::Discrete) {
            return vec![u16::from(raw == Value::Bool(true))];
        }
        let mut words = self.encode(&raw).unwrap_or_default();
        words.resize(registers, 0);
        words
    }

    fn encode(&self, raw: &Value) -> Option<Vec<u16>> {
        let (data, order) = (self.spec.data, self.spec.order);
        let whole = match (self.spec.bits, raw) {
            (Some(bits), Value::Bool(on)) => Value::Uint(bits.insert(0, u64::from(*on))),
            (Some(bits), Value::Uint(field)) => Value::Uint(bits.insert(0, *field)),
            (_, raw) => raw.clone(),
        };
        // Text longer than its registers is cut.
        let whole = match (data, whole) {
            (DataType::Text { registers }, Value::Text(text)) => {
                Value::Text(text.chars().take(usize::from(registers) * 2).collect::<String>().into())
            }
            (_, whole) => whole,
        };
        codec::encode(data, order, &whole).ok()
    }
}

fn count_of(words: &[u16]) -> u16 {
    u16::try_from(words.len()).unwrap_or(u16::MAX)
}

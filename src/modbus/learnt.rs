//! What a bus has learnt about its devices, to be kept over restarts: points that they refuse, and addresses at which
//! one read must end. Worth nothing once other points or devices are configured.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::spec::{BusSpec, DataType};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    /// Of the devices and points it was learnt with.
    fingerprint: u64,
    /// `PointId::index` of the points that were answered with ILLEGAL DATA ADDRESS.
    pub refused: BTreeSet<u32>,
    /// By lane, addresses at which one read must end and another begin.
    pub cuts: BTreeSet<(usize, u16)>,
}

impl Learnt {
    /// Nothing, about this bus.
    pub fn nothing(spec: &BusSpec) -> Self {
        Self { fingerprint: fingerprint(spec), ..Self::default() }
    }

    /// What was kept about this bus; nothing where it was another then.
    pub fn read(spec: &BusSpec, kept: &[u8]) -> Self {
        let nothing = Self::nothing(spec);
        serde_json::from_slice(kept)
            .ok()
            .filter(|learnt: &Self| learnt.fingerprint == nothing.fingerprint)
            .unwrap_or(nothing)
    }

    /// As it is kept.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// FNV-1a over what decides which addresses are asked for.
fn fingerprint(spec: &BusSpec) -> u64 {
    let devices = spec.devices.iter().flat_map(|device| [u64::from(device.unit), u64::from(device.max_registers)]);
    let points = spec.points.iter().flat_map(|point| {
        let text = u64::from(matches!(point.data, DataType::Text { .. }));
        let [device, table] = [point.device as u64, point.table as u64];
        [device, table, u64::from(point.address), u64::from(point.data.registers()), text]
    });
    let numbers = devices.chain([u64::MAX, u64::from(spec.max_gap)]).chain(points);
    numbers
        .flat_map(u64::to_le_bytes)
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::fixture;
    use crate::modbus::spec::Table;

    #[test]
    fn what_was_learnt_is_read_back_and_forgotten_when_the_mapping_changes() {
        let mut spec = fixture::tcp(0);
        fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 1_000);
        let mut learnt = Learnt::nothing(&spec);
        learnt.refused.insert(0);
        learnt.cuts.insert((0, 7));
        assert_eq!(Learnt::read(&spec, &learnt.write()), learnt);
        assert_eq!(Learnt::read(&spec, b"no json"), Learnt::nothing(&spec));
        let mut slower = spec.clone();
        slower.points[0].interval *= 2;
        assert_eq!(Learnt::read(&slower, &learnt.write()), learnt, "when it is asked makes no difference");
        spec.points[0].address = 1;
        assert_eq!(Learnt::read(&spec, &learnt.write()), Learnt::nothing(&spec));
    }
}

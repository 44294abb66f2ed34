//! Small buses for this folder's tests.

use std::path::PathBuf;
use std::time::Duration;

use super::spec::{
    BusSpec, ByteOrder, DataType, DeviceSpec, Endpoint, Framing, Parity, PointSpec, SerialSpec, Table, Transport,
};

fn bus(transport: Transport) -> BusSpec {
    BusSpec {
        name: "bus".into(),
        transport,
        timeout: Duration::from_millis(100),
        retries: 1,
        max_gap: 16,
        turnaround: Duration::ZERO,
        max_in_flight: 1,
        devices: vec![device("a", 1)],
        points: Vec::new(),
    }
}

pub(crate) fn device(name: &str, unit: u8) -> DeviceSpec {
    DeviceSpec { name: name.into(), unit, max_registers: 125 }
}

/// An RTU line with device `a`, unit 1, and no points.
pub(crate) fn serial(baud: u32, parity: Parity) -> BusSpec {
    let path = PathBuf::from("/dev/null");
    bus(Transport::Serial(SerialSpec { path, baud, framing: Framing::Rtu, parity, stop_bits: 1, rs485: false }))
}

/// A Modbus TCP endpoint with device `a`, unit 1, and no points.
pub(crate) fn tcp(port: u16) -> BusSpec {
    bus(Transport::Tcp { address: Endpoint { host: "127.0.0.1".into(), port }, tls: None })
}

/// Adds a point of the last device.
pub(crate) fn point(spec: &mut BusSpec, table: Table, address: u16, data: DataType, interval_ms: u64) {
    spec.points.push(PointSpec {
        name: format!("{table:?}-{address}").into(),
        device: spec.devices.len() - 1,
        table,
        address,
        data,
        order: ByteOrder::Abcd,
        bits: None,
        interval: Duration::from_millis(interval_ms),
        write: None,
    });
}

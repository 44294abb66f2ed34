//! Share of an RTU line's time in use at fastest polling, on a simulated line that keeps the speed of its characters.
//! Prints a table; `cargo bench --bench rtu`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a measurement reads clocks and may fail loudly")]

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use fieldgate::driver::BusEvent;
use fieldgate::modbus::spec::{
    BusSpec, ByteOrder, DataType, DeviceSpec, Framing, Parity, PointSpec, SerialSpec, Table, Transport,
};
use fieldgate::modbus::task::run;
use fieldgate::modbus::timing::Timing;
use fieldgate::sample::BusId;
use fieldgate::simulate::fault::Faults;
use fieldgate::simulate::modbus::Registers;
use fieldgate::simulate::task::{Bench, Speech, open_pty, serve};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(8);

fn spec(path: PathBuf, baud: u32, registers: u16) -> BusSpec {
    let serial = SerialSpec { path, baud, framing: Framing::Rtu, parity: Parity::None, stop_bits: 1, rs485: false };
    let points = (0..registers).map(|address| PointSpec {
        name: format!("r{address}").into(),
        device: 0,
        table: Table::Holding,
        address,
        data: DataType::U16,
        order: ByteOrder::Abcd,
        bits: None,
        interval: Duration::from_millis(1),
        write: None,
    });
    BusSpec {
        name: "line".into(),
        transport: Transport::Serial(serial),
        timeout: Duration::from_millis(500),
        retries: 1,
        max_gap: 16,
        turnaround: Duration::ZERO,
        max_in_flight: 1,
        devices: vec![DeviceSpec { name: "meter".into(), unit: 1, max_registers: 125 }],
        points: points.collect(),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

/// The devices' end in a thread of its own, as it would be on another machine; gives the gateway's end.
fn lay_line(baud: u32, registers: u16) -> PathBuf {
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || {
        block_on(async move {
            let (near, path) = open_pty().unwrap();
            tell.send(path.clone()).unwrap();
            let spec = spec(path, baud, registers);
            let bench = Bench::new(Registers::of(&spec, &[]), Faults::none(), Timing::of(&spec).character());
            serve(near, bench, Speech::Rtu).await.unwrap();
        });
    });
    told.recv().unwrap()
}

/// Polls a second, and their share of the line's time in percent.
fn measure(baud: u32, registers: u16) -> (f64, f64) {
    let spec = spec(lay_line(baud, registers), baud, registers);
    let one = Timing::of(&spec).read(Table::Holding, registers);
    block_on(async move {
        let (events, mut heard) = mpsc::channel(64);
        let (_orders, commands) = mpsc::channel(1);
        let bus = tokio::task::spawn_local(run(spec, BusId(0), events, commands));
        let (mut polls, mut from) = (0_u32, Instant::now() + WARM_UP);
        let end = from + MEASURED;
        let mut last = from;
        while let Some(event) = heard.recv().await {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if let BusEvent::Samples(_, samples) = event
                && now >= from
            {
                assert!(samples.iter().all(|sample| sample.reading.is_ok()), "a fault on a sound line");
                // The first answer only starts the clock.
                if polls == 0 {
                    from = now;
                }
                polls += 1;
                last = now;
            }
        }
        bus.abort();
        let rate = f64::from(polls.saturating_sub(1)) / (last - from).as_secs_f64();
        (rate, rate * one.as_secs_f64() * 100.0)
    })
}

fn main() {
    println!("{:>7} {:>9} {:>9} {:>10}", "baud", "registers", "polls/s", "line use %");
    for (baud, registers) in [(19_200, 50), (19_200, 10), (115_200, 50), (115_200, 10)] {
        let (rate, share) = measure(baud, registers);
        println!("{baud:>7} {registers:>9} {rate:>9.1} {share:>10.2}");
    }
}

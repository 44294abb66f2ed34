//! The real bus task against simulated devices, healthy and not.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::fault::{FaultKind, Faults, Rule};
use super::modbus::Registers;
use super::task::{Bench, Speech, open_pty, serve, serve_port};
use crate::clock::Now;
use crate::command::{Command, CommandId, Done, NotDone};
use crate::driver::{BusEvent, BusStatus, DeviceState, LinkState};
use crate::modbus::connect::task::open_serial;
use crate::modbus::fixture;
use crate::modbus::spec::{BusSpec, DataType, Endpoint, Parity, Table, Transport, WriteFunction, WriteSpec};
use crate::modbus::task::{run, run_over};
use crate::sample::{BitRange, BusId, Fault, PointId, Sample, Value};

const BUS: BusId = BusId(7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Tcp,
    RtuOverTcp,
    Pty,
}

/// Starts devices that answer over `over`, and points the spec at them.
async fn start(over: Over, spec: &mut BusSpec, registers: Registers, faults: Faults) {
    let bench = Bench::new(registers, faults, Duration::ZERO);
    if over == Over::Pty {
        let (pty, path) = open_pty().unwrap();
        tokio::task::spawn_local(serve(pty, bench, Speech::Rtu));
        let Transport::Serial(serial) = &mut spec.transport else { panic!("a serial spec") };
        serial.path = path;
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Endpoint { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    if over == Over::Tcp {
        spec.transport = Transport::Tcp { address, tls: None };
        tokio::task::spawn_local(serve_port(listener, bench, Speech::Tcp, None));
    } else {
        spec.transport = Transport::RtuOverTcp { address };
        tokio::task::spawn_local(serve_port(listener, bench, Speech::Rtu, None));
    }
}

struct Driven {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<BusEvent>,
    task: tokio::task::JoinHandle<()>,
}

fn drive(spec: BusSpec) -> Driven {
    let (commands, orders) = mpsc::channel(64);
    let (tell, events) = mpsc::channel(256);
    Driven { commands, events, task: tokio::task::spawn_local(run(spec, BUS, tell, orders)) }
}

impl Driven {
    async fn event(&mut self) -> BusEvent {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv())
            .await
            .expect("an event")
            .expect("a running bus")
    }

    async fn samples(&mut self) -> Vec<Sample> {
        loop {
            if let BusEvent::Samples(_, samples) = self.event().await {
                return samples;
            }
        }
    }

    async fn status(&mut self, wanted: impl Fn(&BusStatus) -> bool) -> BusStatus {
        loop {
            if let BusEvent::Status(_, status) = self.event().await
                && wanted(&status)
            {
                return status;
            }
        }
    }

    async fn outcome(&mut self, command: Command) -> Result<Done, NotDone> {
        let id = command.id;
        self.commands.send(command).await.unwrap();
        loop {
            if let BusEvent::Outcome(_, outcome) = self.event().await {
                assert_eq!(outcome.id, id);
                return outcome.result;
            }
        }
    }
}

fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn command(id: u64, index: u32, raw: Value) -> Command {
    let expires = Now::read().mono + Duration::from_secs(5);
    Command { id: CommandId(id), point: PointId { bus: BUS, index }, raw, expires, readback: true, unless_equal: false }
}

/// Three units of ten registers, four apart so that each is a request of its own; each register tells whose it is.
fn telling(percent: u8, seed: u64, timeout: Duration) -> (BusSpec, Registers, Faults) {
    let mut spec = fixture::serial(115_200, Parity::None);
    spec.timeout = timeout;
    spec.max_gap = 0;
    spec.devices.clear();
    let mut registers = Registers::default();
    for unit in 1..=3_u8 {
        spec.devices.push(fixture::device(&format!("unit-{unit}"), unit));
        for address in (0..40).step_by(4) {
            fixture::point(&mut spec, Table::Holding, address, DataType::U16, 1);
            registers.set(unit, Table::Holding, address, told(unit, address));
        }
    }
    let faults = Faults::new(seed, vec![Rule { unit: None, kinds: FaultKind::all(), percent }], timeout);
    (spec, registers, faults)
}

fn told(unit: u8, address: u16) -> u16 {
    u16::from(unit) * 1000 + address
}

/// Takes what a bus of [`telling`] says for `long`: how many right values came, and its last status. A wrong value
/// fails the test.
async fn watch(mut events: mpsc::Receiver<BusEvent>, long: Duration) -> (u64, BusStatus) {
    let (mut right, mut last) = (0, None);
    let end = (Now::read().mono + long).into();
    while let Ok(Some(event)) = tokio::time::timeout_at(end, events.recv()).await {
        match event {
            BusEvent::Samples(_, samples) => {
                for Sample { point, reading, .. } in samples {
                    let (unit, place) = (point.index / 10 + 1, point.index % 10);
                    let expected = told(u8::try_from(unit).unwrap(), u16::try_from(place * 4).unwrap());
                    if let Ok(value) = reading {
                        assert_eq!(value, Value::Uint(u64::from(expected)), "point {}", point.index);
                        right += 1;
                    }
                }
            }
            BusEvent::Status(_, status) => last = Some(status),
            BusEvent::Outcome(..) | BusEvent::Learnt(..) => {}
        }
    }
    (right, last.expect("a status"))
}

/// In invented time.
fn invented<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// Drives devices at the other end of a pipe.
fn drive_over_a_pipe(spec: BusSpec, registers: Registers, faults: Faults) -> Driven {
    let (near, far) = tokio::io::duplex(4096);
    tokio::task::spawn_local(serve(far, Bench::new(registers, faults, Duration::ZERO), Speech::Rtu));
    let (commands, orders) = mpsc::channel(64);
    let (tell, events) = mpsc::channel(256);
    Driven { commands, events, task: tokio::task::spawn_local(run_over(near, spec, BUS, tell, orders)) }
}

/// Many faults in a moment.
fn survive_in_invented_time(seed: u64, timeout: Duration) -> (u64, BusStatus) {
    invented(async {
        let (spec, registers, faults) = telling(20, seed, timeout);
        let Driven { events, commands: _commands, .. } = drive_over_a_pipe(spec, registers, faults);
        watch(events, Duration::from_secs(3_000)).await
    })
}

#[test]
fn a_value_is_never_another_registers_on_a_line() {
    // Shorter than the drain, and longer: then only the hold on the device keeps a late answer apart.
    for (seed, timeout_ms) in [(1, 12), (2, 200)] {
        let (right, status) = survive_in_invented_time(seed, Duration::from_millis(timeout_ms));
        let faulty = status.counters.discarded + status.counters.timeouts;
        assert!(right > 2_000 && faulty > 1_000, "{timeout_ms} ms: {right} {:?}", status.counters);
    }
}

/// Over the real thing: `percent` of the answers spoilt.
fn survive(over: Over, percent: u8, seed: u64, long: Duration) -> (u64, BusStatus) {
    local(async {
        let (mut spec, registers, faults) = telling(percent, seed, Duration::from_millis(12));
        start(over, &mut spec, registers, faults).await;
        let (_commands, orders) = mpsc::channel(1);
        let (tell, events) = mpsc::channel(256);
        tokio::task::spawn_local(run(spec, BUS, tell, orders));
        watch(events, long).await
    })
}

#[test]
fn a_value_is_never_another_registers_over_tcp() {
    let (right, status) = survive(Over::Tcp, 30, 1, Duration::from_secs(3));
    assert!(right > 100 && status.counters.discarded > 30, "{right} {:?}", status.counters);
}

#[test]
fn a_value_is_never_another_registers_on_a_terminal() {
    let (right, status) = survive(Over::Pty, 20, 2, Duration::from_secs(3));
    assert!(right > 30 && status.counters.discarded > 10, "{right} {:?}", status.counters);
}

#[test]
fn a_value_is_never_another_registers_through_a_converter() {
    let (right, status) = survive(Over::RtuOverTcp, 20, 3, Duration::from_secs(3));
    assert!(right > 30 && status.counters.discarded > 10, "{right} {:?}", status.counters);
}

fn writable(spec: &mut BusSpec, data: DataType, address: u16, function: WriteFunction, bits: Option<BitRange>) {
    fixture::point(spec, Table::Holding, address, data, 50);
    let point = spec.points.last_mut().unwrap();
    point.write = Some(WriteSpec { function });
    point.bits = bits;
}

#[test]
fn commands_write_by_each_function_and_read_back_on_every_transport() {
    for over in [Over::Tcp, Over::RtuOverTcp, Over::Pty] {
        local(async {
            let mut spec = fixture::serial(115_200, Parity::None);
            writable(&mut spec, DataType::U16, 0, WriteFunction::Auto, None);
            writable(&mut spec, DataType::F32, 1, WriteFunction::Auto, None);
            writable(&mut spec, DataType::U16, 3, WriteFunction::Multiple, None);
            writable(&mut spec, DataType::U16, 4, WriteFunction::Mask, BitRange::new(4, 7));
            writable(&mut spec, DataType::U16, 4, WriteFunction::Auto, BitRange::new(8, 11));
            writable(&mut spec, DataType::I32, 5, WriteFunction::ReadWrite, None);
            fixture::point(&mut spec, Table::Coil, 9, DataType::Bool, 50);
            spec.points.last_mut().unwrap().write = Some(WriteSpec { function: WriteFunction::Auto });
            let mut registers = Registers::of(&spec, &[]);
            registers.set(1, Table::Holding, 4, 0xF00F);
            start(over, &mut spec, registers, Faults::none()).await;
            let mut driven = drive(spec);
            driven.status(|status| status.state == LinkState::Up).await;
            let done = |value| Ok(Done { readback: Some(value) });
            for (index, raw, readback) in [
                (0, Value::Uint(42), Value::Uint(42)),
                (1, Value::F32(1.5), Value::F32(1.5)),
                (2, Value::Uint(43), Value::Uint(43)),
                (3, Value::Uint(0xA), Value::Uint(0xF0AF)),
                (4, Value::Uint(0xB), Value::Uint(0xFBAF)),
                (5, Value::Int(-7), Value::Int(-7)),
                (6, Value::Bool(true), Value::Bool(true)),
            ] {
                let outcome = driven.outcome(command(u64::from(index), index, raw)).await;
                assert_eq!(outcome, done(readback), "{over:?} point {index}");
            }
            let refused = driven.outcome(command(9, 0, Value::Uint(70_000))).await;
            assert_eq!(refused, Err(NotDone::Fault(Fault::BadValue)));
            let late = Command { expires: Now::read().mono, ..command(10, 0, Value::Uint(1)) };
            assert_eq!(driven.outcome(late).await, Err(NotDone::Expired));
        });
    }
}

#[test]
fn an_address_that_the_device_has_not_costs_only_its_own_point() {
    local(async {
        let mut spec = fixture::tcp(0);
        for address in 0..12 {
            fixture::point(&mut spec, Table::Holding, address, DataType::U16, 20);
        }
        let mut registers = Registers::default();
        for address in (0..12).filter(|address| *address != 7) {
            registers.set(1, Table::Holding, address, address);
        }
        start(Over::Tcp, &mut spec, registers, Faults::none()).await;
        let mut driven = drive(spec);
        let mut seen = vec![None; 12];
        while seen.iter().any(Option::is_none) {
            for sample in driven.samples().await {
                seen[usize::try_from(sample.point.index).unwrap()] = Some(sample.reading);
            }
        }
        for (address, reading) in (0_u64..).zip(seen.into_iter().flatten()) {
            let expected = if address == 7 { Err(Fault::IllegalAddress) } else { Ok(Value::Uint(address)) };
            assert_eq!(reading, expected, "{address}");
        }
        // From then on two reads a round answer the eleven others.
        let after = driven.status(|status| status.counters.exceptions > 0).await.counters;
        let later = driven.status(|status| status.counters.requests > after.requests + 20).await.counters;
        assert_eq!(later.exceptions, after.exceptions);
    });
}

#[test]
fn a_silent_device_is_told_once_and_its_neighbour_goes_on() {
    invented(async {
        let mut spec = fixture::serial(115_200, Parity::None);
        spec.timeout = Duration::from_millis(30);
        fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 20);
        spec.devices.push(fixture::device("gone", 2));
        fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 20);
        let mut registers = Registers::default();
        registers.set(1, Table::Holding, 0, 5);
        let mut driven = drive_over_a_pipe(spec, registers, Faults::none());
        let offline = |status: &BusStatus| status.devices[1].state == DeviceState::Offline;
        driven.status(offline).await;
        let (mut polls, mut faults) = (0, 0);
        let end = Now::read().mono + Duration::from_secs(2);
        while Now::read().mono < end {
            for sample in driven.samples().await {
                match sample.reading {
                    Ok(_) => polls += 1,
                    Err(fault) => {
                        assert_eq!((sample.point.index, fault), (1, Fault::Timeout));
                        faults += 1;
                    }
                }
            }
        }
        assert!(polls >= 90 && faults <= 1, "{polls} polls, {faults} faults");
    });
}

#[test]
fn a_peer_that_speaks_something_else_is_left_alone_for_a_while() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut spec = fixture::tcp(listener.local_addr().unwrap().port());
        fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 1);
        let mut driven = drive(spec);
        let mut connections = 0;
        let end = (Now::read().mono + Duration::from_secs(1)).into();
        while let Ok(Ok((mut stream, _))) = tokio::time::timeout_at(end, listener.accept()).await {
            connections += 1;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
            while driven.events.try_recv().is_ok() {}
        }
        assert!((1..=4).contains(&connections), "{connections}");
    });
}

#[test]
fn every_command_gets_its_outcome_when_the_line_is_not_there_and_when_the_bus_ends() {
    local(async {
        let mut spec = fixture::serial(9_600, Parity::None);
        writable(&mut spec, DataType::U16, 0, WriteFunction::Auto, None);
        let Transport::Serial(serial) = &mut spec.transport else { panic!("a serial spec") };
        serial.path = "/nonexistent/tty".into();
        let mut driven = drive(spec);
        let status = driven.status(|status| status.state == LinkState::Down).await;
        assert!(status.last_error.unwrap().contains("is not there"));
        let outcome = driven.outcome(command(1, 0, Value::Uint(1))).await;
        assert_eq!(outcome, Err(NotDone::Fault(Fault::Disconnected)));
        for id in 2..10 {
            driven.commands.send(command(id, 0, Value::Uint(1))).await.unwrap();
        }
        let Driven { commands, mut events, task } = driven;
        drop(commands);
        task.await.unwrap();
        let mut outcomes = 0;
        while let Some(event) = events.recv().await {
            outcomes += u32::from(matches!(event, BusEvent::Outcome(..)));
        }
        assert_eq!(outcomes, 8);
    });
}

#[test]
fn a_port_that_another_holds_and_a_file_that_is_no_port_say_so() {
    local(async {
        let (_pty, path) = open_pty().unwrap();
        let serial = |path: std::path::PathBuf| {
            let Transport::Serial(serial) = fixture::serial(9_600, Parity::None).transport else { panic!("serial") };
            crate::modbus::spec::SerialSpec { path, ..serial }
        };
        let held = open_serial(&serial(path.clone())).unwrap();
        let refused = open_serial(&serial(path)).unwrap_err().to_string();
        assert!(refused.contains("in use by another program"), "{refused}");
        drop(held);
        let refused = open_serial(&serial("/etc/passwd".into())).unwrap_err().to_string();
        assert!(refused.contains("no serial port"), "{refused}");
    });
}

//! Frames a second from the bytes that a socket brings, by a DBC file, to what a local MQTT client is sent: the driver's
//! state machine alone, and the whole gateway. `cargo bench --bench can [-- FRAMES [SIGNALS]]`; with SIGNALS (1 or 13)
//! that one way through the gateway only, as `tests/bench/can` counts its instructions.
#![allow(clippy::panic, reason = "a benchmark whose own files are wrong has nothing to measure")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldgate::broker::{Broker, ConnId, Input, Output as BrokerOutput, Peer, Restored};
use fieldgate::can::bus::Bus;
use fieldgate::can::frame::{CanId, Frame, Received};
use fieldgate::clock::Now;
use fieldgate::clocksync::ClockState;
use fieldgate::config::plan::{DriverSpec, Plan};
use fieldgate::config::{Environment, Files, compile};
use fieldgate::driver::BusEvent;
use fieldgate::gateway::core::{Core, Output};
use fieldgate::mapping::publish::Boot;
use fieldgate::sample::BusId;

/// Messages of the DBC file, with identifiers from 0x100 on.
const MESSAGES: u32 = 100;
/// Frames in one read of the socket, about.
const BATCH: u32 = 8;
const BUS: BusId = BusId(1);
const CLIENT: ConnId = ConnId(1);

#[allow(clippy::print_stdout, reason = "it prints the table")]
fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u32>().ok());
    let frames = numbers.next().unwrap_or(500_000);
    if let Some(signals) = numbers.next() {
        let (rate, messages) = through_the_gateway(&plan(signals, 0), frames);
        println!("{rate:.0} frames/s, {messages} messages");
        return;
    }
    println!("{:<66} {:>10} {:>10}", "", "frames/s", "messages");
    for (signals, min_interval) in [(1, 0), (13, 0), (1, 100), (13, 100)] {
        let plan = plan(signals, min_interval);
        let (rate, samples) = driver_alone(&plan, frames);
        println!("{:<66} {rate:>10.0} {samples:>10}", what("driver alone", signals, min_interval));
        let (rate, messages) = through_the_gateway(&plan, frames);
        println!("{:<66} {rate:>10.0} {messages:>10}", what("to a local subscriber", signals, min_interval));
    }
}

fn what(way: &str, signals: u32, min_interval: u32) -> String {
    format!("{way}, {signals} signal(s) a frame, min_interval {min_interval} ms")
}

/// The files of a gateway in memory.
struct Memory {
    mapping: String,
    dbc: String,
}

const GATEWAY: &str = "[gateway]\nid = 'pi-1'\nmappings = ['m.toml']\nstate_dir = '/nonexistent'\n\
    [[broker.listener]]\nbind = '127.0.0.1:1883'\n[broker.anonymous]\nsubscribe = ['#']\n";

impl Files for Memory {
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = match path.extension().and_then(|extension| extension.to_str()) {
            Some("dbc") => &self.dbc,
            Some(_) | None if path.ends_with("m.toml") => &self.mapping,
            Some(_) | None => GATEWAY,
        };
        Ok(text.as_bytes().to_vec())
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }

    fn find(&self, _: &Path, _: &str) -> Result<Vec<PathBuf>, String> {
        Ok(vec!["m.toml".into()])
    }
}

/// Alternating byte orders, none over another; scaled, with a unit.
fn plan(signals: u32, min_interval: u32) -> Plan {
    let mut dbc = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_: ECU\n\n".to_owned();
    let mut mapping =
        "[[can]]\nname = 'v'\ninterface = 'can0'\ndbc = 'v.dbc'\ntopic = 'car/{gateway}/{signal}'\n".to_owned();
    for message in 0..MESSAGES {
        let _ = writeln!(dbc, "BO_ {} M{message}: 8 ECU", 0x100 + message);
        for signal in 0..signals {
            let order = 1 - signal % 2;
            let start = signal * 4 + if order == 0 { 3 } else { 0 };
            let _ = writeln!(dbc, " SG_ M{message}S{signal} : {start}|4@{order}+ (0.25,-40) [0|0] \"km/h\" ECU");
        }
        let _ = writeln!(dbc);
        let _ = writeln!(
            mapping,
            "[[can.signal]]\nmessage = 'M{message}'\nsignal = '*'\nmin_interval_ms = {min_interval}\ntimeout_ms = 1000"
        );
    }
    let environment = Environment { host_name: "pi-1".to_owned(), ..Environment::default() };
    let outcome = compile(Path::new("g.toml"), &environment, &Memory { mapping, dbc });
    outcome.plan.unwrap_or_else(|| panic!("{:?}", outcome.diagnostics))
}

fn wires() -> Vec<([u8; 72], usize)> {
    let ids = (0..MESSAGES).filter_map(|at| CanId::standard(0x100 + at));
    ids.filter_map(|id| Frame::classic(id, &[1, 2, 3, 4, 5, 6, 7, 8])).map(|frame| frame.to_wire()).collect()
}

/// The frames of a full 1 Mbit/s bus, read some at a time: calls `batch` with the moment of each read.
fn drive(plan: &Plan, frames: u32, mut batch: impl FnMut(&mut Bus, Now)) -> f64 {
    let DriverSpec::Can(spec) = &plan.buses[0].driver else { panic!("the plan's bus is CAN") };
    let start = Now::read();
    let mut bus = Bus::new(spec, BUS, start);
    bus.link_up(start);
    let wires = wires();
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures")]
    let begin = Instant::now();
    for (number, (wire, length)) in (0..frames).zip(wires.iter().cycle()) {
        let now = start.after(Duration::from_micros(u64::from(number / BATCH) * u64::from(BATCH) * 119));
        bus.handle(black_box(&Received::from_wire(&wire[..*length])), now.wall, now);
        if number % BATCH == BATCH - 1 {
            bus.handle_timeout(now);
            batch(&mut bus, now);
        }
    }
    f64::from(frames) / begin.elapsed().as_secs_f64()
}

fn driver_alone(plan: &Plan, frames: u32) -> (f64, usize) {
    let mut samples = 0;
    let rate = drive(plan, frames, |bus, _| samples += black_box(bus.take_samples()).len());
    (rate, samples)
}

fn through_the_gateway(plan: &Plan, frames: u32) -> (f64, usize) {
    let now = Now::read();
    let spec = plan.broker.clone().unwrap_or_else(|| panic!("the plan has a broker"));
    let broker = Broker::new(now, "pi-1", spec, Restored::default());
    let mut core =
        Core::new(Boot::new("k3f9"), ClockState::Synced, Default::default(), plan.store.commit_window, Some(broker));
    core.add_bus(BUS, Arc::new(plan.buses[0].clone()));
    let peer = Peer { address: ([127, 0, 0, 1], 5000).into(), listener: 0, certificate_user: None };
    core.client(now, Input::Connected { conn: CLIENT, peer });
    for packet in [&b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c"[..], b"\x82\x06\x00\x01\x00\x01#\x00"] {
        core.client(now, Input::Bytes { conn: CLIENT, data: bytes::Bytes::from_static(packet) });
        sent(&mut core, now);
    }
    let (mut messages, mut bytes) = (0, 0);
    let rate = drive(plan, frames, |bus, now| {
        let samples = bus.take_samples();
        messages += samples.len();
        if !samples.is_empty() {
            core.bus(now, BusEvent::Samples(BUS, samples));
        }
        if core.next_timeout().is_some_and(|at| at <= now.mono) {
            core.handle_timeout(now);
        }
        core.finish_turn(now);
        bytes += sent(&mut core, now);
    });
    assert!(bytes > messages * 100, "{messages} messages became {bytes} bytes: they were not all sent");
    (rate, messages)
}

/// What goes to the socket is taken at once; its bytes.
fn sent(core: &mut Core, now: Now) -> usize {
    let mut bytes = 0;
    while let Some(output) = core.poll_output() {
        if let Output::Net(BrokerOutput::Send { conn, data }) = output {
            bytes += data.len();
            core.client(now, Input::Written { conn, bytes: black_box(data).len() });
        }
    }
    bytes
}

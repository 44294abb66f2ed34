//! Frames a second through the CAN driver's state machine: bytes as the socket brings them, to samples.

use std::hint::black_box;
use std::time::{Duration, Instant};

use fieldgate::can::bus::Bus;
use fieldgate::can::frame::{CanId, Frame, Received};
use fieldgate::can::signal::{BitOrder, Layout, Number};
use fieldgate::can::spec::{BusSpec, CanPoint, FrameMatch, SignalSpec, Source};
use fieldgate::clock::Now;
use fieldgate::sample::BusId;

const FRAMES: u32 = 2_000_000;

#[allow(clippy::print_stdout, reason = "it prints the table")]
fn main() {
    println!("{:<46} {:>12} {:>10}", "", "frames/s", "samples");
    for (signals, min_interval) in [(1, 0), (13, 0), (1, 100), (13, 100)] {
        let (rate, samples) = run(signals, Duration::from_millis(min_interval));
        let what = format!("{signals} signal(s) a frame, min_interval {min_interval} ms");
        println!("{what:<46} {rate:>12.0} {samples:>10}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures")]
fn run(signals: u64, min_interval: Duration) -> (f64, usize) {
    let ids: Vec<_> = (0..100).filter_map(|at| CanId::standard(0x100 + at)).collect();
    let mut points = Vec::new();
    for id in &ids {
        for place in 0..signals {
            let order = if place % 2 == 0 { BitOrder::Little } else { BitOrder::Big };
            let Ok(layout) = Layout::new(place * 4 + 3, 9, order, Number::Unsigned) else { continue };
            let source = Source::Signal(SignalSpec { from: FrameMatch::Id(*id), layout, when: Vec::new() });
            points.push(CanPoint { name: "p".into(), source, min_interval, timeout: Some(Duration::from_secs(1)) });
        }
    }
    let now = Now::read();
    let spec = BusSpec { name: "bus".into(), interface: "none".into(), fd: false, points };
    let mut bus = Bus::new(&spec, BusId(0), now);
    bus.link_up(now);
    let wires: Vec<_> = ids
        .iter()
        .filter_map(|id| Frame::classic(*id, &[1, 2, 3, 4, 5, 6, 7, 8]))
        .map(|frame| frame.to_wire())
        .collect();
    let mut samples = 0;
    let begin = Instant::now();
    for (number, (wire, length)) in (0..FRAMES).zip(wires.iter().cycle()) {
        // The frames of a full 1 Mbit/s bus, read eight at a time.
        let now = now.after(Duration::from_micros(u64::from(number / 8) * 952));
        bus.handle(black_box(&Received::from_wire(&wire[..*length])), now.wall, now);
        if number % 8 == 7 {
            bus.handle_timeout(now);
            samples += black_box(bus.take_samples()).len();
        }
    }
    (f64::from(FRAMES) / begin.elapsed().as_secs_f64(), samples)
}

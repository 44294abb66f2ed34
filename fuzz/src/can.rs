//! Frames as the kernel gives them, into the vehicle's bus: signals, ISO-TP answers, error frames.

use std::time::Duration;

use fieldgate::can::bus::Bus;
use fieldgate::can::frame::Received;
use fieldgate::clock::Now;
use fieldgate::config::plan::DriverSpec;
use fieldgate::sample::BusId;

use super::Pieces;
use super::mapping::vehicle;

pub fn run(data: &[u8]) {
    let plan = vehicle();
    let DriverSpec::Can(spec) = &plan.buses[0].driver else { return };
    let mut now = Now::read();
    let mut bus = Bus::new(spec, BusId(1), now);
    bus.link_up(now);
    for (ms, wire) in Pieces(data) {
        now = now.after(Duration::from_millis(u64::from(ms)));
        bus.handle_timeout(now);
        for _ in 0..16 {
            if bus.poll_transmit(now).is_none() {
                break;
            }
            bus.transmitted(now);
        }
        bus.handle(&Received::from_wire(wire), now.wall, now);
        for sample in bus.take_samples() {
            assert!((sample.point.index as usize) < spec.points.len());
        }
        bus.take_outcomes();
    }
    bus.link_down("gone".to_owned(), now);
    let _ = (bus.status(), bus.next_due());
}

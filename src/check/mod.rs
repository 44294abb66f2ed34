//! `fieldgate check`: every mistake of every file, what each bus will be asked, and the mappings' own tests.

mod cases;
mod print;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::can;
use crate::can::filter::filters;
use crate::can::spec::Source;
use crate::clock::Now;
use crate::config::plan::{BusPlan, DriverSpec, Plan};
use crate::config::{Diagnostic, Outcome};
use crate::modbus::plan::{self as modbus_plan, PlannedRequest};
use crate::modbus::spec::{BusSpec, SerialSpec, Table, Transport};

pub use print::text;

/// All that is known of a configuration without running it. Its JSON form is what `check --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether `run` takes it.
    pub valid: bool,
    pub diagnostics: Vec<Diagnostic>,
    pub buses: Vec<BusReport>,
    pub tests: Vec<TestReport>,
}

#[derive(Debug, Serialize)]
pub struct BusReport {
    pub name: Arc<str>,
    /// Where it is: a serial device, a host and port, a CAN interface.
    pub line: String,
    /// Of a CAN bus only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can: Option<CanReport>,
    /// Read requests that one round over all points takes.
    pub requests: Vec<RequestReport>,
    pub cycle_ms: f64,
    /// Of the line's time; none where that is not the limit (TCP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilisation_percent: Option<f64>,
    pub points: Vec<PointReport>,
}

/// What a CAN bus is listened to for and asked.
#[derive(Debug, Serialize)]
pub struct CanReport {
    /// That pass the kernel: identifiers and parameter groups.
    pub filters: usize,
    pub signals: usize,
    pub requests: usize,
    pub commands: usize,
    /// Of all requests together, where each is answered within its interval.
    pub requests_per_second: f64,
}

#[derive(Debug, Serialize)]
pub struct RequestReport {
    pub device: Arc<str>,
    pub unit: u8,
    pub function_code: u8,
    pub address: u16,
    pub count: u16,
    pub interval_ms: u64,
    pub line_time_ms: f64,
}

#[derive(Debug, Serialize)]
pub struct PointReport {
    pub topic: Arc<str>,
    pub device: Arc<str>,
    pub point: Arc<str>,
    pub writable: bool,
}

#[derive(Debug, Serialize)]
pub struct TestReport {
    pub name: String,
    pub place: String,
    pub passed: bool,
    /// What was published instead.
    pub failures: Vec<String>,
}

impl Report {
    /// The command's exit status: 2 where the files do not check, 1 where a test failed.
    pub fn exit_status(&self) -> u8 {
        match (self.valid, self.tests.iter().all(|test| test.passed)) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }
}

/// Adds to the outcome of a configuration what only the drivers know, so that `run` refuses what `check` refuses:
/// a line that cannot keep its intervals has no plan.
#[must_use]
pub fn with_loads(mut outcome: Outcome) -> Outcome {
    let Some(plan) = &outcome.plan else { return outcome };
    let overloads: Vec<Diagnostic> =
        plan.buses.iter().zip(&outcome.bus_places).filter_map(|(bus, place)| overload(bus, place)).collect();
    if !overloads.is_empty() {
        outcome.plan = None;
        outcome.diagnostics.extend(overloads);
        outcome.diagnostics.sort_by(|a, b| a.place.cmp(&b.place));
    }
    outcome
}

fn overload(bus: &BusPlan, place: &crate::config::Place) -> Option<Diagnostic> {
    let DriverSpec::Modbus(spec) = &bus.driver else { return None };
    let percent = modbus_plan::load(spec).utilisation_percent.filter(|percent| *percent > 100.0)?;
    let factor = percent / 100.0;
    let found = format!("bus {:?} cannot keep its intervals: they need {percent:.0} % of the line's time", spec.name);
    let baud = faster(spec).map(|baud| format!(", or {baud} baud")).unwrap_or_default();
    // Rounded up: what is advised must do.
    let factor = (factor * 10.0).ceil() / 10.0;
    Some(
        Diagnostic::error(place, found)
            .expected("at most 100 %")
            .help(format!("write intervals that are {factor:.1} times as long{baud}, or move devices to another line")),
    )
}

/// The lowest usual speed at which a serial line keeps its intervals; `None` where no speed helps, as the pauses
/// between frames no longer shrink.
fn faster(spec: &BusSpec) -> Option<u32> {
    const USUAL: [u32; 9] = [4_800, 9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600];
    let Transport::Serial(serial) = &spec.transport else { return None };
    USUAL.into_iter().filter(|baud| *baud > serial.baud).find(|baud| {
        let transport = Transport::Serial(SerialSpec { baud: *baud, ..serial.clone() });
        let faster = BusSpec { transport, ..spec.clone() };
        modbus_plan::load(&faster).utilisation_percent.is_some_and(|percent| percent <= 100.0)
    })
}

/// Everything about a configuration that [`with_loads`] has been through.
pub fn report(outcome: Outcome, now: Now) -> Report {
    let (buses, tests) = outcome.plan.as_ref().map_or_else(Default::default, |plan| {
        let tests = plan.tests.iter().map(|case| {
            let failures = cases::run(plan, case, now);
            TestReport { name: case.name.clone(), place: case.place.clone(), passed: failures.is_empty(), failures }
        });
        (plan.buses.iter().map(bus).collect(), tests.collect())
    });
    Report { valid: outcome.plan.is_some(), diagnostics: outcome.diagnostics, buses, tests }
}

/// The tests of a plan, for profiles and their like: the failures of each that failed, with its place.
pub fn failed_tests(plan: &Plan, now: Now) -> Vec<String> {
    let failed = |case: &crate::config::plan::TestCase| {
        let failures = cases::run(plan, case, now);
        (!failures.is_empty()).then(|| format!("{}: {}: {}", case.place, case.name, failures.join("; ")))
    };
    plan.tests.iter().filter_map(failed).collect()
}

fn bus(bus: &BusPlan) -> BusReport {
    let (line, load) = match &bus.driver {
        DriverSpec::Modbus(spec) => {
            let load = modbus_plan::load(spec);
            let requests = load.requests.iter().map(|planned| request(spec, planned)).collect();
            (line(spec), (requests, milliseconds(load.cycle), load.utilisation_percent))
        }
        // What others send is their time.
        DriverSpec::Can(spec) => (spec.interface.clone(), (Vec::new(), 0.0, None)),
    };
    let (requests, cycle_ms, utilisation_percent) = load;
    let point = |rule: &crate::mapping::rule::PointRule| PointReport {
        topic: rule.topic.clone(),
        device: rule.device.clone(),
        point: rule.point.clone(),
        writable: rule.write.is_some(),
    };
    BusReport {
        name: bus.name().clone(),
        line,
        can: match &bus.driver {
            DriverSpec::Can(spec) => Some(can_report(spec)),
            DriverSpec::Modbus(_) => None,
        },
        requests,
        cycle_ms,
        utilisation_percent,
        points: bus.rules.iter().map(point).collect(),
    }
}

fn can_report(spec: &can::spec::BusSpec) -> CanReport {
    let count = |of: fn(&Source) -> bool| spec.points.iter().filter(|point| of(&point.source)).count();
    let every = can::request::intervals(&spec.points);
    CanReport {
        filters: filters(&spec.points).len(),
        signals: count(|source| matches!(source, Source::Signal(_))),
        requests: every.len(),
        commands: count(|source| matches!(source, Source::Command(_))),
        requests_per_second: (every.iter().fold(0.0, |sum, every| sum + 1.0 / every.as_secs_f64()) * 1e3).round() / 1e3,
    }
}

fn request(spec: &BusSpec, planned: &PlannedRequest) -> RequestReport {
    let device = spec.devices.get(planned.device);
    RequestReport {
        device: device.map_or_else(|| "".into(), |device| device.name.clone()),
        unit: device.map_or(0, |device| device.unit),
        function_code: match planned.table {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        },
        address: planned.address,
        count: planned.count,
        interval_ms: u64::try_from(planned.interval.as_millis()).unwrap_or(u64::MAX),
        line_time_ms: milliseconds(planned.line_time),
    }
}

fn line(spec: &BusSpec) -> String {
    match &spec.transport {
        Transport::Serial(serial) => format!("{}, {} baud", serial.path.display(), serial.baud),
        Transport::Tcp { address, tls: None } => format!("tcp {}:{}", address.host, address.port),
        Transport::Tcp { address, tls: Some(_) } => format!("tcp {}:{} with TLS", address.host, address.port),
        Transport::RtuOverTcp { address } => format!("RTU over tcp {}:{}", address.host, address.port),
        Transport::AsciiOverTcp { address } => format!("ASCII over tcp {}:{}", address.host, address.port),
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SHIPPED_PROFILES, compile_profile};
    use crate::modbus::fixture;
    use crate::modbus::spec::{DataType, Parity};

    #[test]
    fn a_faster_line_is_advised_only_where_it_keeps_the_intervals() {
        let mut spec = fixture::serial(9_600, Parity::None);
        fixture::point(&mut spec, Table::Holding, 0, DataType::Text { registers: 100 }, 150);
        assert_eq!(faster(&spec), Some(19_200));
        for place in 1..12 {
            fixture::point(&mut spec, Table::Holding, place * 1_000, DataType::U16, 20);
        }
        assert_eq!(faster(&spec), None, "twelve times two pauses of 1.75 ms are 42 ms at any speed");
    }

    #[test]
    fn every_shipped_profile_holds_its_own_tests() {
        assert!(!SHIPPED_PROFILES.is_empty());
        for profile in SHIPPED_PROFILES {
            let outcome = compile_profile(profile.name, profile.toml);
            let plan = outcome.plan.unwrap_or_else(|| panic!("{}: {:?}", profile.name, outcome.diagnostics));
            assert!(!plan.tests.is_empty(), "{} has no test", profile.name);
            assert_eq!(failed_tests(&plan, Now::read()), Vec::<String>::new());
        }
    }
}

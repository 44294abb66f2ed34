//! Profiles: found, parsed once, and compiled alone with their tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::device::Bus;
use super::point::{Scope, point};
use super::{Context, Outcome, outcome, tests_table};
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::document::{self, Node};
use crate::config::keys;
use crate::config::load::{Environment, Files};
use crate::config::plan::{BusPlan, DriverSpec, GatewaySpec, Plan, StoreSpec};
use crate::config::profiles::{self, SHIPPED_PROFILES};
use crate::config::reader::Table;
use crate::config::spell::did_you_mean;
use crate::modbus::spec::{BusSpec, DeviceSpec, Endpoint, Transport};

/// By the folder of the mapping file and the profile's name.
#[derive(Default)]
pub(super) struct Profiles {
    parsed: RefCell<BTreeMap<(PathBuf, String), Rc<Node>>>,
}

impl Profiles {
    pub(super) fn get(&self, name: &str, mapping_file: &Path, place: &Place, cx: &Context<'_>) -> Option<Rc<Node>> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 128 || !name.chars().all(fits) {
            cx.report.push(
                Diagnostic::error(place, "`profile` is no name of a profile")
                    .expected("letters, digits, - _ and .; not a path, and without `.toml`")
                    .help("write, say, `profile = \"eastron-sdm120\"` instead"),
            );
            return None;
        }
        let key = (mapping_file.parent().unwrap_or(Path::new("")).to_owned(), name.to_owned());
        if let Some(known) = self.parsed.borrow().get(&key) {
            return Some(known.clone());
        }
        let parsed = Rc::new(read(name, mapping_file, place, cx)?);
        self.parsed.borrow_mut().insert(key, parsed.clone());
        Some(parsed)
    }
}

fn read(name: &str, mapping_file: &Path, place: &Place, cx: &Context<'_>) -> Option<Node> {
    let Some(found) = profiles::find(name, mapping_file, cx.files) else {
        let shipped: Vec<&str> = SHIPPED_PROFILES.iter().map(|shipped| shipped.name).collect();
        let guess = did_you_mean(name, shipped.iter().copied());
        let folder = mapping_file.parent().unwrap_or(Path::new("")).join("profiles");
        cx.report.push(
            Diagnostic::error(place, format!("there is no profile `{name}`{guess}"))
                .expected(format!("a file {name}.toml in {}, or one of {}", folder.display(), shipped.join(", ")))
                .help("create it, or correct the name"),
        );
        return None;
    };
    let file: Arc<str> = found.file.into();
    cx.parse_bytes(&file, found.bytes)
}

/// The profile's points, with its tables checked.
pub(super) fn points<'n>(root: &'n Node, cx: &Context<'_>) -> Vec<Table<'n>> {
    let Some(table) = Table::open(root, &keys::PROFILE_FILE, &cx.report) else { return Vec::new() };
    table.table("profile", &cx.report);
    table.tables("point", &cx.report)
}

/// A profile as a plan of one device whose topics are its points' names, with the profile's own tests: so every
/// profile can be checked without a configuration around it. `file` is for messages.
pub fn compile_profile(file: &str, toml: &str) -> Outcome {
    let env = Environment::default();
    let cx = Context::new(&env, &NoFiles);
    let file: Arc<str> = file.into();
    let name: Arc<str> = "device".into();
    let mut bus = Bus {
        name: "bus",
        file: Path::new(""),
        on_tcp: true,
        devices: vec![DeviceSpec { name: name.clone(), unit: 1, max_registers: 125 }],
        points: Vec::new(),
        rules: Vec::new(),
    };
    let scope = Scope {
        device: 0,
        device_name: &name,
        bus: "bus",
        template: Some("{point}"),
        interval_ms: 1_000,
        max_registers: 125,
        from_profile: true,
    };
    let root = document::parse(&file, toml, &cx.report);
    let root = root.as_ref().and_then(|root| Table::open(root, &keys::PROFILE_FILE, &cx.report));
    let mut tests = Vec::new();
    if let Some(root) = &root {
        root.table("profile", &cx.report);
        for table in root.tables("point", &cx.report) {
            if let Some((spec, rule)) = point(&table, table.place("name"), &scope, &cx) {
                bus.points.push(spec);
                bus.rules.push(rule);
            }
        }
        tests = root.tables("test", &cx.report);
    }
    let spec = BusSpec {
        name: bus.name.into(),
        transport: Transport::Tcp { address: Endpoint { host: "127.0.0.1".to_owned(), port: 502 }, tls: None },
        timeout: Duration::from_secs(1),
        retries: 0,
        max_gap: 0,
        turnaround: Duration::ZERO,
        max_in_flight: 1,
        devices: bus.devices,
        points: bus.points,
    };
    let buses = vec![BusPlan { driver: DriverSpec::Modbus(spec), rules: bus.rules }];
    let tests = tests.iter().filter_map(|test| tests_table::profile_test(test, &cx)).collect();
    let plan = Plan {
        gateway: GatewaySpec { id: cx.gateway_id.clone(), state_dir: PathBuf::new() },
        buses,
        broker: None,
        uplinks: Vec::new(),
        store: StoreSpec { commit_window: Duration::from_millis(250) },
        status: None,
        tests,
    };
    outcome(plan, vec![Place::start_of(&file)], cx, &[file])
}

/// A profile names no files.
struct NoFiles;

impl Files for NoFiles {
    fn read_bytes(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }

    fn find(&self, _: &Path, _: &str) -> Result<Vec<PathBuf>, String> {
        Ok(Vec::new())
    }
}

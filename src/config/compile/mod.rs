//! From checked tables to specs: what several keys, or several files, must agree on.

mod access;
mod broker;
mod can;
mod device;
mod gateway;
mod modbus;
mod names;
mod numbers;
mod pem;
mod point;
mod profile;
mod tests_table;
mod transport;
mod uplink;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Place, Report};
use super::document::{self, Node};
use super::keys;
use super::load::{Environment, Files};
use super::plan::{BusPlan, Plan};
use super::reader::Table;
use names::{Names, Topics};
pub use profile::compile_profile;
pub(crate) use transport::host_and_port;

/// What came of a configuration: a plan where there is no error, and everything found.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Option<Plan>,
    /// In the order of the files, then of their lines.
    pub diagnostics: Vec<Diagnostic>,
    /// Where each of `Plan::buses` stands, for what is found out about it later (its line's utilisation).
    pub bus_places: Vec<Place>,
}

/// What every part of the compilation needs.
struct Context<'e> {
    env: &'e Environment,
    files: &'e dyn Files,
    report: Report,
    gateway_id: Arc<str>,
    names: Names,
    topics: Topics,
    profiles: profile::Profiles,
    /// Something that defines names or topics could not be understood: what a test names may be there.
    incomplete: std::cell::Cell<bool>,
}

impl<'e> Context<'e> {
    fn new(env: &'e Environment, files: &'e dyn Files) -> Self {
        Self {
            env,
            files,
            report: Report::default(),
            gateway_id: gateway::default_id(env),
            names: Names::default(),
            topics: Topics::default(),
            profiles: profile::Profiles::default(),
            incomplete: std::cell::Cell::new(false),
        }
    }

    /// The absolute path of a file that is named in `by`, relative to it.
    fn beside(&self, by: &Path, name: &str) -> PathBuf {
        self.env.working_directory.join(by.parent().unwrap_or(Path::new(""))).join(name)
    }

    fn unreadable(&self, path: &Path, error: &io::Error, place: &Place, key: &str) {
        let found = format!("`{key}` names {}, which cannot be read: {error}", path.display());
        self.report.error(place, found, "put the file there with read permission, or correct the path");
    }

    fn parse(&self, path: &Path) -> (Arc<str>, Option<Node>) {
        let file: Arc<str> = path.display().to_string().into();
        let node = self.parse_bytes(&file, self.files.read_bytes(path));
        (file, node)
    }

    fn parse_bytes(&self, file: &Arc<str>, bytes: io::Result<Vec<u8>>) -> Option<Node> {
        match bytes {
            Ok(bytes) => document::parse_bytes(file, &bytes, &self.report),
            Err(error) => {
                let mends = [
                    (io::ErrorKind::NotFound, "create it, or correct its path"),
                    (io::ErrorKind::PermissionDenied, "run this with sudo, or correct its permissions"),
                    (io::ErrorKind::FileTooLarge, "write several files instead"),
                ];
                let mend =
                    mends.iter().find(|(kind, _)| *kind == error.kind()).map_or("correct its path", |(_, mend)| mend);
                self.report.error(&Place::start_of(file), format!("the file cannot be read: {error}"), mend);
                None
            }
        }
    }
}

/// Checks the gateway file and everything that it names, and compiles it.
pub fn compile(gateway_file: &Path, env: &Environment, files: &dyn Files) -> Outcome {
    let mut cx = Context::new(env, files);
    let (file, root) = cx.parse(gateway_file);
    let mut order = vec![file];
    let root = root.as_ref().and_then(|root| Table::open(root, &keys::GATEWAY_FILE, &cx.report));
    cx.incomplete.set(root.is_none());
    let section = root.as_ref().and_then(|root| root.table("gateway", &cx.report));
    let gateway = gateway::gateway(section.as_ref(), gateway_file, &cx);
    cx.gateway_id = gateway.id.clone();

    let mut mappings = Vec::new();
    for path in gateway::mapping_files(root.as_ref(), section.as_ref(), gateway_file, &cx) {
        let (file, node) = cx.parse(&path);
        order.push(file);
        match node {
            Some(node) => mappings.push((path, node)),
            None => cx.incomplete.set(true),
        }
    }
    let mappings: Vec<(&Path, Table<'_>)> = mappings
        .iter()
        .filter_map(|(path, node)| Some((path.as_path(), Table::open(node, &keys::MAPPING_FILE, &cx.report)?)))
        .collect();

    let modbus = mappings
        .iter()
        .flat_map(|(path, table)| table.tables("modbus", &cx.report).into_iter().map(move |bus| (*path, bus)))
        .filter_map(|(path, bus)| Some((modbus::bus(&bus, path, &cx)?, bus.start().clone())));
    let can = mappings
        .iter()
        .flat_map(|(path, table)| table.tables("can", &cx.report).into_iter().map(move |bus| (*path, bus)))
        .filter_map(|(path, bus)| Some((can::bus(&bus, path, &cx)?, bus.start().clone())));
    let (buses, bus_places): (Vec<BusPlan>, Vec<Place>) = modbus.chain(can).unzip();
    let tests = mappings
        .iter()
        .flat_map(|(_, table)| table.tables("test", &cx.report))
        .filter_map(|test| tests_table::test(&test, &buses, &cx))
        .collect();
    let broker = root.as_ref().and_then(|root| root.table("broker", &cx.report));
    let broker = broker.map(|table| broker::broker(&table, gateway_file, &cx));
    let uplinks = root.as_ref().map(|root| uplink::uplinks(root, gateway_file, &cx)).unwrap_or_default();
    let store = gateway::store(root.as_ref(), &cx);
    let status = gateway::status(root.as_ref(), &cx);
    let plan = Plan { gateway, buses, broker, uplinks, store, status, tests };
    outcome(plan, bus_places, cx, &order)
}

fn outcome(plan: Plan, bus_places: Vec<Place>, cx: Context<'_>, order: &[Arc<str>]) -> Outcome {
    let plan = (!cx.report.has_errors()).then_some(plan);
    Outcome { plan, diagnostics: cx.report.into_sorted(order), bus_places }
}

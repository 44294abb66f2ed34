//! The compiled configuration: everything that a run needs, checked, with every default filled in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::spec::BrokerSpec;
use crate::can;
use crate::mapping::rule::PointRule;
use crate::modbus;
use crate::uplink::spec::UplinkSpec;

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub gateway: GatewaySpec,
    pub buses: Vec<BusPlan>,
    pub broker: Option<BrokerSpec>,
    pub uplinks: Vec<UplinkSpec>,
    pub store: StoreSpec,
    pub status: Option<SocketAddr>,
    pub tests: Vec<TestCase>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GatewaySpec {
    /// `[A-Za-z0-9_-]+`.
    pub id: Arc<str>,
    pub state_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreSpec {
    /// Group-commit window for samples.
    pub commit_window: Duration,
}

/// A bus and the rules of its points, which stand in the same order as the driver's points.
#[derive(Clone, Debug, PartialEq)]
pub struct BusPlan {
    pub driver: DriverSpec,
    pub rules: Vec<PointRule>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DriverSpec {
    Modbus(modbus::spec::BusSpec),
    Can(can::spec::BusSpec),
}

impl BusPlan {
    pub fn name(&self) -> &Arc<str> {
        match &self.driver {
            DriverSpec::Modbus(spec) => &spec.name,
            DriverSpec::Can(spec) => &spec.name,
        }
    }
}

/// A `[[test]]`: what a bus brings, and the messages that must follow.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    pub name: String,
    /// `FILE:LINE:COLUMN` of the table, for the report.
    pub place: String,
    /// Place in `Plan::buses`.
    pub bus: usize,
    pub given: Given,
    pub expect: Vec<Expected>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Words from `address` on in one table of a device; bits as words 0 and 1.
    Registers { device: usize, table: modbus::spec::Table, address: u16, words: Vec<u16> },
    /// Frames that the interface brings, in this order. Not empty.
    Frames(Vec<can::spec::Frame>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub topic: String,
    /// As it stands in the payload: number, text, boolean; or the fault's name.
    pub reading: Result<serde_json::Value, String>,
}

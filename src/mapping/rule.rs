//! What becomes of a point's samples and who may set it: the compiled form of a point's mapping keys, whatever the driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::message::Qos;
use crate::sample::{BitRange, Value};

/// In the order of `PointId::index`.
#[derive(Clone, Debug, PartialEq)]
pub struct PointRule {
    pub device: Arc<str>,
    pub point: Arc<str>,
    /// With every placeholder filled in.
    pub topic: Arc<str>,
    pub kind: Kind,
    pub bits: Option<BitRange>,
    /// The raw value, whole and as the driver reads it, by which the device says that it has none.
    pub not_available: Option<Value>,
    /// value = raw * scale + offset.
    pub scale: f64,
    pub offset: f64,
    pub decimals: Option<u8>,
    pub unit: Option<Arc<str>>,
    /// Names for integers; one without a name stays a number.
    pub map: BTreeMap<i64, Arc<str>>,
    /// `map` names values as they stand on the wire (a DBC file's tables), not in the published unit.
    pub map_raw: bool,
    pub report: Report,
    pub deadband: Option<Deadband>,
    pub heartbeat: Option<Duration>,
    pub min_interval: Duration,
    pub qos: Qos,
    pub retain: bool,
    pub payload: PayloadForm,
    pub write: Option<WriteRule>,
}

/// What the raw value is, so that a command of the wrong kind is refused before it reaches a driver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bool,
    /// Raw integers from `min` to `max`, both included.
    Integer {
        min: i128,
        max: i128,
    },
    F32,
    F64,
    /// At most so many bytes.
    Text {
        bytes: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Always,
    Change,
}

/// Against the value published last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadband {
    Absolute(f64),
    Percent(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadForm {
    Json,
    /// The bare value; faults are not published.
    Value,
}

/// Limits on commands, in the published value's units. `[topic]/set` exists only where this does.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRule {
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// The most that one command may move the value away from the one known last.
    pub max_step: Option<f64>,
    /// A command older than this is not carried out.
    pub ttl: Duration,
    pub readback: bool,
    pub min_interval: Duration,
    /// Write a value that equals the one known last without asking the device whether it still holds it.
    pub write_equal: bool,
    /// Written when no command has come for `fail_safe_after`.
    pub fail_safe: Option<FailSafe>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FailSafe {
    pub value: f64,
    pub after: Duration,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An unsigned word published as JSON at every sample.
    pub(crate) fn rule(topic: &str) -> PointRule {
        PointRule {
            device: "meter-1".into(),
            point: "voltage".into(),
            topic: topic.into(),
            kind: Kind::Integer { min: 0, max: 65_535 },
            bits: None,
            not_available: None,
            scale: 1.0,
            offset: 0.0,
            decimals: None,
            unit: None,
            map: BTreeMap::new(),
            map_raw: false,
            report: Report::Always,
            deadband: None,
            heartbeat: None,
            min_interval: Duration::ZERO,
            qos: Qos::AtLeastOnce,
            retain: true,
            payload: PayloadForm::Json,
            write: None,
        }
    }
}

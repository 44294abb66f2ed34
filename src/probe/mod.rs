//! `fieldgate probe`: who is on a Modbus bus, and what its registers hold in every type and byte order.

mod guess;
mod range;
mod report;
mod target;
pub mod task;

pub use range::{Addresses, Range, RangeError};
pub use target::{Target, TargetError};

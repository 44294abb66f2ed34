//! Devices that are not there: what `fieldgate simulate` and `fieldgate demo` put in the place of a plan's own.
//!
//! The protocol's server side is tokio-modbus's, not ours: what the gateway reads here it also reads elsewhere.

mod registers;
pub mod task;
mod wave;

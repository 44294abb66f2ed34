//! Modbus: reads blocks of registers and bits in deadline order, and writes commands.

pub mod codec;
#[cfg(test)]
pub(crate) mod fixture;
pub mod frame;
pub mod pdu;
pub mod plan;
pub mod spec;
pub mod timing;

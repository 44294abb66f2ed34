//! Modbus: reads blocks of registers and bits in deadline order, and writes commands.

pub mod codec;
pub mod frame;
pub mod pdu;
pub mod spec;

//! Modbus: reads blocks of registers and bits in deadline order, and writes commands.

pub mod spec;

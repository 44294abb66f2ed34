//! Modbus: reads blocks of registers and bits in deadline order, and writes commands.

pub mod alarm;
pub mod codec;
pub mod connect;
pub mod device;
#[cfg(test)]
pub(crate) mod fixture;
pub mod frame;
pub mod lane;
pub mod learnt;
pub mod line;
pub mod owed;
pub mod pdu;
pub mod plan;
pub mod schedule;
pub mod spec;
mod talk;
pub mod task;
pub mod tcp;
pub mod timing;
pub mod write;

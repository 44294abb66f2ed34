//! Stand-ins for devices, behind `fieldgate simulate` and `fieldgate demo`, and for the tests of what drives real ones.

pub mod can;
pub mod fault;
pub mod modbus;
pub mod plan;
pub mod request;
pub mod task;
mod wave;

#[cfg(test)]
mod against_driver;

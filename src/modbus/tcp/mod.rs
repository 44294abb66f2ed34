//! Modbus TCP: several requests under way, told apart by their transaction numbers.

pub mod task;

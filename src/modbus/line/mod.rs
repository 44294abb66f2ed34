//! One line, one request at a time: RTU or ASCII, on a serial port or through a TCP converter.

pub mod task;

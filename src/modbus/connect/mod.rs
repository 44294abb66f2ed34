//! Opening what a bus speaks over: a serial port, a TCP connection, TLS.

pub mod task;

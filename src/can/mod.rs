//! CAN: takes signals out of frames, asks for values by ISO-TP, and sends commands as whole messages.

pub mod bus;
pub mod candump;
pub mod cycle;
pub mod dbc;
mod decode;
pub mod filter;
pub mod frame;
pub mod isotp;
pub mod j1939;
mod rate;
pub mod request;
pub mod signal;
pub mod spec;
pub mod task;

//! What the fuzzers do with their bytes, one module a target: `run` must not panic, whatever they are, and what it asserts must hold.

#![forbid(unsafe_code)]

pub mod broker;
#[path = "../../tests/support/broker_loop.rs"]
mod broker_loop;
pub mod can;
pub mod candump;
pub mod command;
pub mod config;
pub mod dbc;
pub mod isotp;
pub mod j1939;
mod mapping;
pub mod modbus;
pub mod profile;
pub mod segment;
pub mod uplink;

pub type Target = fn(&[u8]);

/// Every target by its name, as in `fuzz_targets/` and `corpus/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("broker", broker::run),
    ("can", can::run),
    ("candump", candump::run),
    ("command", command::run),
    ("config", config::run),
    ("dbc", dbc::run),
    ("isotp", isotp::run),
    ("j1939", j1939::run),
    ("modbus", modbus::run),
    ("profile", profile::run),
    ("segment", segment::run),
    ("uplink", uplink::run),
];

/// Pieces of an input, each led by a byte that says what it is for and one that says how long it is.
struct Pieces<'d>(&'d [u8]);

impl<'d> Iterator for Pieces<'d> {
    type Item = (u8, &'d [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[what, length, ref rest @ ..] = self.0 else { return None };
        let (piece, rest) = rest.split_at(usize::from(length).min(rest.len()));
        self.0 = rest;
        Some((what, piece))
    }
}

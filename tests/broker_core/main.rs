//! The broker's core in invented time: bytes in, bytes out, a store in memory that waits, refuses or forgets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "../support/broker_loop.rs"]
mod broker_loop;
mod delivery;
mod exactly_once;
mod filters;
mod hostile;
mod login;
mod model;
mod pressure;
mod rig;
mod sessions;
mod simplest;

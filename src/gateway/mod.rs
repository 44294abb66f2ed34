//! Wiring: starts every task, joins them in one loop, reloads and stops. The only module that knows all the others.

pub mod core;
pub mod journal;
mod parts;
mod queue;
pub mod service;
pub mod snapshot;
pub mod task;
mod watchdog;

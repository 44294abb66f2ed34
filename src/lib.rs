//! fieldgate: Modbus and CAN to MQTT, with its own broker and a store that loses nothing.
//!
//! `ARCHITECTURE.md` draws how the modules stand together. Pure cores take time as an argument ([`clock::Now`]);
//! sockets, clocks and spawns stand only in `main.rs`, `gateway/`, the store's writer and files named `task.rs`.

pub mod broker;
pub mod can;
pub mod check;
pub mod clock;
pub mod clocksync;
pub mod command;
pub mod config;
pub mod demo;
pub mod driver;
pub mod gateway;
pub mod hub;
pub mod mapping;
pub mod message;
pub mod modbus;
pub mod probe;
pub mod pulse;
pub mod replay;
pub mod sample;
pub mod simulate;
pub mod status;
pub mod store;
pub mod timestamp;
pub mod uplink;
pub mod watch;

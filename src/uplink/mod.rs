//! Connections to brokers upstream: each drains its queue of the store, and takes commands.
//!
//! [`engine::Engine`] holds everything that is decided, without a socket or a clock: [`session::Session`] speaks MQTT on one
//! connection, [`drain::Drainer`] says which stored message is next and when, [`retry::Backoff`] when to try again.
//! [`task::run`] moves bytes between it and one of the [`transport`]s, and rows between it and a [`queue::Queue`].
//!
//! The packets and their framing are `mqtt-protocol-core`'s; its ready-made client connection is not used: it ends a QoS 2
//! exchange at PUBREC 0x10 (no matching subscribers, which is a success), does not survive a second CONNACK, and
//! closes the connection on a reason code that it does not know.

pub mod codec;
pub mod drain;
pub mod encode;
pub mod engine;
pub mod error;
pub mod inbox;
pub mod queue;
pub mod retry;
pub mod session;
pub mod spec;
pub mod status;
pub mod task;
pub(crate) mod transport;

#[cfg(test)]
mod tests;

//! Connections to brokers upstream: each drains its queue of the store, and takes commands.

pub mod spec;

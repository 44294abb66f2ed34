//! One client's socket, after its handshakes.

pub(crate) mod task;

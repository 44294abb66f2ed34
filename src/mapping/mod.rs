//! From samples to messages by rules, and from messages to commands. Knows no driver and no socket.

pub mod rule;

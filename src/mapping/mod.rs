//! From samples to messages by rules, and from messages to commands. Knows no driver and no socket.
//!
//! [`publish`] turns a sample into a message, [`command`] a message into a command and its outcome into a result.
//! Both go through [`convert`], so that a value goes in as it came out.

pub mod command;
pub mod convert;
mod json;
mod judge;
pub mod number;
pub mod publish;
mod recent;
mod request;
mod result;
pub mod rule;

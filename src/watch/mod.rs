//! `fieldgate watch`: the topics of any broker, live: a table on a terminal, a line a message in a pipe.

mod session;
mod table;
mod target;
pub mod task;

pub use target::{Target, TargetError};

//! Who gets a message: one index for all who listen, whether or not there is a local broker.

pub mod index;
pub mod topics;

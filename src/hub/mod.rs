//! Who gets a message, and what must be stored before it is acknowledged; the same with and without a local broker.

pub mod commit;
pub mod index;
pub mod routes;
pub mod topics;

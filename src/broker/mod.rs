//! The local MQTT broker, 3.1.1 and 5.0: sessions, access, retained messages, and the sockets.

mod acl;
mod decode;
mod encode;
mod guard;
pub(crate) mod packet;
pub mod passwd;
mod record;
mod retained;
pub mod spec;

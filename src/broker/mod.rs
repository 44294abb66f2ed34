//! The local MQTT broker, 3.1.1 and 5.0: sessions, access, retained messages, and the sockets.

mod acknowledge;
mod acl;
mod alias;
mod api;
mod connection;
mod core;
mod counters;
mod decode;
mod encode;
mod framing;
mod guard;
mod heard;
mod inbound;
mod lifecycle;
mod login;
mod outbound;
mod packet;
pub mod passwd;
mod pressure;
mod record;
mod retained;
mod routing;
mod send;
mod session;
pub mod spec;
pub mod task;
mod tls;

pub use api::{AckToken, ConnId, Counters, FIRST_SESSION_DEST, Input, Output, Peer, Read, Refusal, Restored, Secret};
pub use core::Broker;
pub use packet::Reason;
pub use routing::Route;
pub use tls::task::TlsError;

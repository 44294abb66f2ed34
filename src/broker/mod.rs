//! The local MQTT broker, 3.1.1 and 5.0: sessions, access, retained messages, and the sockets.

pub mod spec;

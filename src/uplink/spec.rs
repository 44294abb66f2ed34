//! What an uplink was asked to be: the compiled form of an `[[uplink]]` table. Already checked; holds no defaults.

use std::path::PathBuf;
use std::sync::Arc;

use crate::message::Qos;
use crate::store::QueueSpec;

#[derive(Clone, Debug, PartialEq)]
pub struct UplinkSpec {
    pub name: Arc<str>,
    pub url: UplinkUrl,
    pub version: ProtocolVersion,
    pub client_id: String,
    pub username: Option<String>,
    /// Read at each connect, so that it can be changed while running; a trailing newline is not part of the password.
    pub password_file: Option<PathBuf>,
    /// `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// Certificate and key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Local topic filters that go up, through the store.
    pub forward: Vec<String>,
    /// Upstream topic filters (without `prefix`) taken from there. What matches one is never forwarded on this uplink.
    pub accept: Vec<String>,
    /// Put before every topic upstream, both ways.
    pub prefix: String,
    /// What every forwarded message is published with.
    pub qos: Qos,
    pub queue: QueueSpec,
    pub drain: Drain,
    /// Messages a second, backlog and live together.
    pub drain_per_sec: u32,
    /// Where this gateway says that it is online, retained, and its last will that it is not.
    pub status_topic: Arc<str>,
}

impl UplinkSpec {
    /// `fieldgate/{gateway}/`: what only the gateway itself says.
    pub fn own_topics(&self) -> Option<&str> {
        self.status_topic.strip_suffix("status")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkUrl {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// Of ws and wss: the path, `/mqtt` where none was given.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolVersion {
    V311,
    V5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    OldestFirst,
    /// Fresh values at once, history behind.
    NewestFirst,
}

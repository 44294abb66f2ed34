//! What the local broker was asked to be: the compiled form of `[broker]`. Already checked; holds no defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct BrokerSpec {
    pub limits: Limits,
    pub listeners: Vec<ListenerSpec>,
    pub users: Vec<UserSpec>,
    /// `None`: nobody without a name.
    pub anonymous: Option<Access>,
}

/// Every bound of the broker. A reached one is counted, logged once and shown (P7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: usize,
    /// Largest MQTT packet taken, in bytes; also announced to MQTT 5 clients.
    pub max_packet_bytes: u32,
    /// For each durable session, on disk.
    pub max_queued_bytes: u64,
    /// For each connection, in memory: what it has not read yet.
    pub max_outbound_bytes: usize,
    /// For all connections together, in memory: what they have not read yet.
    pub max_outbound_total_bytes: usize,
    /// QoS 1 and 2 messages under way to one client; also the Receive Maximum told to it.
    pub max_in_flight: u16,
    pub max_subscriptions_per_client: usize,
    pub max_topic_levels: usize,
    pub max_retained_messages: usize,
    pub max_retained_bytes: u64,
    /// Durable and connected sessions together.
    pub max_sessions: usize,
    /// New connections a second, over all addresses.
    pub max_connection_rate: u32,
    /// `None`: what the client asks.
    pub max_keep_alive: Option<Duration>,
    /// The longest that a session outlives its connection, whatever the client asks; also a 3.1.1 session's life.
    pub session_expiry: Duration,
    /// From accept to a valid CONNECT.
    pub connect_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSpec {
    pub bind: SocketAddr,
    pub transport: ListenerTransport,
    pub tls: Option<ListenerTls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerTransport {
    Tcp,
    WebSocket,
}

/// PEM files, as absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate that this signed; its CN is the user.
    pub client_ca: Option<PathBuf>,
}

#[derive(Clone, PartialEq)]
pub struct UserSpec {
    pub name: Arc<str>,
    /// `None`: this user logs in by certificate only.
    pub password_hash: Option<Arc<str>>,
    pub access: Access,
}

impl std::fmt::Debug for UserSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSpec").field("name", &self.name).field("access", &self.access).finish_non_exhaustive()
    }
}

/// Topic filters; `{user}` and `{client}` still stand in them. What none allows is denied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub subscribe: Vec<String>,
    pub publish: Vec<String>,
    /// Neither read nor written, whatever else allows it.
    pub deny: Vec<String>,
}

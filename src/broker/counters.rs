//! What the broker tells about itself.

use super::api::Counters;
use super::core::Broker;
use crate::clock::Now;
use crate::message::{Message, Qos};

impl Broker {
    /// What the broker has done and holds.
    pub fn counters(&self) -> Counters {
        Counters {
            connections_now: self.conns.len() as u64,
            sessions_now: self.sessions.len() as u64,
            subscriptions_now: self.sessions.values().map(|session| session.subscriptions.len() as u64).sum(),
            retained_now: self.retained.len() as u64,
            retained_bytes: self.retained.bytes(),
            ..self.counters
        }
    }

    /// `$SYS/broker/…`, retained, as brokers have it. Publish them as the gateway's own, every ten seconds or so.
    pub fn sys_messages(&self, now: Now) -> Vec<Message> {
        let counters = self.counters();
        let connected = self.sessions.values().filter(|session| session.conn.is_some()).count() as u64;
        let uptime = now.mono.saturating_duration_since(self.started).as_secs();
        let values = [
            ("version", concat!("fieldgate ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("uptime", format!("{uptime} seconds")),
            ("clients/connected", connected.to_string()),
            ("clients/disconnected", (counters.sessions_now - connected).to_string()),
            ("clients/total", counters.sessions_now.to_string()),
            ("messages/received", counters.messages_received.to_string()),
            ("messages/sent", counters.messages_sent.to_string()),
            ("bytes/received", counters.bytes_received.to_string()),
            ("bytes/sent", counters.bytes_sent.to_string()),
            ("retained messages/count", counters.retained_now.to_string()),
            ("store/messages/bytes", counters.retained_bytes.to_string()),
            ("subscriptions/count", counters.subscriptions_now.to_string()),
            ("publish/messages/dropped", (counters.dropped_qos0 + counters.dropped_expired).to_string()),
        ];
        values
            .into_iter()
            .map(|(name, value)| Message::new(format!("$SYS/broker/{name}"), value, Qos::AtMostOnce, true))
            .collect()
    }
}

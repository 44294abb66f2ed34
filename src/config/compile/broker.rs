//! `[broker]`: limits, listeners, users.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::PasswordHash;

use super::Context;
use super::access::access;
use super::gateway::bind;
use super::names::NameOf;
use super::pem;
use crate::broker::spec::{BrokerSpec, Limits, ListenerSpec, ListenerTls, ListenerTransport, UserSpec};
use crate::config::diagnostic::Diagnostic;
use crate::config::reader::Table;

/// A login may not take more memory than this (P7).
const ARGON2_KIB_MAX: u32 = 256 * 1024;

pub(super) fn broker(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> BrokerSpec {
    let tables = table.tables("listener", &cx.report);
    if tables.is_empty() {
        let help = "add `[[broker.listener]]` with `bind = \"127.0.0.1:1883\"`, or remove [broker]";
        cx.report.warning(table.start(), "the broker has no listener: nobody can connect", help);
    }
    let listeners: Vec<ListenerSpec> =
        tables.iter().filter_map(|listener| self::listener(listener, file, cx)).collect();
    let by_certificate = listeners.iter().any(|l| l.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()));
    let users: Vec<UserSpec> =
        table.tables("user", &cx.report).iter().filter_map(|user| self::user(user, by_certificate, cx)).collect();
    let anonymous = table.table("anonymous", &cx.report).map(|anonymous| access(&anonymous, cx));
    if users.is_empty() && anonymous.is_none() && !table.has("user") && !by_certificate {
        let help = "add `[[broker.user]]`, or `[broker.anonymous]` for everybody";
        cx.report.warning(table.start(), "the broker has no user: nobody can log in", help);
    }
    BrokerSpec { limits: limits(table), listeners, users, anonymous }
}

fn limits(table: &Table<'_>) -> Limits {
    let secs = |key| Duration::from_secs(table.unsigned::<u64>(key));
    let keep_alive = secs("max_keep_alive_secs");
    Limits {
        max_connections: table.unsigned("max_connections"),
        max_packet_bytes: table.unsigned("max_packet_bytes"),
        max_queued_bytes: table.unsigned("max_queued_bytes"),
        max_outbound_bytes: table.unsigned("max_outbound_bytes"),
        max_outbound_total_bytes: table.unsigned("max_outbound_total_bytes"),
        max_in_flight: table.unsigned("max_in_flight"),
        max_subscriptions_per_client: table.unsigned("max_subscriptions_per_client"),
        max_topic_levels: table.unsigned("max_topic_levels"),
        max_retained_messages: table.unsigned("max_retained_messages"),
        max_retained_bytes: table.unsigned("max_retained_bytes"),
        max_sessions: table.unsigned("max_sessions"),
        max_connection_rate: table.unsigned("max_connection_rate"),
        max_keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
        session_expiry: secs("session_expiry_secs"),
        connect_timeout: secs("connect_timeout_secs"),
    }
}

fn listener(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<ListenerSpec> {
    let transport = match table.text("transport") {
        Some("websocket") => ListenerTransport::WebSocket,
        _ => ListenerTransport::Tcp,
    };
    let tls = table.table("tls", &cx.report).and_then(|tls| {
        let (cert, key) = pem::identity(&tls, ("cert", "key"), file, cx);
        let client_ca = pem::authorities(&tls, "client_ca", file, cx);
        Some(ListenerTls { cert: cert?, key: key?, client_ca })
    });
    Some(ListenerSpec { bind: bind(table, "127.0.0.1:1883", cx)?, transport, tls })
}

fn user(table: &Table<'_>, by_certificate: bool, cx: &Context<'_>) -> Option<UserSpec> {
    let access = access(table, cx);
    let password_hash = table.text("password_hash");
    if let Some(hash) = password_hash {
        check_hash(hash, table, cx);
    } else if !by_certificate && !table.has("password") && !table.has("password_hash") {
        let found = "this user has no `password_hash`, and no listener asks for certificates: nobody can log in as it";
        cx.report.warning(table.start(), found, "write `password_hash = \"…\"` with what `fieldgate passwd` prints");
    }
    let name = table.text("name")?;
    cx.names.claim(NameOf::User, name, table.place("name"), &cx.report);
    Some(UserSpec { name: name.into(), password_hash: password_hash.map(Arc::from), access })
}

/// The hash itself never stands in a message (P10).
fn check_hash(hash: &str, table: &Table<'_>, cx: &Context<'_>) {
    let place = table.place("password_hash");
    let whole = PasswordHash::new(hash)
        .ok()
        .filter(|parsed| parsed.algorithm == argon2::ARGON2ID_IDENT && parsed.salt.is_some() && parsed.hash.is_some());
    let params = whole.as_ref().and_then(|parsed| argon2::Params::try_from(parsed).ok());
    match params {
        None => cx.report.push(
            Diagnostic::error(place, "`password_hash` is no argon2id hash")
                .expected("a text that begins with $argon2id$")
                .help("write what `fieldgate passwd` prints"),
        ),
        Some(params) if params.m_cost() > ARGON2_KIB_MAX => {
            let found = format!("`password_hash` takes {} MiB of memory for each login", params.m_cost() / 1024);
            cx.report.push(
                Diagnostic::error(place, found)
                    .expected(format!("at most {} MiB", ARGON2_KIB_MAX / 1024))
                    .help("write what `fieldgate passwd` prints"),
            );
        }
        Some(_) => {}
    }
}

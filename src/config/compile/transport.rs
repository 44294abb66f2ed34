//! How a Modbus bus is reached: exactly one of four transports, and the keys that belong to each.

use std::path::Path;

use super::Context;
use super::names::NameOf;
use super::pem;
use crate::config::diagnostic::Diagnostic;
use crate::config::reader::Table;
use crate::modbus::spec::{Endpoint, Framing, Parity, SerialSpec, TlsSpec, Transport};

const TRANSPORTS: [&str; 4] = ["serial", "tcp", "rtu_over_tcp", "ascii_over_tcp"];
const LINE_KEYS: [&str; 5] = ["baud", "framing", "parity", "stop_bits", "rs485"];
/// The port of Modbus TCP, and of Modbus/TCP Security.
const PORT: u16 = 502;
const TLS_PORT: u16 = 802;

pub(super) fn transport(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<Transport> {
    let set = table.set_of(&TRANSPORTS);
    let &[kind] = set.as_slice() else {
        let (place, found) = match set.get(1) {
            Some(second) => (table.key_place(second), format!("`{}` stand in one bus", set.join("` and `"))),
            None => (table.start(), "this bus has no transport".to_owned()),
        };
        cx.report.push(
            Diagnostic::error(place, found)
                .expected(format!("exactly one of {}", TRANSPORTS.join(", ")))
                .help("write, say, `serial = \"/dev/ttyUSB0\"` or `tcp = \"10.0.0.7:502\"`"),
        );
        return None;
    };
    if kind != "serial" {
        for key in table.set_of(&LINE_KEYS) {
            let found = format!("`{key}` belongs to `serial` and has no effect beside `{kind}`");
            cx.report.warning(table.key_place(key), found, "remove it");
        }
    }
    if kind != "tcp" {
        if table.has("tls") {
            let found = format!("`tls` belongs to `tcp` and has no effect beside `{kind}`");
            cx.report.error(table.key_place("tls"), found, "remove it");
        }
        if table.has("max_in_flight") && table.integer("max_in_flight") != Some(1) {
            let found = format!("`max_in_flight` belongs to `tcp`: beside `{kind}` one request is under way at a time");
            cx.report.error(table.key_place("max_in_flight"), found, "remove it");
        }
    }
    if kind == "serial" {
        return serial(table, cx).map(Transport::Serial);
    }
    let tls = if kind == "tcp" { table.table("tls", &cx.report) } else { None };
    let secure = tls.is_some();
    let address = endpoint(table, kind, (kind == "tcp").then_some(if secure { TLS_PORT } else { PORT }), cx);
    let tls = tls.map(|tls| self::tls(&tls, file, cx));
    let address = address?;
    match kind {
        "tcp" if secure => Some(Transport::Tcp { address, tls: Some(tls.flatten()?) }),
        "tcp" => Some(Transport::Tcp { address, tls: None }),
        "rtu_over_tcp" => Some(Transport::RtuOverTcp { address }),
        _ => Some(Transport::AsciiOverTcp { address }),
    }
}

fn serial(table: &Table<'_>, cx: &Context<'_>) -> Option<SerialSpec> {
    let path = table.text("serial")?;
    if path.is_empty() || path.contains('\0') {
        cx.report.error(table.place("serial"), "`serial` names no device", "write, say, `serial = \"/dev/ttyUSB0\"`");
        return None;
    }
    cx.names.claim(NameOf::SerialLine, path, table.place("serial"), &cx.report);
    let parity = match table.text("parity") {
        Some("none") => Parity::None,
        Some("odd") => Parity::Odd,
        _ => Parity::Even,
    };
    // MODBUS over serial line 2.5.1: without parity a second stop bit takes its place.
    let stop_bits = if parity == Parity::None { 2 } else { 1 };
    Some(SerialSpec {
        path: path.into(),
        baud: table.unsigned("baud"),
        framing: if table.text("framing") == Some("ascii") { Framing::Ascii } else { Framing::Rtu },
        parity,
        stop_bits: table.integer("stop_bits").and_then(|bits| u8::try_from(bits).ok()).unwrap_or(stop_bits),
        rs485: table.flag("rs485"),
    })
}

fn tls(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<TlsSpec> {
    let (cert, key) = pem::identity(table, ("cert", "key"), file, cx);
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(one) && !table.has(other) {
            cx.report.error(
                table.key_place(one),
                format!("`{one}` stands without `{other}`"),
                format!("add `{other}`"),
            );
        }
    }
    Some(TlsSpec { ca: pem::authorities(table, "ca", file, cx)?, cert, key })
}

fn endpoint(table: &Table<'_>, key: &str, default_port: Option<u16>, cx: &Context<'_>) -> Option<Endpoint> {
    let text = table.text(key)?;
    let found = host_and_port(text, default_port);
    if found.is_none() {
        cx.report.push(
            Diagnostic::error(table.place(key), format!("`{key}` is no host and port"))
                .expected("HOST:PORT; IPv6 addresses in brackets")
                .help(format!("write, say, `{key} = \"10.0.0.7:502\"` instead")),
        );
    }
    let (host, port) = found?;
    Some(Endpoint { host, port })
}

/// `HOST:PORT`, `[IPv6]:PORT`, or without a port where there is a default. The host is without brackets.
pub(crate) fn host_and_port(text: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
        return None;
    }
    let port = match port {
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => port.parse().ok()?,
        Some(_) => return None,
        None => default_port?,
    };
    (port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_with_ports_names_and_both_kinds_of_addresses() {
        let parse = |text| host_and_port(text, Some(502));
        assert_eq!(parse("10.0.0.7:1502"), Some(("10.0.0.7".into(), 1502)));
        assert_eq!(parse("plc.local"), Some(("plc.local".into(), 502)));
        assert_eq!(parse("[fe80::1]:503"), Some(("fe80::1".into(), 503)));
        assert_eq!(parse("[fe80::1]"), Some(("fe80::1".into(), 502)));
        for wrong in ["", ":502", "host:", "host:0", "host:70000", "host:+5", "fe80::1", "[fe80::1", "[x]:1", "a b:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(host_and_port("plc", None), None);
    }
}

//! `[[uplink]]`.

use std::path::{Path, PathBuf};

use super::Context;
use super::access::{fill, filters};
use super::names::{NameOf, shown};
use super::pem;
use super::transport::host_and_port;
use crate::config::diagnostic::Diagnostic;
use crate::config::reader::Table;
use crate::config::template;
use crate::hub::topics;
use crate::message::Qos;
use crate::store::{QueueSpec, WhenFull};
use crate::uplink::spec::{Drain, ProtocolVersion, Scheme, UplinkSpec, UplinkUrl};

const URL_EXAMPLE: &str = "write, say, `url = \"mqtts://broker.example.com:8883\"` instead";

pub(super) fn uplinks(root: &Table<'_>, file: &Path, cx: &Context<'_>) -> Vec<UplinkSpec> {
    let mut uplinks: Vec<UplinkSpec> = Vec::new();
    for table in root.tables("uplink", &cx.report) {
        let Some(uplink) = uplink(&table, file, cx) else { continue };
        let twin = uplinks.iter().find(|other| other.url == uplink.url && other.client_id == uplink.client_id);
        if let Some(twin) = twin {
            let found = format!(
                "uplink `{}` has the same `url` and `client_id` as `{}`: they would cut each other off",
                uplink.name, twin.name
            );
            cx.report.error(table.place("url"), found, "give one of them another `client_id`");
        }
        uplinks.push(uplink);
    }
    uplinks
}

fn uplink(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<UplinkSpec> {
    let values = [("gateway", &*cx.gateway_id)];
    let forward = filters(table, "forward", &values, cx);
    let accept = filters(table, "accept", &values, cx);
    if forward.is_empty() && accept.is_empty() && !table.has("forward") && !table.has("accept") {
        let help = "write, say, `forward = [\"plant/#\"]`";
        cx.report.warning(
            table.start(),
            "this uplink has no `forward` and no `accept`: nothing goes up or comes down",
            help,
        );
    }
    check_ways(table, &values, cx);
    let prefix = prefix(table, cx);
    let url = table.text("url").and_then(|url| self::url(url, table, cx));
    let version = if table.integer("version") == Some(4) { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
    let client_id = client_id(table, cx);
    let password_file = password_file(table, file, cx);
    let username = table.text("username");
    if password_file.is_some() && username.is_none() && version == ProtocolVersion::V311 {
        let found = "`password_file` stands without `username`, which MQTT 3.1.1 does not allow";
        cx.report.error(table.key_place("password_file"), found, "add `username`");
    }
    let ca = pem::authorities(table, "ca", file, cx);
    let client_cert = client_cert(table, file, cx);
    if let Some(url) = &url {
        check_tls(table, url, cx);
    }
    let name = table.text("name")?;
    cx.names.claim(NameOf::Uplink, name, table.place("name"), &cx.report);
    Some(UplinkSpec {
        name: name.into(),
        url: url?,
        version,
        client_id,
        username: username.map(str::to_owned),
        password_file,
        ca,
        client_cert,
        forward,
        accept,
        prefix,
        qos: Qos::try_from(table.unsigned::<u8>("qos")).unwrap_or_default(),
        queue: queue(table),
        drain: if table.text("drain") == Some("newest_first") { Drain::NewestFirst } else { Drain::OldestFirst },
        drain_per_sec: table.unsigned("drain_per_sec"),
        status_topic: format!("fieldgate/{}/status", cx.gateway_id).into(),
    })
}

/// What stands in `forward` or `accept` and yet never passes.
fn check_ways(table: &Table<'_>, values: &[(&str, &str)], cx: &Context<'_>) {
    let ways = |key| {
        let filled = table.texts(key).into_iter();
        filled.filter_map(|(text, place)| Some((template::expand(text, values).ok()?, place))).collect::<Vec<_>>()
    };
    let accept = ways("accept");
    for (forward, place) in ways("forward") {
        if let Some((wider, _)) = accept.iter().find(|(accept, _)| topics::covers(accept, &forward)) {
            let found = format!(
                "`{}` never goes up: `accept` takes `{}` from upstream, and what is taken from there does not go back",
                shown(&forward),
                shown(wider)
            );
            cx.report.warning(
                place,
                found,
                "write an `accept` that names commands alone, say `plant/{gateway}/+/+/set`",
            );
        }
    }
    let own = format!("fieldgate/{}/#", cx.gateway_id);
    for (accept, place) in &accept {
        if accept.starts_with('$') || topics::covers(&own, accept) {
            let found = format!("`{}` is never taken from upstream: these topics are the gateway's own", shown(accept));
            cx.report.warning(place, found, "remove it");
        }
    }
}

fn queue(table: &Table<'_>) -> QueueSpec {
    let age: u64 = table.unsigned("max_age_secs");
    QueueSpec {
        max_bytes: table.unsigned("max_bytes"),
        max_age_secs: (age != 0).then_some(age),
        when_full: match table.text("when_full") {
            Some("drop_newest") => WhenFull::DropNewest,
            _ => WhenFull::DropOldest,
        },
    }
}

fn prefix(table: &Table<'_>, cx: &Context<'_>) -> String {
    let text = table.text("prefix").unwrap_or_default();
    let filled = fill(text, &[("gateway", &cx.gateway_id)], table.place("prefix"), cx).unwrap_or_default();
    if !filled.is_empty() && !topics::is_valid_topic(&filled) {
        let found = "`prefix` cannot begin a topic";
        cx.report.error(table.place("prefix"), found, "write one without + and #, say `prefix = \"site-7/\"`");
    }
    filled
}

fn client_id(table: &Table<'_>, cx: &Context<'_>) -> String {
    let given = table.text("client_id").unwrap_or(&cx.gateway_id);
    if given.is_empty() || given.len() > topics::TOPIC_BYTES_MAX || given.contains(char::is_control) {
        let found = "`client_id` is empty, too long, or has a control character";
        cx.report.error(table.place("client_id"), found, "remove it: the default is the gateway's id");
    }
    given.to_owned()
}

/// A systemd credential of that name comes before a file.
fn password_file(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<PathBuf> {
    let name = table.text("password_file")?;
    let credential = cx.env.credentials_directory.as_ref().filter(|_| !name.contains('/')).map(|dir| dir.join(name));
    let (path, text) = match credential.map(|path| (cx.files.read_bytes(&path), path)) {
        Some((Ok(text), path)) => (path, Ok(text)),
        Some((Err(_), _)) | None => {
            let path = cx.beside(file, name);
            let text = cx.files.read_bytes(&path);
            (path, text)
        }
    };
    let place = table.place("password_file");
    match text {
        Err(error) => cx.unreadable(&path, &error, place, "password_file"),
        Ok(text) if text.trim_ascii().is_empty() => {
            let found = format!("`password_file` names {}, which is empty", path.display());
            cx.report.error(place, found, "write the password into it, alone on its line");
        }
        Ok(_) => {}
    }
    Some(path)
}

fn client_cert(table: &Table<'_>, file: &Path, cx: &Context<'_>) -> Option<(PathBuf, PathBuf)> {
    let (cert, key) = pem::identity(table, ("client_cert", "client_key"), file, cx);
    for (one, other) in [("client_cert", "client_key"), ("client_key", "client_cert")] {
        if table.has(one) && !table.has(other) {
            cx.report.error(
                table.key_place(one),
                format!("`{one}` stands without `{other}`"),
                format!("add `{other}`"),
            );
        }
    }
    Some((cert?, key?))
}

fn check_tls(table: &Table<'_>, url: &UplinkUrl, cx: &Context<'_>) {
    let with_tls = match url.scheme {
        Scheme::Mqtt => "mqtts",
        Scheme::Ws => "wss",
        Scheme::Mqtts | Scheme::Wss => return,
    };
    for key in ["ca", "client_cert", "client_key"] {
        if table.has(key) {
            let found = format!("`{key}` has no effect: this `url` is without TLS");
            cx.report.error(
                table.key_place(key),
                found,
                format!("write `url = \"{with_tls}://…\"`, or remove `{key}`"),
            );
        }
    }
    let local = url.host == "localhost"
        || url.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if table.has("password_file") && !local {
        let found = "the password goes over the network unencrypted";
        cx.report.warning(table.place("url"), found, format!("write `url = \"{with_tls}://…\"` if the broker has TLS"));
    }
}

/// `scheme://host[:port][/path]`. What was given is not repeated in messages: it may hold a password.
fn url(text: &str, table: &Table<'_>, cx: &Context<'_>) -> Option<UplinkUrl> {
    let place = table.place("url");
    let wrong = |found: &str, expected: &str| {
        cx.report.push(Diagnostic::error(place, found).expected(expected).help(URL_EXAMPLE));
    };
    let known = [
        ("mqtt://", Scheme::Mqtt, 1883),
        ("mqtts://", Scheme::Mqtts, 8883),
        ("ws://", Scheme::Ws, 80),
        ("wss://", Scheme::Wss, 443),
    ];
    let Some((rest, scheme, default_port)) =
        known.iter().find_map(|(begin, scheme, port)| Some((text.strip_prefix(begin)?, *scheme, *port)))
    else {
        wrong("`url` has no scheme that is known", "mqtt://, mqtts://, ws:// or wss://");
        return None;
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if authority.contains('@') {
        cx.report.push(
            Diagnostic::error(place, "`url` holds a name or password")
                .help("remove them from the url; write `username = \"…\"` and `password_file = \"cloud.password\"`"),
        );
        return None;
    }
    let Some((host, port)) = host_and_port(authority, Some(default_port)) else {
        wrong("`url` has no host, or no port from 1 to 65535", "scheme://host:port; IPv6 addresses in brackets");
        return None;
    };
    let web = matches!(scheme, Scheme::Ws | Scheme::Wss);
    if !web && !matches!(path, "" | "/") {
        wrong("`url` has a path, which only ws and wss have", "scheme://host:port");
    } else if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        wrong("`url` has a space in its path", "scheme://host:port/path");
    }
    let path = if !web {
        String::new()
    } else if matches!(path, "" | "/") {
        "/mqtt".to_owned()
    } else {
        path.to_owned()
    };
    Some(UplinkUrl { scheme, host, port, path })
}

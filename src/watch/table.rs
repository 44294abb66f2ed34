//! What is shown: the last message of each topic, sorted, within the window.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::clock::UnixMs;
use crate::timestamp;
use crate::uplink::codec::Publish;

/// Topics that are kept; those that come later are counted only (P7).
const TOPICS_MAX: usize = 10_000;
/// A longer topic is not kept either: 10,000 of them stay within some megabytes.
const TOPIC_BYTES_MAX: usize = 1_024;
const VALUE_CHARS_MAX: usize = 200;

#[derive(Debug)]
struct Row {
    value: String,
    unit: String,
    /// Empty: good.
    fault: String,
    /// When the value was read, where the payload says so; else when it came.
    at: UnixMs,
}

/// The topics seen so far.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<String, Row>,
    messages: u64,
    /// Messages on topics beyond the bound.
    beyond: u64,
}

/// Columns and lines of a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

impl Rows {
    pub(super) fn take(&mut self, message: &Publish, at: UnixMs) {
        self.messages += 1;
        let topic = &message.topic;
        if message.payload.is_empty() && message.retain {
            // A retained message was taken back.
            self.rows.remove(topic);
        } else if let Some(row) = self.rows.get_mut(topic) {
            *row = read(&message.payload, at);
        } else if self.rows.len() < TOPICS_MAX && topic.len() <= TOPIC_BYTES_MAX {
            self.rows.insert(topic.clone(), read(&message.payload, at));
        } else {
            self.beyond += 1;
        }
    }

    /// Lines that fit the window: as many topics as there is room for, and below them what is left out.
    pub(super) fn draw(&self, window: Window, now: UnixMs, status: &str) -> Vec<String> {
        let room = window.lines.saturating_sub(2).max(1);
        let shown = || self.rows.iter().take(room);
        let width = shown().map(|(topic, _)| cleaned(topic).chars().count()).max().unwrap_or(5);
        let width = width.clamp(5, (window.columns / 2).max(5));
        let mut lines = vec![format!("{:width$}  {:>16} {:<6} {:>8}  quality", "topic", "value", "unit", "age")];
        lines.extend(shown().map(|(topic, row)| {
            let (topic, value, unit) = (cut(&cleaned(topic), width), &row.value, cut(&row.unit, 6));
            let quality = if row.fault.is_empty() { "good" } else { &row.fault };
            let age = age(now, row.at);
            // A text is longer than a number: it has the rest of the line.
            format!("{topic:width$}  {:>16} {unit:<6} {age:>8}  {quality}", cut(value, 16))
        }));
        let hidden = self.rows.len().saturating_sub(room);
        let mut foot = format!("{} topics, {} messages", self.rows.len(), self.messages);
        if hidden > 0 {
            foot += &format!("; {hidden} topics more do not fit: name a FILTER");
        }
        if self.beyond > 0 {
            foot += &format!("; {} messages on topics beyond the first {TOPICS_MAX} not shown", self.beyond);
        }
        if !status.is_empty() {
            foot += &format!("; {status}");
        }
        lines.push(foot);
        lines.iter().map(|line| cut(line, window.columns)).collect()
    }
}

/// A sample's payload by its keys; any other as text.
fn read(payload: &[u8], at: UnixMs) -> Row {
    let object = match serde_json::from_slice(payload) {
        Ok(Value::Object(object)) if object.contains_key("value") => object,
        Ok(_) | Err(_) => return Row { value: words(payload), unit: String::new(), fault: String::new(), at },
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(cleaned).unwrap_or_default();
    let value = match object.get("value") {
        Some(Value::String(text)) => cleaned(text),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => cleaned(&other.to_string()),
    };
    let at = object.get("time").and_then(Value::as_str).and_then(timestamp::parse).unwrap_or(at);
    let fault = match (text("fault"), text("clock")) {
        (fault, clock) if fault.is_empty() && !clock.is_empty() => format!("clock {clock}"),
        (fault, _) => fault,
    };
    Row { value, unit: text("unit"), fault, at }
}

fn words(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => cleaned(text),
        Err(_) => format!("({} bytes)", payload.len()),
    }
}

/// Without what would move the cursor, and not endless.
fn cleaned(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(VALUE_CHARS_MAX).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn age(now: UnixMs, at: UnixMs) -> String {
    let seconds = now.0.saturating_sub(at.0).max(0) as f64 / 1000.0;
    match seconds {
        0.0..100.0 => format!("{seconds:.1} s"),
        100.0..6_000.0 => format!("{:.0} min", seconds / 60.0),
        6_000.0..360_000.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// One message as one line: `TIME TOPIC PAYLOAD`, control characters escaped.
pub(super) fn line(message: &Publish, at: UnixMs) -> String {
    let escaped = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out
    };
    let payload = String::from_utf8_lossy(&message.payload);
    format!("{} {} {}\n", timestamp::format(at), escaped(&message.topic), escaped(&payload))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::message::Qos;

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish {
            packet_id: None,
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload),
            qos: Qos::AtMostOnce,
            retain: false,
            properties: None,
            expiry: None,
        }
    }

    fn at(text: &str) -> UnixMs {
        timestamp::parse(text).unwrap()
    }

    const NOW: &str = "2026-01-31T12:00:05Z";
    const WIDE: Window = Window { columns: 120, lines: 24 };

    fn drawn(messages: &[(&str, &str)]) -> Vec<String> {
        let mut rows = Rows::default();
        for (topic, payload) in messages {
            rows.take(&message(topic, payload.as_bytes()), at(NOW));
        }
        rows.draw(WIDE, at(NOW), "")
    }

    fn fields(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_sample_shows_its_value_unit_age_and_quality() {
        let lines = drawn(&[
            ("p/volt", r#"{"value":230.1,"unit":"V","time":"2026-01-31T12:00:02.500Z","boot":"k","seq":1}"#),
            ("p/amp", r#"{"value":null,"fault":"timeout","time":"2026-01-31T12:00:05Z"}"#),
            ("p/plain", "17"),
        ]);
        assert_eq!(fields(&lines[1]), ["p/amp", "-", "0.0", "s", "timeout"]);
        assert_eq!(fields(&lines[2]), ["p/plain", "17", "0.0", "s", "good"]);
        assert_eq!(fields(&lines[3]), ["p/volt", "230.1", "V", "2.5", "s", "good"]);
        assert_eq!(lines[4], "3 topics, 3 messages");
    }

    #[test]
    fn a_window_is_never_overfilled_and_says_what_it_hides() {
        let mut rows = Rows::default();
        for number in 0..100 {
            rows.take(&message(&format!("a/very/long/topic/of/number/{number:03}"), &[b'x'; 500]), at(NOW));
        }
        let lines = rows.draw(Window { columns: 40, lines: 10 }, at(NOW), "");
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:#?}");
        let wide = rows.draw(Window { columns: 200, lines: 10 }, at(NOW), "not connected");
        assert!(wide[9].contains("92 topics more") && wide[9].ends_with("not connected"), "{}", wide[9]);
    }

    #[test]
    fn topics_are_bounded_and_those_known_go_on() {
        let mut rows = Rows::default();
        for number in 0..TOPICS_MAX + 5 {
            rows.take(&message(&format!("t/{number:05}"), b"1"), at(NOW));
        }
        rows.take(&message("t/00000", b"2"), at(NOW));
        assert_eq!((rows.rows.len(), rows.beyond), (TOPICS_MAX, 5));
        assert_eq!(rows.rows["t/00000"].value, "2");
    }

    #[test]
    fn a_line_stays_one_line_whatever_the_payload_holds() {
        let text = line(&message("a/b", b"one\ntwo\x1b[2J"), at(NOW));
        assert_eq!(text, "2026-01-31T12:00:05.000Z a/b one\\ntwo\\u{1b}[2J\n");
    }

    proptest! {
        #[test]
        fn no_message_breaks_the_table(
            topic in ".{1,40}", payload in prop::collection::vec(any::<u8>(), 0..60), json in ".{0,20}",
            columns in 0_usize..200, lines in 0_usize..50,
        ) {
            let mut rows = Rows::default();
            rows.take(&message(&topic, &payload), at(NOW));
            rows.take(&message("j", format!("{{\"value\":{json:?},\"unit\":{json:?},\"time\":{json:?}}}").as_bytes()), at(NOW));
            for drawn in rows.draw(Window { columns, lines }, at(NOW), "") {
                prop_assert!(!drawn.chars().any(char::is_control));
                prop_assert!(drawn.chars().count() <= columns.max(1));
            }
            prop_assert_eq!(line(&message(&topic, &payload), at(NOW)).lines().count(), 1);
        }
    }
}

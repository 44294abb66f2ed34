//! `[[can.request]]`: what is asked for by ISO-TP, and where its value stands in the answer.

use std::time::Duration;

use super::super::Context;
use super::super::point::check_report;
use super::{Bus, Meaning, add, id, kind};
use crate::can::spec::{Addressing, AnswerKind, AnswerSpec, BitOrder, Layout, Number, RequestSpec, Source};
use crate::config::reader::Table;
use crate::mapping::rule::Kind;

pub(super) fn asked(table: &Table<'_>, bus: &mut Bus<'_>, cx: &Context<'_>) {
    check_report(table, true, cx);
    let request = table.text("request").and_then(|text| {
        let bytes = hexadecimal(text).filter(|bytes| (1..=4095).contains(&bytes.len()));
        if bytes.is_none() {
            cx.report.error(
                table.place("request"),
                "`request` is no list of hexadecimal bytes",
                "write, say, `request = \"01 0D\"`",
            );
        }
        bytes
    });
    let answer = table.table("answer", &cx.report).and_then(|answer| answer_spec(&answer, cx));
    let (send, receive) = (id(table, "send", cx), id(table, "receive", cx));
    let (Some(request), Some((answer, kind)), Some(send), Some(receive)) = (request, answer, send, receive) else {
        return;
    };
    let Some(name) = table.text("name") else { return };
    let source = Source::Request(RequestSpec {
        send,
        receive: vec![receive],
        addressing: Addressing::Normal,
        request: request.into(),
        padding: table.integer("padding").and_then(|byte| u8::try_from(byte).ok()),
        fd: false,
        answer,
        interval: Duration::from_millis(table.unsigned("interval_ms")),
        timeout: Duration::from_millis(table.unsigned("timeout_ms")),
    });
    add(table, bus, &Meaning { name, kind, dbc: None }, source, None, cx);
}

/// `01 0D`, `010D`, `01 f4 10`.
fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if word.len() % 2 != 0 || !word.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for at in (0..word.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&word[at..at + 2], 16).ok()?);
        }
    }
    Some(bytes)
}

fn answer_spec(table: &Table<'_>, cx: &Context<'_>) -> Option<(AnswerSpec, Kind)> {
    let offset = u16::try_from(table.integer("offset")?).ok()?;
    let length = table.integer("length").and_then(|length| u16::try_from(length).ok());
    let (bits, number) = match table.text("type")? {
        "string" => {
            let bytes = usize::from(length.unwrap_or(4095));
            return Some((AnswerSpec { offset, kind: AnswerKind::Text { length } }, Kind::Text { bytes }));
        }
        "i8" => (8, Number::Signed),
        "u16" => (16, Number::Unsigned),
        "i16" => (16, Number::Signed),
        "u24" => (24, Number::Unsigned),
        "u32" => (32, Number::Unsigned),
        "i32" => (32, Number::Signed),
        "u64" => (64, Number::Unsigned),
        "i64" => (64, Number::Signed),
        "f32" => (32, Number::F32),
        "f64" => (64, Number::F64),
        _ => (8, Number::Unsigned),
    };
    if table.has("length") {
        cx.report.error(
            table.key_place("length"),
            "`length` belongs to strings",
            "remove it, or write `type = \"string\"`",
        );
    }
    let little = table.text("order") == Some("little");
    let (start, order) = if little { (0, BitOrder::Little) } else { (7, BitOrder::Big) };
    let layout = Layout::new(start, bits, order, number).ok()?;
    Some((AnswerSpec { offset, kind: AnswerKind::Number(layout) }, kind(layout)))
}

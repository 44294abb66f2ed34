//! What a message on `TOPIC/set` asks for: a bare value, or `{"value":42,"id":"any","expires":"2026-…Z"}`.

use std::sync::Arc;

use serde::Deserialize;

use crate::clock::UnixMs;
use crate::mapping::number::{Decimal, Number};
use crate::timestamp;

/// Longest payload that is looked at: four times what the longest text and id take.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4096;

/// Longest id that is echoed and remembered.
const ID_BYTES_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Given {
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) value: Given,
    pub(crate) id: Option<String>,
    pub(crate) expires: Option<UnixMs>,
}

/// Why there is no request, and the id where at least that could be read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unreadable {
    pub(crate) id: Option<String>,
    pub(crate) reason: String,
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Self { id: None, reason }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    value: serde_json::Value,
    id: Option<String>,
    expires: Option<String>,
}

/// `text`: the point holds text, so that a bare payload is taken as it stands.
pub(crate) fn parse(payload: &[u8], text: bool) -> Result<Request, Unreadable> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(format!("the payload is longer than {PAYLOAD_BYTES_MAX} bytes").into());
    }
    let whole = std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?;
    let trimmed = whole.trim_ascii();
    if trimmed.starts_with('{') {
        return object(trimmed);
    }
    let bare = |value| Ok(Request { value, id: None, expires: None });
    if text && !trimmed.starts_with('"') {
        return bare(Given::Text(whole.into()));
    }
    if trimmed.is_empty() {
        return Err("the payload is empty".to_owned().into());
    }
    match serde_json::from_str(trimmed) {
        Ok(value) => bare(given(value)?),
        Err(error) if trimmed.starts_with(['"', '[']) => Err(format!("malformed JSON: {error}").into()),
        Err(_) => bare(Given::Text(trimmed.into())),
    }
}

fn object(text: &str) -> Result<Request, Unreadable> {
    let object: Object = serde_json::from_str(text).map_err(|error| {
        let id = serde_json::from_str::<serde_json::Value>(text).ok();
        let id = id.as_ref().and_then(|object| object.get("id")?.as_str()).filter(|id| id.len() <= ID_BYTES_MAX);
        let kind = if error.is_data() { "not a command" } else { "malformed JSON" };
        Unreadable { id: id.map(str::to_owned), reason: format!("{kind}: {error}") }
    })?;
    if object.id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
        return Err(format!("the id is longer than {ID_BYTES_MAX} bytes").into());
    }
    let id = object.id;
    let value = given(object.value).map_err(|reason| Unreadable { id: id.clone(), reason })?;
    let expires = match object.expires {
        None => None,
        Some(text) => Some(timestamp::parse(&text).ok_or_else(|| Unreadable {
            id: id.clone(),
            reason: "expires is not an RFC 3339 time such as 2026-01-31T12:00:00Z".to_owned(),
        })?),
    };
    Ok(Request { value, id, expires })
}

fn given(value: serde_json::Value) -> Result<Given, String> {
    use serde_json::Value;
    match value {
        Value::Bool(on) => Ok(Given::Bool(on)),
        Value::String(text) => Ok(Given::Text(text.into())),
        Value::Number(number) => {
            let exact = number
                .as_u64()
                .map(Decimal::integer)
                .or_else(|| number.as_i64().map(Decimal::integer))
                .or_else(|| number.as_f64().and_then(Decimal::shortest));
            match (exact, number.as_f64()) {
                (Some(exact), _) => Ok(Given::Number(Number::Decimal(exact))),
                (None, Some(float)) if float.is_finite() => Ok(Given::Number(Number::F64(float))),
                (None, _) => Err("the number is too large".to_owned()),
            }
        }
        Value::Null => Err("null is no value".to_owned()),
        Value::Array(_) => Err("an array is no value".to_owned()),
        Value::Object(_) => Err("an object is no value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Given {
        Given::Number(Number::Decimal(Decimal::parse(text).unwrap()))
    }

    #[test]
    fn bare_values_and_objects_are_read() {
        for (payload, value) in [
            ("42", number("42")),
            (" 4.5\n", number("4.5")),
            ("-1e3", number("-1000")),
            ("18446744073709551615", number("18446744073709551615")),
            ("true", Given::Bool(true)),
            ("on", Given::Text("on".into())),
            ("\"on\"", Given::Text("on".into())),
            ("NaN", Given::Text("NaN".into())),
            (r#"{"value":42}"#, number("42")),
        ] {
            assert_eq!(parse(payload.as_bytes(), false).unwrap().value, value, "{payload}");
        }
        let request = parse(br#"{"value":1,"id":"a","expires":"2026-01-31T13:00:00.123+01:00"}"#, false).unwrap();
        assert_eq!((request.id.as_deref(), request.expires), (Some("a"), Some(UnixMs(1_769_860_800_123))));
    }

    #[test]
    fn a_text_point_takes_a_bare_payload_as_it_stands() {
        for (payload, text) in [("42", "42"), (" hi ", " hi "), ("\"a\\nb\"", "a\nb"), ("", "")] {
            assert_eq!(parse(payload.as_bytes(), true).unwrap().value, Given::Text(text.into()));
        }
        assert_eq!(parse(br#"{"value":42}"#, true).unwrap().value, number("42"));
    }

    #[test]
    fn what_is_no_command_says_why_and_keeps_its_id() {
        for (payload, id, reason) in [
            (&b"{\"value\":"[..], None, "malformed JSON"),
            (b"\"on", None, "malformed JSON"),
            (b"", None, "empty"),
            (b"\xff", None, "UTF-8"),
            (b"null", None, "null"),
            (b"[1]", None, "array"),
            (br#"{"id":"a"}"#, Some("a"), "missing field `value`"),
            (br#"{"value":1,"id":"a","ttl":5}"#, Some("a"), "unknown field `ttl`"),
            (br#"{"value":1,"value":2,"id":"a"}"#, Some("a"), "duplicate field"),
            (br#"{"value":null,"id":"a"}"#, Some("a"), "null"),
            (br#"{"value":1,"id":"a","expires":"soon"}"#, Some("a"), "RFC 3339"),
            (br#"{"value":1,"id":7}"#, None, "not a command"),
        ] {
            let unreadable = parse(payload, false).unwrap_err();
            assert_eq!(unreadable.id.as_deref(), id);
            assert!(unreadable.reason.contains(reason), "{} for {reason}", unreadable.reason);
        }
        assert!(parse(&[b' '; PAYLOAD_BYTES_MAX + 1], true).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(payload: Vec<u8>, text: bool) {
            let _ = parse(&payload, text);
        }

        #[test]
        fn nothing_like_a_command_panics_the_parser(payload in r#"[{}\[\]",:a-z0-9.eE+-]{0,40}"#, text: bool) {
            let _ = parse(payload.as_bytes(), text);
        }
    }
}

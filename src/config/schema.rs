//! JSON Schema (2020-12) of the files, for editors; printed from the same tables that the reader refuses by.

use serde_json::{Map, Value, json};

use super::keys::{Default, GATEWAY_FILE, Key, Kind, MAPPING_FILE, PROFILE_FILE, TableDef};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOf {
    Gateway,
    Mapping,
}

/// The schema of a gateway file, or of a mapping file and the profiles beside it: `[[point]]` at the top makes a profile.
pub fn schema(of: SchemaOf) -> Value {
    let (mut whole, title) = match of {
        SchemaOf::Gateway => (table(&GATEWAY_FILE), "fieldgate: the gateway file"),
        SchemaOf::Mapping => (mapping_or_profile(), "fieldgate: a mapping file or a profile"),
    };
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        fields.insert("title".into(), title.into());
    }
    whole
}

/// One file is one of the two, and only their tests have the same name with another meaning.
fn mapping_or_profile() -> Value {
    let (mut whole, profile) = (table(&MAPPING_FILE), table(&PROFILE_FILE));
    let of_profile = profile["properties"].as_object().cloned().unwrap_or_default();
    let mut tests = Value::Null;
    if let Some(properties) = whole["properties"].as_object_mut() {
        tests = properties.insert("test".into(), json!(true)).unwrap_or_default();
        properties.extend(of_profile.into_iter().filter(|(name, _)| name != "test"));
    }
    whole["if"] = json!({ "anyOf": [{ "required": ["point"] }, { "required": ["profile"] }] });
    whole["then"] = json!({ "properties": { "test": profile["properties"]["test"], "modbus": false, "can": false } });
    whole["else"] = json!({ "properties": { "test": tests } });
    whole
}

fn table(def: &TableDef) -> Value {
    let shown = || def.keys.iter().filter(|key| !matches!(key.kind, Kind::Refused(..)));
    let properties: Map<String, Value> = shown().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> =
        shown().filter(|key| matches!(key.default, Default::Required)).map(|key| key.name).collect();
    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let (Some(fields), false) = (table.as_object_mut(), required.is_empty()) {
        fields.insert("required".into(), required.into());
    }
    table
}

fn property(key: &Key) -> Value {
    let mut property = kind(&key.kind);
    let Some(fields) = property.as_object_mut() else { return property };
    let mut doc = key.doc.to_owned();
    match key.default {
        Default::Required | Default::None => {}
        Default::Said(said) => doc = format!("{doc} Default: {said}."),
        Default::Text(text) => drop(fields.insert("default".into(), text.into())),
        Default::Integer(number) => drop(fields.insert("default".into(), number.into())),
        Default::Number(number) => drop(fields.insert("default".into(), number.into())),
        Default::Boolean(flag) => drop(fields.insert("default".into(), flag.into())),
        Default::Texts(texts) => drop(fields.insert("default".into(), texts.into())),
    }
    fields.insert("description".into(), doc.into());
    property
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Name => {
            json!({ "type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^/+#{}\x00-\x1f\x7f]+$" })
        }
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Integer(least, i64::MAX) => json!({ "type": "integer", "minimum": least }),
        Kind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Address(_) => json!({ "type": "integer", "minimum": 0, "maximum": 65_535 }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::TextList => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::IntegerList(least, most) => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": least, "maximum": most } })
        }
        Kind::Deadband => json!({ "anyOf": [
            { "type": "number", "minimum": 0 },
            { "type": "string", "pattern": r"^\s*[0-9.]+\s*%$" },
        ] }),
        Kind::NumberOrBoolean => json!({ "type": ["number", "boolean"] }),
        Kind::NameMap => json!({
            "type": "object",
            "patternProperties": { "^-?[0-9]+$": { "type": "string" } },
            "additionalProperties": false,
        }),
        Kind::Scalar => json!({ "type": ["number", "string", "boolean"] }),
        Kind::Table(def) => table(def),
        Kind::Tables(def) => json!({ "type": "array", "items": table(def) }),
        Kind::Refused(..) => json!(false),
    }
}

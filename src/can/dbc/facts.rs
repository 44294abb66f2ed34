//! What a DBC file says apart from its messages and signals, found by them; and where these stand.

use std::collections::{HashMap, HashSet};

use can_dbc::{
    AttributeDefinition, AttributeValue, AttributeValueType, Comment, Dbc, MessageId, SignalExtendedValueType,
    ValueDescription,
};

#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) line: usize,
    /// As it stands in the file: the parser cuts standard identifiers to 16 bits.
    pub(super) id: Option<u64>,
}

/// Where messages and signals stand, by a walk over the lines: the parser does not tell.
#[derive(Default)]
pub(super) struct Places<'a> {
    /// By name and count of that name.
    pub(super) messages: HashMap<(&'a str, usize), Place>,
    /// By the message's line and the signal's name.
    pub(super) signals: HashMap<(usize, &'a str), usize>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let mut places = Self::default();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut message = 0;
        for (number, line) in text.lines().enumerate() {
            let mut words =
                line.split(|letter: char| letter.is_whitespace() || letter == ':').filter(|word| !word.is_empty());
            match words.next() {
                Some("BO_") => {
                    let (id, name) = (words.next(), words.next().unwrap_or_default());
                    message = number + 1;
                    let count = counts.entry(name).or_default();
                    let place = Place { line: message, id: id.and_then(|id| id.parse().ok()) };
                    places.messages.insert((name, *count), place);
                    *count += 1;
                }
                Some("SG_") => {
                    places.signals.entry((message, words.next().unwrap_or_default())).or_insert(number + 1);
                }
                _ => {}
            }
        }
        places
    }
}

/// What stands apart from the messages and signals that it is about, found by them.
pub(super) struct Facts<'a> {
    pub(super) places: Places<'a>,
    /// What the parser makes of two identifiers or more, which it cuts to 16 bits.
    pub(super) shared: HashSet<MessageId>,
    pub(super) message_names: HashMap<MessageId, &'a str>,
    pub(super) signal_names: HashMap<(MessageId, &'a str), &'a str>,
    /// `VFrameFormat` as the name of the format.
    pub(super) formats: HashMap<MessageId, &'a str>,
    pub(super) default_format: Option<&'a str>,
    pub(super) floats: HashMap<(MessageId, &'a str), SignalExtendedValueType>,
    pub(super) tables: HashMap<(MessageId, &'a str), &'a [can_dbc::ValDescription]>,
    pub(super) comments: HashMap<(MessageId, &'a str), &'a str>,
    pub(super) extended: HashMap<(MessageId, &'a str), &'a can_dbc::ExtendedMultiplex>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(dbc: &'a Dbc, text: &'a str) -> Self {
        let formats: &[String] = dbc
            .attribute_definitions
            .iter()
            .find_map(|definition| {
                let AttributeDefinition::Message(name, AttributeValueType::Enum(values)) = definition else {
                    return None;
                };
                (name == "VFrameFormat").then_some(values.as_slice())
            })
            .unwrap_or_default();
        let format = |value: &'a AttributeValue| match value {
            AttributeValue::Uint(place) => {
                usize::try_from(*place).ok().and_then(|at| formats.get(at)).map(String::as_str)
            }
            AttributeValue::String(name) => Some(name.as_str()),
            AttributeValue::Int(_) | AttributeValue::Double(_) => None,
        };
        let text_of = |value: &'a AttributeValue| {
            let AttributeValue::String(text) = value else { return None };
            (!text.is_empty()).then_some(text.as_str())
        };
        let of_messages =
            |name: &'static str| dbc.attribute_values_message.iter().filter(move |value| value.name == name);
        let places = Places::of(text);
        Self {
            shared: shared(dbc, &places),
            places,
            message_names: of_messages("SystemMessageLongSymbol")
                .filter_map(|value| Some((value.message_id, text_of(&value.value)?)))
                .collect(),
            signal_names: dbc
                .attribute_values_signal
                .iter()
                .filter(|value| value.name == "SystemSignalLongSymbol")
                .filter_map(|value| Some(((value.message_id, value.signal_name.as_str()), text_of(&value.value)?)))
                .collect(),
            formats: of_messages("VFrameFormat")
                .filter_map(|value| Some((value.message_id, format(&value.value)?)))
                .collect(),
            default_format: dbc
                .attribute_defaults
                .iter()
                .find(|default| default.name == "VFrameFormat")
                .and_then(|default| format(&default.value)),
            floats: dbc
                .signal_extended_value_type_list
                .iter()
                .map(|value| ((value.message_id, value.signal_name.as_str()), value.signal_extended_value_type))
                .collect(),
            tables: dbc
                .value_descriptions
                .iter()
                .filter_map(|table| match table {
                    ValueDescription::Signal { message_id, name, value_descriptions } => {
                        Some(((*message_id, name.as_str()), value_descriptions.as_slice()))
                    }
                    ValueDescription::EnvironmentVariable { .. } => None,
                })
                .collect(),
            comments: dbc
                .comments
                .iter()
                .filter_map(|comment| {
                    let Comment::Signal { message_id, name, comment } = comment else { return None };
                    Some(((*message_id, name.as_str()), comment.as_str()))
                })
                .collect(),
            extended: dbc
                .extended_multiplex
                .iter()
                .map(|entry| ((entry.message_id, entry.signal_name.as_str()), entry))
                .collect(),
        }
    }
}

/// Identifiers of which a longer one was cut, and that are not the only ones of their kind.
fn shared(dbc: &Dbc, places: &Places<'_>) -> HashSet<MessageId> {
    let mut nth: HashMap<&str, usize> = HashMap::new();
    let mut seen: HashMap<MessageId, HashSet<u64>> = HashMap::new();
    for message in &dbc.messages {
        let count = nth.entry(message.name.as_str()).or_default();
        let place = places.messages.get(&(message.name.as_str(), *count)).copied().unwrap_or_default();
        *count += 1;
        if let (MessageId::Standard(_), Some(raw)) = (message.id, place.id) {
            seen.entry(message.id).or_default().insert(raw);
        }
    }
    seen.into_iter().filter(|(_, raws)| raws.len() > 1).map(|(id, _)| id).collect()
}

//! What a command's sender is told, on `TOPIC/set/result` and on the response topic that an MQTT 5 publisher gave.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::UnixMs;
use crate::hub::topics::is_valid_topic;
use crate::mapping::command::Answer;
use crate::mapping::json;
use crate::mapping::recent::DeliveryName;
use crate::message::{Message, Origin, Properties, Qos};
use crate::timestamp::Timestamps;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    Rejected,
    Failed,
    Expired,
}

/// Who asked, and where they want to be answered beside the result topic.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) id: Option<String>,
    /// As a piece of JSON.
    pub(crate) value: Option<String>,
    /// Of a client's QoS 1 or 2 publish.
    pub(crate) delivery: Option<DeliveryName>,
    reply: Option<Reply>,
}

#[derive(Clone, Debug)]
struct Reply {
    topic: Arc<str>,
    correlation: Option<Bytes>,
    origin: Origin,
}

impl Asker {
    /// A response topic that is none, the gateway's own or another command's is not answered to: a command must not
    /// make the gateway command or speak in its own name.
    pub(crate) fn of(message: &Message, origin: Origin) -> Self {
        let reply = message.properties.as_ref().and_then(|properties| {
            let topic = properties.response_topic.as_deref()?;
            let foreign = topic.starts_with("fieldgate/") || topic.starts_with('$') || topic.ends_with("/set");
            (is_valid_topic(topic) && !foreign).then(|| Reply {
                topic: topic.into(),
                correlation: properties.correlation_data.clone(),
                origin,
            })
        });
        Self { id: None, value: None, delivery: None, reply }
    }

    pub(crate) fn gateway(id: &str) -> Self {
        Self { id: Some(id.to_owned()), value: None, delivery: None, reply: None }
    }

    pub(crate) fn payload(&self, status: Status, readback: Option<&str>, error: Option<&str>, now: UnixMs) -> Bytes {
        let mut out = vec![b'{'];
        if let Some(id) = &self.id {
            out.extend_from_slice(b"\"id\":");
            json::string(&mut out, id);
            out.push(b',');
        }
        out.extend_from_slice(match status {
            Status::Done => b"\"status\":\"done\"",
            Status::Rejected => b"\"status\":\"rejected\"",
            Status::Failed => b"\"status\":\"failed\"",
            Status::Expired => b"\"status\":\"expired\"",
        });
        for (name, piece) in [(",\"value\":", self.value.as_deref()), (",\"readback\":", readback)] {
            if let Some(piece) = piece {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(piece.as_bytes());
            }
        }
        if let Some(error) = error {
            out.extend_from_slice(b",\"error\":");
            json::string(&mut out, error);
        }
        out.extend_from_slice(b",\"time\":\"");
        out.extend_from_slice(Timestamps::default().format(now));
        out.extend_from_slice(b"\"}");
        out.into()
    }

    /// The result, wherever it is wanted.
    pub(crate) fn answer(&self, result_topic: &Arc<str>, payload: &Bytes, out: &mut Vec<Answer>) {
        let message = Message::new(result_topic.clone(), payload.clone(), Qos::AtLeastOnce, false);
        out.push(Answer { message, behalf: None });
        if let Some(reply) = &self.reply {
            let mut message = Message::new(reply.topic.clone(), payload.clone(), Qos::AtLeastOnce, false);
            message.properties = reply.correlation.as_ref().map(|correlation| {
                Arc::new(Properties { correlation_data: Some(correlation.clone()), ..Properties::default() })
            });
            out.push(Answer { message, behalf: Some(reply.origin) });
        }
    }
}

//! What the server says of messages: its own, and ours.

use super::*;

impl Session {
    pub(super) fn received_publish(&mut self, publish: Publish, now: Now) -> Result<(), SessionError> {
        let Some(token) = self.inbox.arrived(&publish, &mut self.out)? else {
            return Ok(());
        };
        match inbox::accepted(&self.spec, publish, now) {
            Some(message) => self.events.push_back(SessionEvent::Message { message, token }),
            None => {
                self.events.push_back(SessionEvent::Unasked);
                self.inbox.acknowledge(token, &mut self.out);
            }
        }
        Ok(())
    }

    pub(super) fn received_puback(&mut self, ack: Ack) -> Result<(), SessionError> {
        match self.in_flight.remove(&ack.packet_id) {
            Some(done) if done.qos == Qos::AtLeastOnce => {
                self.settle(done, ack);
                Ok(())
            }
            Some(_) => Err(SessionError::Protocol("PUBACK for QoS 2")),
            None => Err(SessionError::Protocol("PUBACK for nothing")),
        }
    }

    pub(super) fn received_pubrec(&mut self, ack: Ack) -> Result<(), SessionError> {
        let id = ack.packet_id;
        match self.in_flight.get_mut(&id) {
            Some(sent) if sent.qos == Qos::ExactlyOnce => {
                if ack.code < 0x80 {
                    sent.released = true;
                    encode::ack(encode::Ack::Pubrel, id, &mut self.out);
                } else if let Some(refused) = self.in_flight.remove(&id) {
                    self.settle(refused, ack);
                }
                Ok(())
            }
            Some(_) | None => Err(SessionError::Protocol("PUBREC for nothing")),
        }
    }

    /// Whatever its reason code: the server took the message when it sent PUBREC.
    pub(super) fn received_pubcomp(&mut self, ack: &Ack) -> Result<(), SessionError> {
        match self.in_flight.remove(&ack.packet_id) {
            Some(done) if done.released => {
                self.events.extend(done.seq.map(SessionEvent::Delivered));
                Ok(())
            }
            Some(_) | None => Err(SessionError::Protocol("PUBCOMP for nothing")),
        }
    }

    pub(super) fn settle(&mut self, sent: InFlight, ack: Ack) {
        let event = match (sent.seq, ack.code) {
            (Some(seq), code) if code < 0x80 => SessionEvent::Delivered(seq),
            (Some(seq), code) => SessionEvent::Refused {
                seq,
                topic: sent.topic,
                reason: described(code, ack.text.as_deref()),
                will_pass: will_pass(code),
            },
            (None, code) if code < 0x80 => return,
            (None, code) => {
                let why = described(code, ack.text.as_deref());
                SessionEvent::Notice(format!("status topic refused: {why}"))
            }
        };
        self.events.push_back(event);
    }
}

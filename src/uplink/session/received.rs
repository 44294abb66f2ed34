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
            Some(done) if done.qos == Qos::AtLeastOnce => self.settle(done, ack),
            Some(_) => Err(SessionError::Protocol("PUBACK for QoS 2")),
            None => Err(SessionError::Protocol("PUBACK for nothing")),
        }
    }

    pub(super) fn received_pubrec(&mut self, ack: Ack) -> Result<(), SessionError> {
        let id = ack.packet_id;
        match self.in_flight.get_mut(&id) {
            Some(sent) if sent.qos == Qos::ExactlyOnce => {
                if ack.code < 0x80 {
                    if self.deferred.get(&sent.topic).is_some_and(|refused| sent.seq > Some(*refused)) {
                        return Err(SessionError::Overtaken(Arc::clone(&sent.topic)));
                    }
                    sent.released = true;
                    encode::ack(encode::Ack::Pubrel, id, &mut self.out);
                    return Ok(());
                }
                self.in_flight.remove(&id).map_or(Ok(()), |refused| self.settle(refused, ack))
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

    /// A message refused for now must not be overtaken by later ones of its topic: where the server takes one of those, the
    /// connection ends before that is settled, so that they go again behind it.
    fn settle(&mut self, sent: InFlight, ack: Ack) -> Result<(), SessionError> {
        let InFlight { seq, topic, .. } = sent;
        match (seq, ack.code) {
            (Some(seq), code) if code < 0x80 => {
                if self.deferred.get(&topic).is_some_and(|refused| seq > *refused) {
                    return Err(SessionError::Overtaken(topic));
                }
                self.events.push_back(SessionEvent::Delivered(seq));
            }
            (None, code) if code < 0x80 => {}
            (Some(seq), code) => {
                let (reason, will_pass) = (described(code, ack.text.as_deref()), will_pass(code));
                if will_pass {
                    self.deferred.entry(Arc::clone(&topic)).or_insert(seq);
                }
                self.events.push_back(SessionEvent::Refused { seq, topic, reason, will_pass });
            }
            (None, code) => {
                let why = described(code, ack.text.as_deref());
                self.events.push_back(SessionEvent::Notice(format!("status topic refused: {why}")));
            }
        }
        Ok(())
    }
}

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

    /// A message refused for now must not be overtaken by later ones of its topic: where some are under way the
    /// connection ends before they are settled, so that they go again behind it.
    fn settle(&mut self, sent: InFlight, ack: Ack) -> Result<(), SessionError> {
        let (seq, code) = match (sent.seq, ack.code) {
            (seq, code) if code < 0x80 => {
                self.events.extend(seq.map(SessionEvent::Delivered));
                return Ok(());
            }
            (None, code) => {
                let why = described(code, ack.text.as_deref());
                self.events.push_back(SessionEvent::Notice(format!("status topic refused: {why}")));
                return Ok(());
            }
            (Some(seq), code) => (seq, code),
        };
        let will_pass = will_pass(code);
        let overtaken =
            will_pass && self.in_flight.values().any(|other| other.seq > Some(seq) && other.topic == sent.topic);
        let (topic, reason) = (Arc::clone(&sent.topic), described(code, ack.text.as_deref()));
        self.events.push_back(SessionEvent::Refused { seq, topic, reason, will_pass });
        if overtaken { Err(SessionError::Overtaken(sent.topic)) } else { Ok(()) }
    }
}

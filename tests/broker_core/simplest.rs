//! What each client is to get, by the simplest rules that could be right.

use std::collections::{BTreeMap, VecDeque};

use fieldgate::hub::topics::filter_matches;

pub(crate) const CLIENTS: usize = 4;

/// What a client is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) topic: &'static str,
    pub(crate) payload: u16,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) copy: Copy,
    /// The QoS that it was published with.
    pub(crate) published: u8,
    /// It has a row in the store.
    pub(crate) stored: bool,
    /// It went to a connection of this run: it comes again as it was, whatever the subscriptions are by then.
    pub(crate) sent: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Session {
    /// It outlives its connection.
    pub(crate) durable: bool,
    /// It has a queue in the store.
    pub(crate) queue: bool,
    pub(crate) filters: BTreeMap<&'static str, u8>,
    /// QoS 0, gone with the connection.
    pub(crate) fleeting: VecDeque<Copy>,
    pub(crate) owed: VecDeque<Owed>,
    /// Published, and the disk has not spoken yet.
    pub(crate) waiting: Vec<Owed>,
}

impl Session {
    pub(crate) fn granted(&self, topic: &str) -> Option<u8> {
        let bare = |filter: &'static str| filter.strip_prefix("$share/g/").unwrap_or(filter);
        self.filters.iter().filter(|(filter, _)| filter_matches(bare(filter), topic)).map(|(_, qos)| *qos).max()
    }

    /// A message for it. `true`: its publisher waits for the disk.
    pub(crate) fn owe(&mut self, copy: Copy, published: u8, connected: bool) -> bool {
        if copy.qos > 0 && self.queue {
            self.waiting.push(Owed { copy, published, stored: false, sent: false });
            return true;
        }
        match copy.qos {
            _ if !connected => {}
            0 => self.fleeting.push_back(copy),
            _ => self.owed.push_back(Owed { copy, published, stored: false, sent: true }),
        }
        false
    }

    /// The disk has spoken.
    pub(crate) fn settle(&mut self, connected: bool, refused: bool) {
        for owed in self.waiting.drain(..).filter(|_| connected || !refused) {
            self.owed.push_back(Owed { stored: !refused, sent: connected, ..owed });
        }
    }

    /// What is read back from the store goes by the subscriptions as they are now.
    pub(crate) fn read_back(&mut self) {
        for mut owed in std::mem::take(&mut self.owed) {
            if owed.stored && !owed.sent {
                let Some(granted) = self.granted(owed.copy.topic) else { continue };
                owed.copy.qos = granted.min(owed.published);
            }
            owed.sent = true;
            if owed.copy.qos == 0 { self.fleeting.push_back(owed.copy) } else { self.owed.push_back(owed) }
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) sessions: [Option<Session>; CLIENTS],
    pub(crate) retained: BTreeMap<&'static str, (u16, u8)>,
}

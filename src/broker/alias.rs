//! Topic aliases towards one client: a topic that goes often is named once (MQTT 5, 3.3.2.3.4).

use std::sync::Arc;

/// Aliases that one connection uses, whatever more its client takes: a search through them costs less than the bytes that they save.
const ALIASES_MAX: u16 = 16;
/// Longer topics are always sent whole: the table keeps what it names.
const TOPIC_BYTES_MAX: usize = 512;
/// An alias takes this many bytes itself.
const ALIAS_BYTES: usize = 3;

/// How a PUBLISH names its topic beside or instead of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alias {
    /// The name goes as well: from now on the number stands for it.
    New(u16),
    /// The client knows it: the name stays empty.
    Known(u16),
}

impl Alias {
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::New(number) | Self::Known(number) => number,
        }
    }
}

/// The topics that a client knows by number on this connection. First come, first served: replacing one would cost the bytes that it saves.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    topics: Vec<Arc<str>>,
    most: u16,
}

impl Aliases {
    /// `most`: the client's Topic Alias Maximum; 0: none.
    pub(crate) fn new(most: u16) -> Self {
        Self { topics: Vec::new(), most: most.min(ALIASES_MAX) }
    }

    /// What stands for the topic; [`Aliases::sent`] follows once a packet with it was really sent.
    pub(crate) fn find(&self, topic: &Arc<str>) -> Option<Alias> {
        if self.most == 0 || topic.len() <= ALIAS_BYTES || topic.len() > TOPIC_BYTES_MAX {
            return None;
        }
        let number = |place: usize| u16::try_from(place + 1).unwrap_or(u16::MAX);
        match self.topics.iter().position(|known| known == topic) {
            Some(place) => Some(Alias::Known(number(place))),
            None => (self.topics.len() < usize::from(self.most)).then(|| Alias::New(number(self.topics.len()))),
        }
    }

    pub(crate) fn sent(&mut self, topic: &Arc<str>, alias: Option<Alias>) {
        match alias {
            Some(Alias::New(_)) => self.topics.push(topic.clone()),
            Some(Alias::Known(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(aliases: &mut Aliases, topic: &str) -> Option<Alias> {
        let topic: Arc<str> = topic.into();
        let alias = aliases.find(&topic);
        aliases.sent(&topic, alias);
        alias
    }

    #[test]
    fn a_topic_is_named_once_and_then_by_number_within_the_client_s_maximum() {
        let mut aliases = Aliases::new(2);
        assert_eq!(send(&mut aliases, "plant/a"), Some(Alias::New(1)));
        assert_eq!(send(&mut aliases, "plant/a"), Some(Alias::Known(1)));
        assert_eq!(send(&mut aliases, "plant/b"), Some(Alias::New(2)));
        assert_eq!(send(&mut aliases, "plant/c"), None);
        assert_eq!(send(&mut aliases, "plant/b"), Some(Alias::Known(2)));
    }

    #[test]
    fn a_client_that_takes_none_gets_none() {
        assert_eq!(send(&mut Aliases::new(0), "plant/a"), None);
        assert_eq!(send(&mut Aliases::default(), "plant/a"), None);
    }

    #[test]
    fn an_alias_that_was_not_sent_stands_for_nothing() {
        let aliases = Aliases::new(1);
        let topic: Arc<str> = "plant/a".into();
        assert_eq!(aliases.find(&topic), Some(Alias::New(1)));
        assert_eq!(aliases.find(&topic), Some(Alias::New(1)));
    }

    #[test]
    fn whatever_a_client_offers_the_table_stays_small() {
        let mut aliases = Aliases::new(u16::MAX);
        let named = (0..1000).filter(|number| send(&mut aliases, &format!("plant/{number}")).is_some()).count();
        assert_eq!(named, usize::from(ALIASES_MAX));
        assert_eq!(send(&mut Aliases::new(1), &"x".repeat(TOPIC_BYTES_MAX + 1)), None);
    }
}

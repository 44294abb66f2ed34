//! What the gateway itself listens to: the topics that go up, and the topics that are commands.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::Index;
use super::topics::filter_matches;
use crate::message::{Message, Origin};
use crate::sample::PointId;
use crate::store::DestId;

/// One uplink's place in the routing.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// As in [`Origin::Uplink`].
    pub id: u16,
    pub dest: DestId,
    pub forward: Vec<String>,
    pub accept: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Routes {
    forward: Index<u16, ()>,
    uplinks: HashMap<u16, Uplink>,
    set_topics: HashMap<Arc<str>, PointId>,
}

impl Routes {
    pub fn add_uplink(&mut self, uplink: Uplink) {
        for filter in &uplink.forward {
            self.forward.insert(filter, uplink.id, ());
        }
        self.uplinks.insert(uplink.id, uplink);
    }

    pub fn remove_uplink(&mut self, id: u16) {
        if let Some(uplink) = self.uplinks.remove(&id) {
            for filter in &uplink.forward {
                self.forward.remove(filter, &id);
            }
        }
    }

    /// `topic` is the point's own; it listens on `topic/set`.
    pub fn add_point(&mut self, topic: &str, point: PointId) {
        self.set_topics.insert(format!("{topic}/set").into(), point);
    }

    pub fn remove_point(&mut self, topic: &str) {
        self.set_topics.remove(format!("{topic}/set").as_str());
    }

    /// The point that a message on this topic sets.
    pub fn point(&self, topic: &str) -> Option<PointId> {
        self.set_topics.get(topic).copied()
    }

    /// Appends the queues that the message goes up through. It never goes back to where it came from, and what an
    /// uplink accepts it does not forward: so no message goes round, whatever the upstream broker echoes.
    pub fn upstream(&self, message: &Message, origin: Origin, to: &mut Vec<DestId>) {
        if self.uplinks.is_empty() {
            return;
        }
        self.forward.for_each_match(&message.topic, |id, ()| {
            let Some(uplink) = self.uplinks.get(id) else { return };
            let echoes = uplink.accept.iter().any(|filter| filter_matches(filter, &message.topic));
            if origin != Origin::Uplink(*id) && !echoes && !to.contains(&uplink.dest) {
                to.push(uplink.dest);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Qos;
    use crate::sample::BusId;

    fn routes() -> Routes {
        let mut routes = Routes::default();
        routes.add_uplink(Uplink {
            id: 1,
            dest: DestId(7),
            forward: vec!["plant/#".into(), "plant/a/#".into()],
            accept: vec!["plant/+/+/set".into()],
        });
        routes
    }

    fn upstream(routes: &Routes, topic: &str, origin: Origin) -> Vec<DestId> {
        let mut to = Vec::new();
        routes.upstream(&Message::new(topic, "", Qos::AtLeastOnce, false), origin, &mut to);
        to
    }

    #[test]
    fn a_message_goes_up_once_however_many_filters_match() {
        assert_eq!(upstream(&routes(), "plant/a/b", Origin::Gateway), [DestId(7)]);
        assert_eq!(upstream(&routes(), "other/a", Origin::Gateway), []);
    }

    #[test]
    fn nothing_goes_round_between_forward_and_accept() {
        let routes = routes();
        assert_eq!(upstream(&routes, "plant/a/b", Origin::Uplink(1)), []);
        assert_eq!(upstream(&routes, "plant/a/b", Origin::Uplink(2)), [DestId(7)]);
        assert_eq!(upstream(&routes, "plant/a/b/set", Origin::Session(1)), []);
        assert_eq!(upstream(&routes, "plant/a/b/set/result", Origin::Gateway), [DestId(7)]);
    }

    #[test]
    fn a_removed_uplink_and_a_removed_point_get_nothing() {
        let mut routes = routes();
        let point = PointId { bus: BusId(1), index: 0 };
        routes.add_point("plant/a/b", point);
        assert_eq!(routes.point("plant/a/b/set"), Some(point));
        routes.remove_point("plant/a/b");
        routes.remove_uplink(1);
        assert_eq!(routes.point("plant/a/b/set"), None);
        assert_eq!(upstream(&routes, "plant/a/b", Origin::Gateway), []);
    }
}

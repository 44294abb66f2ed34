//! Which sessions a message goes to, with which QoS, and which of them need it stored first.

use std::collections::HashMap;
use std::sync::Arc;

use super::api::Output;
use super::core::Broker;
use super::packet::SubOptions;
use super::record;
use super::retained::Change;
use super::session::Session;
use crate::clock::Now;
use crate::hub::index::Index;
use crate::hub::topics::is_valid_filter;
use crate::message::{Message, Origin, Qos};
use crate::store::{DestId, Op, Space};

/// One receiver of a message.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: u32,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) identifiers: Vec<u32>,
}

/// Where a message goes. Made by [`Broker::route`], used up by the `deliver…` calls.
#[derive(Debug, Default)]
pub struct Route {
    /// Sessions that get it at once or not at all.
    pub(crate) live: Vec<Target>,
    /// Sessions that must not lose it.
    pub(crate) durable: Vec<Target>,
    dests: Vec<DestId>,
    retained: bool,
    /// The publishing client's session, where it is one's.
    pub(crate) sender: Option<u32>,
}

impl Route {
    /// Durable sessions that the message must be stored for before it is acknowledged.
    pub fn durable(&self) -> &[DestId] {
        &self.dests
    }

    /// Whether its publisher waits for a commit: somebody needs it stored, or it is retained on disk.
    pub fn needs_commit(&self) -> bool {
        self.retained || !self.dests.is_empty()
    }
}

/// Whose subscription it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subscriber {
    Session(u32),
    /// One of a shared subscription's members.
    Group(u32),
}

/// All subscriptions of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    index: Index<Subscriber, Option<SubOptions>>,
    groups: HashMap<u32, Group>,
    /// `$share/NAME/filter` → group.
    names: HashMap<Arc<str>, u32>,
    next_group: u32,
}

#[derive(Clone, Copy)]
struct Match {
    session: u32,
    options: SubOptions,
    shared: bool,
}

#[derive(Debug, Default)]
struct Group {
    members: Vec<(u32, SubOptions)>,
    next: usize,
}

/// The filter of a shared subscription, or the filter itself.
pub(crate) fn bare_filter(filter: &str) -> &str {
    share(filter).map_or(filter, |(_, bare)| bare)
}

/// Name and filter of `$share/NAME/filter` (MQTT 5, 4.8.2).
pub(crate) fn share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

/// Whether a client may ask for it, as far as form goes.
pub(crate) fn is_valid_subscription(filter: &str) -> bool {
    match share(filter) {
        Some((name, bare)) => !name.is_empty() && !name.contains(['+', '#']) && is_valid_filter(bare),
        None => filter != "$share" && !filter.starts_with("$share/") && is_valid_filter(filter),
    }
}

impl Subscribers {
    pub(crate) fn insert(&mut self, filter: &Arc<str>, session: u32, options: SubOptions) {
        let Some((_, bare)) = share(filter) else {
            self.index.insert(filter, Subscriber::Session(session), Some(options));
            return;
        };
        let group = match self.names.get(filter) {
            Some(&group) => group,
            None => {
                self.next_group += 1;
                self.names.insert(filter.clone(), self.next_group);
                self.index.insert(bare, Subscriber::Group(self.next_group), None);
                self.next_group
            }
        };
        let members = &mut self.groups.entry(group).or_default().members;
        match members.iter_mut().find(|(member, _)| *member == session) {
            Some((_, old)) => *old = options,
            None => members.push((session, options)),
        }
    }

    pub(crate) fn remove(&mut self, filter: &str, session: u32) {
        let Some((_, bare)) = share(filter) else {
            self.index.remove(filter, &Subscriber::Session(session));
            return;
        };
        let Some(&id) = self.names.get(filter) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.members.retain(|(member, _)| *member != session);
        if group.members.is_empty() {
            self.groups.remove(&id);
            self.names.remove(filter);
            self.index.remove(bare, &Subscriber::Group(id));
        }
    }

    /// Every subscription that the topic matches, a session's own ones together; of each shared one the member whose turn it is.
    fn matching(&mut self, topic: &str, sessions: &HashMap<u32, Session>, qos: Qos) -> Vec<Match> {
        let mut found = Vec::new();
        let mut groups = Vec::new();
        self.index.for_each_match(topic, |subscriber, options| match (subscriber, options) {
            (Subscriber::Session(session), Some(options)) => {
                found.push(Match { session: *session, options: *options, shared: false });
            }
            (Subscriber::Group(group), _) => groups.push(*group),
            (Subscriber::Session(_), None) => {}
        });
        found.sort_unstable_by_key(|found| found.session);
        for group in groups {
            let chosen = self.groups.get_mut(&group).and_then(|group| group.choose(topic, sessions, qos));
            if let Some((session, options)) = chosen {
                found.push(Match { session, options, shared: true });
            }
        }
        found
    }
}

impl Group {
    /// The next connected member; with none connected, the next that can have it kept.
    fn choose(&mut self, topic: &str, sessions: &HashMap<u32, Session>, qos: Qos) -> Option<(u32, SubOptions)> {
        let count = self.members.len();
        let turn = |fits: &dyn Fn(&Session, &SubOptions) -> bool| {
            (0..count).map(|step| (self.next + step) % count).find(|&place| {
                let (session, options) = &self.members[place];
                sessions.get(session).is_some_and(|session| session.rules.may_receive(topic) && fits(session, options))
            })
        };
        let place = turn(&|session, _| session.conn.is_some())
            .or_else(|| turn(&|session, options| session.dest.is_some() && options.qos.min(qos) > Qos::AtMostOnce))?;
        self.next = (place + 1) % count;
        self.members.get(place).copied()
    }
}

impl Broker {
    /// Decides who gets a message and keeps it when it is retained. Call it once for each message from anywhere: a client's
    /// ([`Output::Publish`]), the gateway's own, an uplink's.
    ///
    /// Then, with nothing [`Route::durable`]: [`Broker::deliver_live`], done. Else: store it for those, `deliver_live` at once, and
    /// [`Broker::deliver_stored`] once it is committed, in the order of their numbers.
    pub fn route(&mut self, now: Now, message: &Arc<Message>, origin: Origin) -> Route {
        let mut route = Route::default();
        if message.retain {
            route.retained = self.keep(now, message, origin);
        }
        route.sender = match origin {
            Origin::Session(key) => Some(key),
            Origin::Gateway | Origin::Uplink(_) => None,
        };
        let mut last = None;
        for Match { session: key, options, shared } in
            self.subscribers.matching(&message.topic, &self.sessions, message.qos)
        {
            let Some(session) = self.sessions.get(&key) else { continue };
            if (options.no_local && route.sender == Some(key)) || !session.rules.may_receive(&message.topic) {
                continue;
            }
            let qos = options.qos.min(message.qos);
            let retain = message.retain && options.retain_as_published;
            let durable = session.dest.is_some() && qos > Qos::AtMostOnce;
            // Overlapping subscriptions: once, at the highest QoS, with every identifier (MQTT 5, 3.3.4).
            // A shared one is delivered for itself (4.8.2).
            if let Some((_, was)) = last.filter(|(before, _)| !shared && *before == key) {
                merge(&mut route, was, qos, retain, options.identifier, durable);
                last = Some((key, was || durable));
            } else {
                let target =
                    Target { session: key, qos, retain, identifiers: options.identifier.into_iter().collect() };
                if durable {
                    route.durable.push(target)
                } else {
                    route.live.push(target)
                }
                last = Some((key, durable));
            }
        }
        route.dests = route
            .durable
            .iter()
            .filter_map(|target| self.sessions.get(&target.session).and_then(|session| session.dest))
            .collect();
        route.dests.sort_unstable();
        route.dests.dedup();
        route
    }

    /// Whether a client's rules let it publish there; for topics that others publish to on its behalf, as a command's response topic.
    /// The gateway and uplinks may publish anywhere.
    pub fn may_publish(&self, origin: Origin, topic: &str) -> bool {
        match origin {
            Origin::Session(key) => self.sessions.get(&key).is_some_and(|session| session.rules.may_publish(topic)),
            Origin::Gateway | Origin::Uplink(_) => true,
        }
    }

    /// Whether a client's rules let it subscribe to there.
    pub fn may_subscribe(&self, origin: Origin, filter: &str) -> bool {
        match origin {
            Origin::Session(key) => self.sessions.get(&key).is_some_and(|session| session.rules.may_subscribe(filter)),
            Origin::Gateway | Origin::Uplink(_) => true,
        }
    }

    /// `true`: the store was told to keep it.
    fn keep(&mut self, now: Now, message: &Arc<Message>, origin: Origin) -> bool {
        if message.expires.is_some_and(|at| at <= now.wall) {
            return false;
        }
        // What the gateway retains it says again after a restart; it never costs a write.
        let store = origin != Origin::Gateway;
        let key = || bytes::Bytes::copy_from_slice(message.topic.as_bytes());
        let op = match self.retained.set(message, store) {
            Change::Nothing => return false,
            Change::Put => Op::Put { space: Space::Retained, key: key(), value: record::encode_message(message) },
            Change::Delete => Op::Delete { space: Space::Retained, key: key() },
            Change::Full => {
                self.counters.retained_refused += 1;
                return false;
            }
        };
        self.outputs.push_back(Output::Store(op));
        true
    }
}

/// Adds another matching subscription of the session that came last; `was_durable`: it is the last of the durable ones, else of the live.
fn merge(route: &mut Route, was_durable: bool, qos: Qos, retain: bool, identifier: Option<u32>, durable: bool) {
    let list = if was_durable { &mut route.durable } else { &mut route.live };
    let Some(mut target) = list.pop() else { return };
    target.qos = target.qos.max(qos);
    target.retain |= retain;
    target.identifiers.extend(identifier);
    if durable || was_durable { route.durable.push(target) } else { route.live.push(target) }
}

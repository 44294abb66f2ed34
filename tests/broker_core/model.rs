//! The simplest broker that could be right, beside the real one, under random operations: connections that are cut at any moment, taken
//! over or do not read, answers that are lost, sessions that end or stay, retained messages, shared subscriptions, a disk that waits or
//! refuses, kills. Both must say the same to every client, and what was acknowledged must arrive: once where QoS 2 promises it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fieldgate::broker::ConnId;
use fieldgate::hub::topics::filter_matches;
use fieldgate::store::{Seq, Space};
use proptest::prelude::*;

use crate::broker_loop::Disk;
use crate::rig::*;
use crate::simplest::{CLIENTS, Copy, Owed, State};

const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "s/x"];
/// No other filter matches the topics of the shared one: a copy that comes through the group is known by its topic.
const FILTERS: [&str; 6] = ["a", "a/+", "a/#", "b", "+", "$share/g/s/+"];
const SHARED: &str = "s/x";
/// Payloads and packet identifiers begin here; the payload of a message that forgets a retained one.
const FIRST: u16 = 0x100;
const NOTHING: u16 = 0;
/// The store's numbers begin here: a stored message's identifier follows from its number, and never meets one that was handed out.
const FIRST_SEQ: Seq = 10_000;

#[derive(Clone, Debug)]
enum Op {
    Connect {
        client: usize,
        clean: bool,
        durable: bool,
    },
    Cut(usize),
    Subscribe {
        client: usize,
        filter: usize,
        qos: u8,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        topic: usize,
        qos: u8,
        retain: bool,
    },
    Forget {
        topic: usize,
    },
    /// Reads so many packets and answers each; `lost`: the connection is cut before the answers arrive.
    Read {
        client: usize,
        most: usize,
        lost: bool,
    },
    Disk(Disk),
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let (client, topic, qos, filter) = (0..CLIENTS, 0..TOPICS.len(), 0..3u8, 0..FILTERS.len());
    let disk = prop_oneof![3 => Just(Disk::Writes), 2 => Just(Disk::Waits), 1 => Just(Disk::Refuses)];
    prop_oneof![
        4 => (client.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.7))
            .prop_map(|(client, clean, durable)| Op::Connect { client, clean, durable }),
        2 => client.clone().prop_map(Op::Cut),
        5 => (client.clone(), filter.clone(), qos.clone())
            .prop_map(|(client, filter, qos)| Op::Subscribe { client, filter, qos }),
        1 => (client.clone(), filter).prop_map(|(client, filter)| Op::Unsubscribe { client, filter }),
        8 => (topic.clone(), qos, prop::bool::weighted(0.2))
            .prop_map(|(topic, qos, retain)| Op::Publish { topic, qos, retain }),
        1 => topic.prop_map(|topic| Op::Forget { topic }),
        6 => (client, prop_oneof![1..6usize, Just(1000)], prop::bool::weighted(0.2))
            .prop_map(|(client, most, lost)| Op::Read { client, most, lost }),
        2 => disk.prop_map(Op::Disk),
        1 => Just(Op::Kill),
    ]
}

/// What a subscriber itself remembers.
#[derive(Default)]
struct Client {
    conn: Option<ConnId>,
    /// QoS 2 messages that it has and that are not released.
    held: BTreeMap<u16, Owed>,
    /// Of those: may never be released, after a kill.
    orphans: BTreeSet<u16>,
    /// Every QoS 2 message that it had.
    once: BTreeSet<u16>,
}

struct Model {
    rig: Rig,
    clients: [Client; CLIENTS],
    now: State,
    /// As a kill would find it.
    committed: State,
    /// Messages of the shared subscription that came while no member was connected: some member's, or nobody's.
    homeless: BTreeMap<u16, BTreeSet<usize>>,
    last: u16,
}

impl Model {
    fn new() -> Self {
        let mut rig = Rig::new();
        fastrand::seed(1);
        rig.this.store.next_seq = FIRST_SEQ;
        let (clients, now, committed, homeless) = Default::default();
        Self { rig, clients, now, committed, homeless, last: FIRST }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Connect { client, clean, durable } => self.connect(client, clean, durable)?,
            Op::Cut(client) => self.cut(client),
            Op::Subscribe { client, filter, qos } => self.subscribe(client, FILTERS[filter], Some(qos))?,
            Op::Unsubscribe { client, filter } => self.subscribe(client, FILTERS[filter], None)?,
            Op::Publish { topic, qos, retain } => {
                self.last += 1;
                self.publish(TOPICS[topic], self.last, qos, retain)?;
            }
            // Not of the shared one's: nobody could tell who has the empty message.
            Op::Forget { topic } if TOPICS[topic] != SHARED => self.publish(TOPICS[topic], NOTHING, 0, true)?,
            Op::Forget { .. } => {}
            Op::Read { client, most, lost } => self.read(client, most, lost)?,
            Op::Disk(disk) => {
                self.rig.this.disk = disk;
                self.rig.run();
            }
            Op::Kill => self.kill(),
        }
        self.commit();
        Ok(())
    }

    fn commit(&mut self) {
        let disk = self.rig.this.disk;
        if disk == Disk::Waits {
            return;
        }
        for (client, session) in self.clients.iter().zip(&mut self.now.sessions) {
            if let Some(session) = session {
                session.settle(client.conn.is_some(), disk == Disk::Refuses);
            }
        }
        self.committed = self.now.clone();
    }

    fn connect(&mut self, client: usize, clean: bool, durable: bool) -> Result<(), TestCaseError> {
        // Not cut: taken over.
        self.gone(client);
        let session = &mut self.now.sessions[client];
        session.take_if(|_| clean);
        let present = session.is_some();
        let session = session.get_or_insert_default();
        (session.durable, session.queue) = (durable, durable || present);
        session.read_back();
        let conn = self.rig.open();
        let expiry: &[u8] = if durable { &WEEK } else { &[] };
        self.rig.send(conn, &connect5(&client.to_string(), clean, expiry));
        let mut frames = self.rig.take(conn).into_iter();
        let connack = frames.next().unwrap();
        prop_assert_eq!((connack[0], connack[2] == 1, connack[3]), (0x20, present, 0), "CONNACK of {}", client);
        self.rig.inbox.insert(conn, frames.flatten().collect());
        let client = &mut self.clients[client];
        client.conn = Some(conn);
        if !present {
            // What it had was the last session's, which comes back when a kill undoes its end.
            *client = Client { conn: Some(conn), ..Client::default() };
        }
        Ok(())
    }

    fn cut(&mut self, client: usize) {
        if let Some(conn) = self.clients[client].conn {
            self.rig.cut(conn);
            self.gone(client);
        }
    }

    /// The connection is over: QoS 0 that was not read is lost, the rest comes again if the session stays.
    fn gone(&mut self, client: usize) {
        let session = &mut self.now.sessions[client];
        if self.clients[client].conn.take().is_some() {
            session.take_if(|session| !session.durable);
        }
        if let Some(session) = session {
            session.fleeting.clear();
        }
    }

    /// Only the disk remembers.
    fn kill(&mut self) {
        let waits = self.rig.this.disk == Disk::Waits;
        self.rig.crash();
        self.rig.pause(0);
        self.now = self.committed.clone();
        for (client, session) in self.clients.iter_mut().zip(&mut self.now.sessions) {
            client.conn = None;
            session.take_if(|session| !session.durable);
            let Some(session) = session else { continue };
            session.fleeting.clear();
            session.owed.retain(|owed| owed.stored);
            // Nobody is left to release what had no row and whose identifier was not written down yet, nor what comes again with less.
            let lowered = |held: &Owed| {
                session.owed.iter().any(|owed| owed.copy.payload == held.copy.payload)
                    && session.granted(held.copy.topic).is_none_or(|granted| granted < 2)
            };
            let orphan = |held: &Owed| if held.stored { lowered(held) } else { waits };
            client.orphans.extend(client.held.iter().filter(|(_, held)| orphan(held)).map(|(&id, _)| id));
            session.owed.make_contiguous().sort_by_key(|owed| owed.copy.payload);
            session.owed.iter_mut().for_each(|owed| owed.sent = false);
        }
    }

    /// Subscribes, or without a QoS unsubscribes.
    fn subscribe(&mut self, client: usize, filter: &'static str, qos: Option<u8>) -> Result<(), TestCaseError> {
        let (Some(conn), Some(session)) = (self.clients[client].conn, &mut self.now.sessions[client]) else {
            return Ok(());
        };
        self.last += 1;
        match qos {
            Some(qos) => {
                session.filters.insert(filter, qos);
                for (&topic, &(payload, published)) in &self.now.retained {
                    let copy = Copy { topic, payload, qos: qos.min(published), retain: true };
                    match copy.qos {
                        _ if !filter_matches(filter, topic) => {}
                        0 => session.fleeting.push_back(copy),
                        _ => session.owed.push_back(Owed { copy, published, stored: false, sent: true }),
                    }
                }
                self.rig.send(conn, &subscribe5(self.last, filter, qos));
            }
            None => {
                session.filters.remove(filter);
                self.rig.send(conn, &frame(0xA2, &[&self.last.to_be_bytes()[..], &[0], &text(filter)].concat()));
            }
        }
        let waits = session.queue && self.rig.this.disk == Disk::Waits;
        let answers = self.peek(conn).iter().filter(|packet| is_answer(packet, self.last)).count();
        prop_assert_eq!(answers, usize::from(!waits), "SUBACK or UNSUBACK of {}", client);
        Ok(())
    }

    /// What came and is not read.
    fn peek(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        let frames = self.rig.take(conn);
        self.rig.inbox.insert(conn, frames.concat());
        frames
    }

    fn publish(&mut self, topic: &'static str, payload: u16, qos: u8, retain: bool) -> Result<(), TestCaseError> {
        if topic == SHARED {
            // Whom it went to must show at once.
            self.apply(&Op::Disk(Disk::Writes))?;
        }
        let publisher = self.rig.join(&connect4("pub", true));
        let bytes = payload.to_be_bytes();
        let mut packet = publish4(topic, if payload == NOTHING { &[] } else { &bytes }, qos, 1, false);
        packet[0] |= u8::from(retain);
        self.rig.send(publisher, &packet);
        let forgotten = retain && self.now.retained.remove(topic).is_some();
        let kept = retain && payload != NOTHING;
        if kept {
            self.now.retained.insert(topic, (payload, qos));
        }
        let mut stored = false;
        if topic == SHARED {
            self.share(payload, qos)?;
        } else {
            for (client, session) in self.clients.iter().zip(&mut self.now.sessions) {
                let Some(session) = session else { continue };
                let Some(granted) = session.granted(topic) else { continue };
                let copy = Copy { topic, payload, qos: granted.min(qos), retain: false };
                stored |= session.owe(copy, qos, client.conn.is_some());
            }
        }
        let silent = match self.rig.this.disk {
            Disk::Writes => false,
            Disk::Waits => stored || kept || forgotten,
            Disk::Refuses => stored,
        };
        let answer = if silent { vec![] } else { [vec![], ack(0x40, 1), ack(0x50, 1)][usize::from(qos)].clone() };
        prop_assert_eq!(self.rig.take(publisher).concat(), answer, "the publisher of {}", payload);
        Ok(())
    }

    /// One of the connected members has it, whichever the broker chose; without any, one of the durable ones may.
    fn share(&mut self, payload: u16, qos: u8) -> Result<(), TestCaseError> {
        let (mut members, mut takers) = (0, 0);
        for client in 0..CLIENTS {
            let Some(granted) = self.now.sessions[client].as_ref().and_then(|session| session.granted(SHARED)) else {
                continue;
            };
            let Some(conn) = self.clients[client].conn else { continue };
            members += 1;
            let frames = self.peek(conn);
            let came = |packet: &Vec<u8>| packet[0] >> 4 == 3 && parse(packet).0.payload == payload;
            if frames.iter().any(came) {
                takers += 1;
                let copy = Copy { topic: SHARED, payload, qos: granted.min(qos), retain: false };
                self.now.sessions[client].as_mut().unwrap().owe(copy, qos, true);
            }
        }
        prop_assert_eq!(takers, members.min(1), "{} members", members);
        if members == 0 {
            let durable = |client: &usize| self.now.sessions[*client].as_ref()?.granted(SHARED);
            self.homeless.insert(payload, (0..CLIENTS).filter(|client| durable(client).is_some()).collect());
        }
        Ok(())
    }

    fn read(&mut self, client: usize, most: usize, lost: bool) -> Result<(), TestCaseError> {
        let Some(conn) = self.clients[client].conn else { return Ok(()) };
        let mut left: VecDeque<Vec<u8>> = VecDeque::new();
        let mut unanswered = 0;
        for _ in 0..most {
            left.extend(self.rig.take(conn));
            let Some(packet) = left.pop_front() else { break };
            let answer = match packet[0] >> 4 {
                3 => self.received(client, &packet, &mut unanswered, lost)?,
                6 => {
                    let id = u16::from_be_bytes([packet[2], packet[3]]);
                    self.clients[client].held.remove(&id);
                    self.clients[client].orphans.remove(&id);
                    Some(ack(0x70, id))
                }
                9 | 11 => None,
                _ => return Err(TestCaseError::fail(format!("{packet:x?}"))),
            };
            if let (Some(answer), false) = (answer, lost) {
                self.rig.send(conn, &answer);
            }
        }
        if lost {
            self.cut(client);
            return Ok(());
        }
        left.extend(self.rig.take(conn));
        if left.is_empty() {
            let session = self.now.sessions[client].as_ref().unwrap();
            prop_assert!(session.owed.is_empty(), "client {} waits for {:?}", client, session.owed);
            prop_assert!(session.fleeting.is_empty(), "client {} waits for {:?}", client, session.fleeting);
        }
        self.rig.inbox.insert(conn, left.into_iter().flatten().collect());
        Ok(())
    }

    /// One message came: it must be the next that the client is owed. Gives the answer.
    fn received(
        &mut self,
        client: usize,
        packet: &[u8],
        unanswered: &mut usize,
        lost: bool,
    ) -> Result<Option<Vec<u8>>, TestCaseError> {
        let (copy, id) = parse(packet);
        let session = self.now.sessions[client].as_mut().unwrap();
        if copy.topic == SHARED && self.homeless.get(&copy.payload).is_some_and(|members| members.contains(&client)) {
            // It has found its member, and has had its row since it was published.
            self.homeless.remove(&copy.payload);
            let owed = Owed { copy: copy.clone(), published: copy.qos, stored: true, sent: true };
            match copy.qos {
                0 => session.fleeting.push_front(copy.clone()),
                _ => session.owed.insert(*unanswered, owed.clone()),
            }
            if let Some(committed) = &mut self.committed.sessions[client] {
                committed.owed.push_back(owed);
            }
        }
        if copy.qos == 0 {
            prop_assert_eq!(Some(copy), session.fleeting.pop_front(), "client {}", client);
            return Ok(None);
        }
        let owed = session.owed.get(*unanswered).cloned();
        prop_assert_eq!(Some(&copy), owed.as_ref().map(|owed| &owed.copy), "client {}", client);
        if lost {
            *unanswered += 1;
        } else {
            session.owed.remove(*unanswered);
        }
        if copy.qos == 1 {
            return Ok(Some(ack(0x40, id)));
        }
        let Client { held, once, .. } = &mut self.clients[client];
        match held.insert(id, owed.unwrap()) {
            Some(before) => prop_assert_eq!(before.copy.payload, copy.payload, "client {} holds it as {}", client, id),
            None => {
                prop_assert!(copy.retain || once.insert(copy.payload), "client {} has it twice: {:?}", client, copy)
            }
        }
        Ok(Some(ack(0x50, id)))
    }

    /// In the end the disk writes, and everybody comes back and reads.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        self.apply(&Op::Disk(Disk::Writes))?;
        for client in 0..CLIENTS {
            self.apply(&Op::Connect { client, clean: false, durable: true })?;
            self.apply(&Op::Read { client, most: usize::MAX, lost: false })?;
            let Client { held, orphans, .. } = &self.clients[client];
            prop_assert!(held.keys().all(|id| orphans.contains(id)), "client {} was left with {:?}", client, held);
        }
        let store = &self.rig.this.store;
        prop_assert!(store.queues.values().all(BTreeMap::is_empty), "left in the store: {:?}", store.queues);
        let flows = |space| store.values.keys().filter(|(of, _)| *of == space).count();
        prop_assert_eq!((flows(Space::Inbound), flows(Space::Outbound)), (0, 0), "identifiers left in the store");
        Ok(())
    }
}

/// SUBACK or UNSUBACK of this identifier.
fn is_answer(packet: &[u8], id: u16) -> bool {
    matches!(packet[0], 0x90 | 0xB0) && packet[2..4] == id.to_be_bytes()
}

/// A short PUBLISH of MQTT 5 without properties, and its identifier.
fn parse(packet: &[u8]) -> (Copy, u16) {
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let name = std::str::from_utf8(&packet[4..4 + length]).unwrap();
    let topic = TOPICS.into_iter().find(|topic| *topic == name).unwrap();
    let qos = packet[0] >> 1 & 3;
    let rest = &packet[4 + length..];
    let (id, rest) = if qos == 0 { (0, rest) } else { (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..]) };
    assert_eq!(rest[0], 0, "properties");
    let payload = if rest.len() > 1 { u16::from_be_bytes([rest[1], rest[2]]) } else { NOTHING };
    (Copy { topic, payload, qos, retain: packet[0] & 1 != 0 }, id)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: ProptestConfig::default().cases * 8,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_broker_says_what_the_simplest_one_says(ops in prop::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in &ops {
            model.apply(op)?;
        }
        model.finish()?;
    }
}

use proptest::prelude::*;

use super::*;
use crate::clock::UnixMs;
use crate::command::Done;
use crate::mapping::rule::tests::rule;
use crate::mapping::rule::{FailSafe, WriteRule};
use crate::message::{Properties, Qos};
use crate::sample::{BitRange, Fault};

const NOON: UnixMs = UnixMs(1_769_860_800_123);
const PEER: Origin = Origin::Session(7);

fn write() -> WriteRule {
    WriteRule {
        min: Some(0.0),
        max: Some(900.0),
        max_step: None,
        ttl: Duration::from_secs(5),
        readback: true,
        min_interval: Duration::ZERO,
        write_equal: false,
        fail_safe: None,
    }
}

fn writable(write: WriteRule) -> PointRule {
    PointRule { write: Some(write), ..rule("plant/boiler/setpoint") }
}

struct Bench {
    commands: Commands,
    now: Now,
    known: Option<(Value, Instant)>,
    answers: Vec<Answer>,
}

impl Bench {
    #[allow(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    fn new(rule: PointRule) -> Self {
        Self {
            commands: Commands::new(BusId(3), [rule].into(), CommandIds::default()),
            now: Now { mono: Instant::now(), wall: NOON },
            known: None,
            answers: Vec::new(),
        }
    }

    fn known(mut self, raw: u64) -> Self {
        self.known = Some((Value::Uint(raw), self.now.mono));
        self
    }

    fn wait(&mut self, millis: u64) -> Vec<Command> {
        self.now = self.now.after(Duration::from_millis(millis));
        self.commands.handle_timeout(self.now, &mut self.answers)
    }

    fn send(&mut self, message: &Message, delivery: Option<&Delivery>) -> Option<Command> {
        let known = self.known.as_ref().map(|(raw, received)| Known { raw, received: *received });
        let arrival = Arrival { index: 0, message, origin: PEER, delivery };
        self.commands.handle(self.now, arrival, known, &mut self.answers)
    }

    fn set(&mut self, payload: &str) -> Option<Command> {
        self.send(&set(payload), None)
    }

    fn deliver(&mut self, payload: &str, packet_id: u16, again: Again) -> Option<Command> {
        self.send(&set(payload), Some(&delivery(packet_id, again)))
    }

    /// A redelivery, of a client that was heard until so long ago.
    fn deliver_again(&mut self, payload: &str, packet_id: u16, millis_ago: u64) -> Option<Command> {
        let after = self.now.mono.checked_sub(Duration::from_millis(millis_ago));
        self.deliver(payload, packet_id, Again::Redelivered { after })
    }

    fn done(&mut self, command: &Command, readback: Option<u64>) {
        let result = Ok(Done { readback: readback.map(Value::Uint) });
        self.commands.outcome(self.now, &Outcome { id: command.id, result }, &mut self.answers);
    }

    fn failed(&mut self, command: &Command, why: NotDone) {
        self.commands.outcome(self.now, &Outcome { id: command.id, result: Err(why) }, &mut self.answers);
    }

    fn results(&mut self) -> Vec<String> {
        std::mem::take(&mut self.answers)
            .iter()
            .map(|answer| String::from_utf8(answer.message.payload.to_vec()).unwrap())
            .collect()
    }

    /// The one result, as its status and error.
    fn result(&mut self) -> (String, String) {
        let results = self.results();
        assert_eq!(results.len(), 1, "{results:?}");
        let result: serde_json::Value = serde_json::from_str(&results[0]).unwrap();
        let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("error"))
    }

    fn refuses(&mut self, payload: &str, status: &str, reason: &str) {
        assert_eq!(self.set(payload), None, "{payload}");
        let (told, error) = self.result();
        assert_eq!(told, status, "{payload}: {error}");
        assert!(error.contains(reason), "{payload}: {error}");
    }
}

fn delivery(packet_id: u16, again: Again) -> Delivery {
    Delivery { client: "scada".into(), packet_id, again }
}

fn set(payload: &str) -> Message {
    Message::new("plant/boiler/setpoint/set", payload.to_owned(), Qos::AtLeastOnce, false)
}

#[test]
fn a_command_is_written_and_its_result_reads_as_the_design_has_it() {
    let mut bench = Bench::new(writable(write()));
    let command = bench.set(r#"{"value":42,"id":"any"}"#).unwrap();
    assert_eq!((command.raw.clone(), command.readback, command.point.bus), (Value::Uint(42), true, BusId(3)));
    assert_eq!(command.expires, bench.now.mono + Duration::from_secs(5));
    assert!(bench.answers.is_empty());
    bench.done(&command, Some(42));
    assert_eq!(bench.answers[0].message.topic.as_ref(), "plant/boiler/setpoint/set/result");
    assert_eq!((bench.answers[0].message.qos, bench.answers[0].message.retain), (Qos::AtLeastOnce, false));
    assert_eq!(
        bench.results(),
        [r#"{"id":"any","status":"done","value":42,"readback":42,"time":"2026-01-31T12:00:00.123Z"}"#]
    );
}

#[test]
fn values_are_brought_back_to_what_the_wire_has() {
    let map: BTreeMap<i64, Arc<str>> = [(0, "off".into()), (1, "on".into())].into();
    let open = WriteRule { min: None, max: None, ..write() };
    for (rule, payload, raw) in [
        (PointRule { scale: 0.1, ..writable(write()) }, "4.5", Value::Uint(45)),
        (PointRule { map: map.clone(), ..writable(write()) }, "on", Value::Uint(1)),
        (PointRule { map: map.clone(), ..writable(write()) }, "\"off\"", Value::Uint(0)),
        (PointRule { map, kind: Kind::Bool, ..writable(write()) }, "on", Value::Bool(true)),
        (PointRule { kind: Kind::Bool, ..writable(open.clone()) }, "false", Value::Bool(false)),
        (PointRule { kind: Kind::F32, ..writable(write()) }, "4.5", Value::F32(4.5)),
        (PointRule { kind: Kind::Integer { min: -5, max: 5 }, ..writable(open.clone()) }, "-5", Value::Int(-5)),
        (PointRule { kind: Kind::Text { bytes: 4 }, ..writable(open.clone()) }, "42", Value::Text("42".into())),
        (PointRule { bits: BitRange::new(4, 4), ..writable(open) }, "true", Value::Uint(1)),
    ] {
        let mut bench = Bench::new(rule);
        assert_eq!(bench.set(payload).map(|command| command.raw), Some(raw), "{payload}: {:?}", bench.results());
    }
}

#[test]
fn what_is_wrong_is_rejected_with_its_reason() {
    let mut bench = Bench::new(writable(write()));
    for (payload, reason) in [
        ("901", "above max 900"),
        ("-1", "out of range"),
        ("4.5", "whole number"),
        ("NaN", "a number is expected"),
        ("on", "a number is expected"),
        ("true", "a number is expected"),
        ("1e300", "out of range"),
        (r#"{"value":"#, "malformed JSON"),
        (r#"{"value":1,"vlaue":2}"#, "unknown field `vlaue`"),
    ] {
        bench.refuses(payload, "rejected", reason);
    }
    let text = PointRule { kind: Kind::Text { bytes: 4 }, ..writable(write()) };
    Bench::new(text.clone()).refuses(r#"{"value":42}"#, "rejected", "a text is expected");
    Bench::new(text).refuses("12345", "rejected", "5 bytes");
    Bench::new(rule("a/b")).refuses("1", "rejected", "not writable");
    let field = WriteRule { min: None, max: None, ..write() };
    Bench::new(PointRule { bits: BitRange::new(4, 5), ..writable(field) }).refuses("4", "rejected", "0 to 3");
}

#[test]
fn a_retained_command_is_rejected() {
    let mut bench = Bench::new(writable(write()));
    assert_eq!(bench.send(&Message { retain: true, ..set("1") }, None), None);
    assert_eq!(bench.result().0, "rejected");
}

#[test]
fn a_late_command_is_expired_and_its_deadline_is_the_earliest_that_anyone_gave() {
    let mut bench = Bench::new(writable(write()));
    bench.refuses(r#"{"value":1,"expires":"2026-01-31T12:00:00.123Z"}"#, "expired", "passed");
    let command = bench.set(r#"{"value":1,"expires":"2026-01-31T13:00:02.123+01:00"}"#).unwrap();
    assert_eq!(command.expires, bench.now.mono + Duration::from_secs(2));
    let command = bench.send(&Message { expires: Some(UnixMs(NOON.0 + 1000)), ..set("2") }, None).unwrap();
    assert_eq!(command.expires, bench.now.mono + Duration::from_secs(1));
    bench.failed(&command, NotDone::Expired);
    assert_eq!(bench.result().0, "expired");
}

#[test]
fn a_step_is_measured_from_the_known_value_and_from_those_under_way() {
    let stepped = writable(WriteRule { max_step: Some(50.0), ..write() });
    Bench::new(stepped.clone()).refuses("10", "rejected", "not known");
    let mut bench = Bench::new(stepped).known(100);
    bench.refuses("151", "rejected", "over max_step 50");
    let command = bench.set("150").unwrap();
    bench.refuses("60", "rejected", "from 150");
    bench.refuses("200", "rejected", "from 100");
    bench.wait(10);
    bench.done(&command, None);
    bench.results();
    assert!(bench.set("200").is_some(), "the written value counts until the point is read again");
}

#[test]
fn commands_that_come_too_soon_or_too_many_are_rejected() {
    let mut bench = Bench::new(writable(WriteRule { min_interval: Duration::from_secs(1), ..write() }));
    assert!(bench.set("1").is_some());
    bench.refuses("2", "rejected", "too soon: wait another 1000 ms");
    bench.wait(1000);
    assert!(bench.set("2").is_some());

    let mut bench = Bench::new(writable(write()));
    for value in 0..WAITING_MAX {
        assert!(bench.set(&value.to_string()).is_some());
    }
    bench.refuses("1", "rejected", "too many");
}

#[test]
fn for_a_value_that_the_device_holds_it_is_asked_first_unless_the_file_says_otherwise() {
    let mut bench = Bench::new(PointRule { scale: 0.1, ..writable(write()) }).known(45);
    let command = bench.set("4.5").unwrap();
    assert!(command.unless_equal);
    bench.done(&command, Some(45));
    assert_eq!(bench.results(), [r#"{"status":"done","value":4.5,"readback":4.5,"time":"2026-01-31T12:00:00.123Z"}"#]);
    assert!(!bench.set("4.6").unwrap().unless_equal);
    assert!(!bench.set("4.5").unwrap().unless_equal, "another value is under way");
    let mut bench = Bench::new(writable(WriteRule { write_equal: true, ..write() })).known(45);
    assert!(!bench.set("45").unwrap().unless_equal);
}

#[test]
fn asking_whether_the_value_is_held_neither_waits_for_min_interval_nor_begins_it() {
    let mut bench = Bench::new(writable(WriteRule { min_interval: Duration::from_secs(10), ..write() })).known(45);
    for _ in 0..3 {
        let command = bench.set("45").unwrap();
        bench.done(&command, Some(45));
    }
    assert!(bench.set("46").is_some());
    bench.results();
    bench.refuses("47", "rejected", "too soon");
}

#[test]
fn an_id_acts_once_and_its_result_is_told_again() {
    let mut bench = Bench::new(writable(write()));
    let command = bench.set(r#"{"value":42,"id":"a"}"#).unwrap();
    assert_eq!(bench.set(r#"{"value":42,"id":"a"}"#), None);
    assert!(bench.answers.is_empty(), "its result is still to come");
    bench.done(&command, None);
    let first = bench.results();
    bench.wait(60_000);
    assert_eq!(bench.set(r#"{"value":43,"id":"a"}"#), None);
    assert_eq!(bench.results(), first);
    bench.wait(600_000);
    assert!(bench.set(r#"{"value":43,"id":"a"}"#).is_some());
}

#[test]
fn commands_that_are_delivered_again_act_once_each_also_in_a_row_and_by_another_session() {
    let mut bench = Bench::new(writable(write()));
    let first = bench.deliver("42", 1, Again::First).unwrap();
    let second = bench.deliver("43", 2, Again::First).unwrap();
    bench.done(&first, None);
    let told = bench.results();
    assert_eq!(bench.deliver_again("42", 1, 100), None);
    assert_eq!(bench.results(), told, "its result is told again");
    assert_eq!(bench.deliver_again("43", 2, 100), None);
    assert!(bench.results().is_empty(), "its result is still to come");
    bench.done(&second, None);
    assert!(bench.deliver("43", 2, Again::First).is_some(), "the client sends the same once more");
}

#[test]
fn a_redelivery_that_did_not_come_before_acts_only_while_it_is_surely_in_time() {
    let mut bench = Bench::new(writable(write()));
    let command = bench.deliver_again("42", 1, 4000).unwrap();
    assert_eq!(command.expires, bench.now.mono + Duration::from_secs(1), "what is left of ttl_ms");
    assert_eq!(bench.deliver_again("43", 2, 5000), None);
    assert_eq!(bench.result().0, "expired");
    assert_eq!(bench.deliver("44", 3, Again::Redelivered { after: None }), None);
    let (status, error) = bench.result();
    assert_eq!(status, "expired");
    assert!(error.contains("send it anew"), "{error}");
}

#[test]
fn a_command_that_was_refused_is_refused_again_when_it_is_delivered_again() {
    let mut bench = Bench::new(writable(WriteRule { min_interval: Duration::from_secs(1), ..write() }));
    assert!(bench.deliver("1", 1, Again::First).is_some());
    assert_eq!(bench.deliver("2", 2, Again::First), None);
    let refused = bench.results();
    bench.wait(2000);
    assert_eq!(bench.deliver_again("2", 2, 100), None);
    assert_eq!(bench.results(), refused);
}

#[test]
fn a_response_topic_gets_the_result_with_its_correlation_data() {
    let ask = |topic: &str| {
        let mut message = set("1000");
        let properties = Properties {
            response_topic: Some(topic.to_owned()),
            correlation_data: Some(Bytes::from_static(b"\x01\xff")),
            ..Properties::default()
        };
        message.properties = Some(Arc::new(properties));
        let mut bench = Bench::new(writable(write()));
        bench.send(&message, None);
        bench.answers
    };
    let answers = ask("replies/7");
    assert_eq!(answers[1].message.topic.as_ref(), "replies/7");
    assert_eq!(answers[1].message.payload, answers[0].message.payload);
    assert_eq!(answers[1].behalf, Some(PEER));
    let properties = answers[1].message.properties.as_ref().unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\x01\xff"[..]));
    for topic in ["replies/#", "", "plant/other/set", "fieldgate/pi-1/status", "$SYS/x"] {
        assert_eq!(ask(topic).len(), 1, "{topic}");
    }
}

#[test]
fn a_device_that_fails_or_holds_another_value_is_told() {
    let mut bench = Bench::new(writable(write()));
    let command = bench.set("1").unwrap();
    bench.failed(&command, NotDone::Fault(Fault::Timeout));
    assert_eq!(bench.result(), ("failed".to_owned(), "timeout".to_owned()));
    bench.failed(&command, NotDone::Fault(Fault::Timeout));
    assert!(bench.answers.is_empty(), "one result only");
    let command = bench.set("1").unwrap();
    bench.failed(&command, NotDone::Mismatch(Value::Uint(9)));
    assert!(bench.results()[0].contains(r#""status":"failed","value":1,"readback":9,"error":"#));
}

#[test]
fn a_driver_that_says_nothing_is_given_up_and_a_stopped_bus_answers_all() {
    let mut bench = Bench::new(writable(write()));
    bench.set("1").unwrap();
    assert_eq!(bench.commands.next_timeout(), Some(bench.now.mono + Duration::from_secs(35)));
    bench.wait(35_000);
    assert_eq!(bench.result().0, "failed");
    bench.set("1").unwrap();
    bench.commands.close(bench.now, &mut bench.answers);
    assert_eq!(bench.result().0, "failed");
    assert_eq!(bench.commands.next_timeout(), None);
}

#[test]
fn the_fail_safe_value_is_written_when_commands_stop_coming() {
    let fail_safe = Some(FailSafe { value: 5.0, after: Duration::from_secs(30) });
    let mut bench = Bench::new(writable(WriteRule { fail_safe, ..write() }));
    assert!(bench.wait(60_000).is_empty(), "nothing was commanded yet");
    let command = bench.set("100").unwrap();
    bench.done(&command, None);
    assert!(bench.wait(20_000).is_empty());
    let command = bench.set("101").unwrap();
    bench.done(&command, None);
    assert!(bench.wait(29_000).is_empty());
    let safe = bench.wait(1_000);
    assert_eq!(safe[0].raw, Value::Uint(5));
    bench.results();
    bench.failed(&safe[0], NotDone::Fault(Fault::Timeout));
    assert!(bench.results()[0].starts_with(r#"{"id":"fail_safe","status":"failed","value":5,"#));
    let safe = bench.wait(30_000);
    bench.done(&safe[0], Some(5));
    assert!(bench.wait(600_000).is_empty(), "once done, it is not written again");
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u8, bool, bool),
    Outcome(usize, u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<u8>(), 0_u8..4, any::<bool>(), any::<bool>()).prop_map(|(v, id, dup, r)| Step::Set(v, id, dup, r)),
        (0_usize..8, 0_u8..4).prop_map(|(which, how)| Step::Outcome(which, how)),
        (0_u64..20_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn every_written_command_has_one_result_and_no_id_is_written_twice(steps in steps()) {
        let mut bench = Bench::new(writable(WriteRule { max_step: Some(200.0), ..write() })).known(100);
        let mut open: Vec<Command> = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        let mut written = 0;
        let mut settled = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Set(value, id, dup, retain) => {
                    // Id 0: fresh each time; the others come again and again.
                    let id = if id == 0 { format!("fresh-{number}") } else { format!("id-{id}") };
                    let message = Message { retain, ..set(&format!(r#"{{"value":{value},"id":"{id}"}}"#)) };
                    let after = Some(bench.now.mono);
                    let again = if dup { Again::Redelivered { after } } else { Again::First };
                    if let Some(command) = bench.send(&message, Some(&delivery(1, again))) {
                        prop_assert!(!retain);
                        prop_assert!(ids.insert(id), "written twice");
                        written += 1;
                        open.push(command);
                        prop_assert!(bench.results().is_empty());
                    } else {
                        prop_assert!(bench.results().len() <= 1);
                    }
                }
                Step::Outcome(which, how) => {
                    if open.is_empty() { continue }
                    let command = open.remove(which % open.len());
                    match how {
                        0 => bench.done(&command, None),
                        1 => bench.done(&command, Some(9)),
                        2 => bench.failed(&command, NotDone::Expired),
                        _ => bench.failed(&command, NotDone::Fault(Fault::Busy)),
                    }
                    settled += bench.results().len();
                    bench.done(&command, None);
                    prop_assert!(bench.results().is_empty());
                }
                Step::Wait(millis) => {
                    if millis > 10_000 && ids.len() > 40 { continue }
                    bench.wait(millis / 100);
                    settled += bench.results().len();
                }
            }
        }
        bench.commands.close(bench.now, &mut bench.answers);
        settled += bench.results().len();
        prop_assert_eq!(settled, written);
    }

    #[test]
    fn no_payload_panics_and_each_gets_a_result_or_a_write(payload: Vec<u8>) {
        let mut bench = Bench::new(writable(write()));
        let message = Message::new("plant/boiler/setpoint/set", payload, Qos::AtMostOnce, false);
        let command = bench.send(&message, None);
        prop_assert_eq!(bench.results().len(), usize::from(command.is_none()));
    }
}

use super::*;
use crate::mapping::rule::tests::rule;
use crate::mapping::rule::{Kind, PointRule};
use crate::sample::{BusId, PointId};

const NOON: UnixMs = UnixMs(1_769_860_800_123);

/// A publisher of one point, and a clock of its own.
struct Bench {
    publisher: Publisher,
    now: Now,
    clock: ClockState,
}

impl Bench {
    #[allow(clippy::disallowed_methods, reason = "any instant will do: only differences count")]
    fn new(rule: PointRule) -> Self {
        let publisher = Publisher::new([rule].into(), Boot::new("k3f9"));
        Self { publisher, now: Now { mono: Instant::now(), wall: NOON }, clock: ClockState::Synced }
    }

    /// Moves on in steps to each timeout on the way.
    fn wait(&mut self, millis: u64) -> Vec<String> {
        let end = self.now.after(Duration::from_millis(millis));
        let mut out = Vec::new();
        while let Some(at) = self.publisher.next_timeout().filter(|at| *at <= end.mono) {
            self.now = self.now.after(at.saturating_duration_since(self.now.mono));
            self.publisher.handle_timeout(self.now, &mut out);
        }
        self.now = end;
        payloads(&out)
    }

    fn sample(&mut self, reading: Result<Value, Fault>) -> Vec<String> {
        let mut out = Vec::new();
        let sample = Sample { point: PointId { bus: BusId(0), index: 0 }, at: self.now.wall, reading };
        self.publisher.sample(self.now, self.clock, &sample, &mut out);
        payloads(&out)
    }

    fn value(&mut self, value: u64) -> Vec<String> {
        self.sample(Ok(Value::Uint(value)))
    }
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).collect()
}

fn bare() -> PointRule {
    PointRule { payload: PayloadForm::Value, ..rule("plant/pi-1/meter-1/voltage") }
}

#[test]
fn a_sample_reads_as_the_design_has_it() {
    let mut bench =
        Bench::new(PointRule { kind: Kind::F32, unit: Some("V".into()), ..rule("plant/pi-1/meter-1/voltage") });
    assert_eq!(
        bench.sample(Ok(Value::F32(230.1))),
        [r#"{"value":230.1,"unit":"V","time":"2026-01-31T12:00:00.123Z","boot":"k3f9","seq":1}"#]
    );
    bench.clock = ClockState::Unsynced;
    assert_eq!(
        bench.sample(Ok(Value::F32(230.0))),
        [r#"{"value":230,"unit":"V","time":"2026-01-31T12:00:00.123Z","boot":"k3f9","seq":2,"clock":"unsynced"}"#]
    );
}

#[test]
fn a_message_has_its_rule_s_topic_qos_and_retain() {
    let mut publisher = Bench::new(rule("a/b"));
    let sample = Sample { point: PointId { bus: BusId(0), index: 0 }, at: NOON, reading: Ok(Value::Uint(1)) };
    let mut out = Vec::new();
    publisher.publisher.sample(publisher.now, ClockState::Synced, &sample, &mut out);
    assert_eq!((out[0].topic.as_ref(), out[0].qos as u8, out[0].retain), ("a/b", 1, true));
    let nowhere = Sample { point: PointId { bus: BusId(0), index: 1 }, ..sample };
    publisher.publisher.sample(publisher.now, ClockState::Synced, &nowhere, &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn a_fault_is_published_once_and_the_value_after_it_always() {
    let mut bench = Bench::new(PointRule { report: Report::Change, unit: Some("V".into()), ..rule("a/b") });
    bench.value(7);
    assert_eq!(
        bench.sample(Err(Fault::Timeout)),
        [r#"{"value":null,"fault":"timeout","time":"2026-01-31T12:00:00.123Z","boot":"k3f9","seq":2}"#]
    );
    assert!(bench.sample(Err(Fault::Timeout)).is_empty());
    assert_eq!(bench.sample(Err(Fault::Disconnected)).len(), 1);
    assert_eq!(bench.value(7).len(), 1);
    assert!(bench.value(7).is_empty());
}

#[test]
fn not_a_number_is_the_fault_bad_value() {
    let mut bench = Bench::new(rule("a/b"));
    assert!(bench.sample(Ok(Value::F32(f32::NAN)))[0].starts_with(r#"{"value":null,"fault":"bad_value","#));
    assert!(bench.publisher.newest(0).unwrap().raw.is_none());
}

#[test]
fn a_bare_payload_is_the_value_alone_and_faults_say_nothing() {
    let mut bench = Bench::new(bare());
    assert_eq!(bench.value(7), ["7"]);
    assert!(bench.sample(Err(Fault::Timeout)).is_empty());
    assert_eq!(bench.sample(Ok(Value::Bool(true))), ["true"]);
    assert_eq!(bench.sample(Ok(Value::Text("say \"hi\"".into()))), ["say \"hi\""]);
}

#[test]
fn text_is_escaped_in_json() {
    let mut bench = Bench::new(rule("a/b"));
    assert!(bench.sample(Ok(Value::Text("a\"\u{1}é".into())))[0].starts_with(r#"{"value":"a\"\u0001é","time""#));
}

#[test]
fn what_does_not_change_is_not_published_under_report_change() {
    let mut bench = Bench::new(PointRule { report: Report::Change, ..bare() });
    assert_eq!(bench.value(1), ["1"]);
    assert!(bench.value(1).is_empty());
    assert_eq!(bench.value(2), ["2"]);
}

#[test]
fn a_deadband_is_measured_from_the_value_published_last() {
    let mut bench = Bench::new(PointRule { deadband: Some(Deadband::Absolute(0.2)), scale: 0.1, ..bare() });
    assert_eq!(bench.value(2301), ["230.1"]);
    assert!(bench.value(2302).is_empty());
    assert!(bench.value(2303).is_empty(), "0.2 away is within 0.2");
    assert_eq!(bench.value(2304), ["230.4"]);
    assert!(bench.value(2303).is_empty());

    let mut bench = Bench::new(PointRule { deadband: Some(Deadband::Percent(2.0)), ..bare() });
    assert_eq!(bench.value(100), ["100"]);
    assert!(bench.value(102).is_empty());
    assert_eq!(bench.value(103), ["103"]);
}

#[test]
fn samples_inside_min_interval_wait_and_the_last_of_them_is_published() {
    let mut bench = Bench::new(PointRule { min_interval: Duration::from_millis(1000), ..bare() });
    assert_eq!(bench.value(1), ["1"]);
    assert!(bench.wait(400).is_empty());
    assert!(bench.value(2).is_empty());
    assert!(bench.wait(400).is_empty());
    assert!(bench.value(3).is_empty());
    assert_eq!(bench.wait(200), ["3"]);
    assert!(bench.wait(5000).is_empty());
    assert_eq!(bench.value(4), ["4"]);
}

#[test]
fn a_held_value_that_went_back_is_not_published_under_report_change() {
    let mut bench =
        Bench::new(PointRule { min_interval: Duration::from_millis(1000), report: Report::Change, ..bare() });
    bench.value(1);
    bench.value(2);
    bench.value(1);
    assert!(bench.wait(2000).is_empty());
}

#[test]
fn a_heartbeat_repeats_the_newest_reading_with_its_own_time_until_a_fault() {
    let heartbeat = Some(Duration::from_secs(60));
    let mut bench = Bench::new(PointRule { report: Report::Change, heartbeat, ..rule("a/b") });
    bench.value(7);
    bench.wait(30_000);
    assert!(bench.value(7).is_empty());
    assert_eq!(bench.wait(30_000), [r#"{"value":7,"time":"2026-01-31T12:00:30.123Z","boot":"k3f9","seq":2}"#]);
    assert_eq!(bench.wait(120_000).len(), 2);
    assert_eq!(bench.sample(Err(Fault::Stale)).len(), 1);
    assert!(bench.wait(600_000).is_empty());
}

#[test]
fn a_heartbeat_counts_from_the_last_publish() {
    let heartbeat = Some(Duration::from_secs(60));
    let mut bench = Bench::new(PointRule { report: Report::Change, heartbeat, ..bare() });
    bench.value(1);
    bench.wait(50_000);
    assert_eq!(bench.value(2), ["2"]);
    assert!(bench.wait(59_000).is_empty());
    assert_eq!(bench.wait(1_000), ["2"]);
}

#[test]
fn seq_rises_over_all_buses_of_a_run() {
    let boot = Boot::new("k3f9");
    let mut first = Bench::new(rule("a/b"));
    first.publisher = Publisher::new([rule("a/b")].into(), boot.clone());
    let mut second = Bench::new(rule("a/c"));
    second.publisher = Publisher::new([rule("a/c")].into(), boot);
    assert!(first.value(1)[0].contains(r#""seq":1}"#));
    assert!(second.value(1)[0].contains(r#""seq":2}"#));
    assert!(first.value(1)[0].contains(r#""seq":3}"#));
}

#[test]
fn intervals_longer_than_time_itself_do_no_harm() {
    let mut bench = Bench::new(PointRule { min_interval: Duration::MAX, heartbeat: Some(Duration::MAX), ..bare() });
    assert_eq!(bench.value(1), ["1"]);
    assert!(bench.value(2).is_empty());
    assert!(bench.wait(1000).is_empty());
}

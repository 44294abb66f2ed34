use super::*;
use crate::clock::UnixMs;
use crate::command::Done;
use crate::driver::DeviceState;
use crate::modbus::fixture;
use crate::modbus::pdu::Answer;
use crate::modbus::spec::{DataType, Parity, Table, WriteFunction, WriteSpec};
use crate::sample::{PointId, Value};

/// A bus whose time is invented: units under `dead` never answer, the others at once.
struct Bench {
    schedule: Schedule,
    now: Now,
    dead: Vec<u8>,
    /// Time that silence took.
    wasted: Duration,
    sent: Vec<(u8, Request)>,
    output: Output,
}

impl Bench {
    fn new(spec: BusSpec) -> Self {
        let now = Now { wall: UnixMs(0), ..Now::read() };
        let mut schedule = Schedule::new(Rc::new(spec), BusId(1), now);
        schedule.link_up(now);
        Self { schedule, now, dead: Vec::new(), wasted: Duration::ZERO, sent: Vec::new(), output: Output::default() }
    }

    /// Plays a line with one request at a time.
    fn play(&mut self, long: Duration) {
        let end = self.now.mono + long;
        while self.now.mono < end {
            match self.schedule.next(self.now) {
                Action::Wait(until) => {
                    let until = until.unwrap_or(end).min(end).max(self.now.mono + Duration::from_micros(1));
                    self.now = self.now.after(until - self.now.mono);
                }
                Action::Send(job) => self.one(&job),
            }
            let output = self.schedule.take_output();
            self.output.samples.extend(output.samples);
            self.output.outcomes.extend(output.outcomes);
        }
    }

    fn one(&mut self, job: &Job) {
        self.sent.push((job.unit, job.request.clone()));
        if self.dead.contains(&job.unit) {
            let took = job.timeout + DRAIN;
            self.now = self.now.after(took);
            self.wasted += took;
            self.schedule.failed(job.ticket, Failure::Timeout, self.now);
            return;
        }
        let answer = match pdu::answer_byte_count(&job.request) {
            Some(bytes) => Answer::Registers(vec![1; usize::from(bytes / 2)]),
            None => Answer::Written,
        };
        let took = self.schedule.timing().exchange(5, pdu::answer_length(&job.request));
        self.now = self.now.after(took);
        self.schedule.answered(job.ticket, &answer, self.now);
    }

    fn sent_to(&self, unit: u8) -> usize {
        self.sent.iter().filter(|(to, _)| *to == unit).count()
    }
}

/// `units` devices with one register each.
fn line(units: u8, interval_ms: u64) -> BusSpec {
    let mut spec = fixture::serial(19_200, Parity::None);
    spec.devices.clear();
    for unit in 1..=units {
        spec.devices.push(fixture::device(&format!("unit-{unit}"), unit));
        fixture::point(&mut spec, Table::Holding, 0, DataType::U16, interval_ms);
        spec.points.last_mut().unwrap().write = Some(WriteSpec { function: WriteFunction::Auto });
    }
    spec
}

fn command(bench: &Bench, id: u64, index: u32, ttl: Duration) -> Command {
    let point = PointId { bus: BusId(1), index };
    Command {
        id: CommandId(id),
        point,
        raw: Value::Uint(1),
        expires: bench.now.mono + ttl,
        readback: false,
        unless_equal: false,
    }
}

#[test]
fn a_dead_device_costs_its_neighbours_two_percent_at_most_and_comes_back() {
    for timeout in [20, 100, 300, 1_000] {
        let mut spec = line(10, 200);
        spec.timeout = Duration::from_millis(timeout);
        let mut bench = Bench::new(spec);
        bench.dead = vec![10];
        bench.play(Duration::from_secs(5));
        assert_eq!(bench.schedule.device_status()[9].state, DeviceState::Offline);
        let faults: Vec<_> = bench.output.samples.drain(..).flatten().filter(|one| one.reading.is_err()).collect();
        assert_eq!(faults.len(), 1, "told once");

        (bench.wasted, bench.sent) = (Duration::ZERO, Vec::new());
        let long = Duration::from_secs(600);
        bench.play(long);
        let share = bench.wasted.as_secs_f64() / long.as_secs_f64();
        assert!(share <= 0.02, "{timeout} ms: {share}");
        let probes = bench.sent_to(10);
        assert!(probes >= 5, "{timeout} ms: {probes} probes");
        assert!(bench.sent_to(1) >= 2_940, "{timeout} ms: {} of 3000 polls", bench.sent_to(1));

        bench.dead.clear();
        bench.sent.clear();
        bench.play(Duration::from_secs(60));
        assert_eq!(bench.schedule.device_status()[9].state, DeviceState::Online);
        assert!(bench.sent_to(10) > 150, "{}", bench.sent_to(10));
    }
}

#[test]
fn a_device_that_is_back_is_asked_within_its_probe_interval() {
    let mut bench = Bench::new(line(2, 200));
    bench.dead = vec![2];
    bench.play(Duration::from_secs(120));
    bench.dead.clear();
    bench.output = Output::default();
    let most_probes = Duration::from_secs(11);
    bench.play(most_probes);
    assert_eq!(bench.schedule.device_status()[1].state, DeviceState::Online);
}

#[test]
fn commands_overtake_polls_and_do_not_starve_them() {
    let mut bench = Bench::new(line(3, 1));
    bench.play(Duration::from_secs(1));
    for id in 0..200 {
        bench.schedule.command(command(&bench, id, 0, Duration::from_secs(60)));
    }
    bench.sent.clear();
    bench.play(Duration::from_secs(2));
    let is_write = |request: &Request| matches!(request, Request::WriteSingleRegister(..));
    assert!(is_write(&bench.sent[0].1), "at once");
    let first: Vec<bool> = bench.sent.iter().take(50).map(|(_, request)| is_write(request)).collect();
    assert!(first.windows(5).all(|five| five.iter().any(|write| !write)), "{first:?}");
    assert!(first.iter().filter(|write| **write).count() >= 30, "{first:?}");
}

#[test]
fn an_overloaded_line_is_shared_fairly() {
    let mut bench = Bench::new(line(5, 1));
    bench.play(Duration::from_secs(10));
    let counts: Vec<usize> = (1..=5).map(|unit| bench.sent_to(unit)).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 1, "{counts:?}");
}

#[test]
fn polls_keep_in_step_and_missed_ones_are_not_caught_up() {
    let mut bench = Bench::new(line(1, 100));
    bench.play(Duration::from_secs(10));
    assert_eq!(bench.sent.len(), 100);
    bench.now = bench.now.after(Duration::from_secs(10));
    bench.sent.clear();
    bench.play(Duration::from_secs(1));
    assert!((10..=11).contains(&bench.sent.len()), "{}", bench.sent.len());
}

#[test]
fn a_short_interval_goes_before_a_long_round() {
    let mut spec = fixture::serial(9_600, Parity::None);
    for place in 0..20 {
        fixture::point(&mut spec, Table::Holding, place * 200, DataType::Text { registers: 100 }, 10_000);
    }
    fixture::point(&mut spec, Table::Input, 0, DataType::U16, 500);
    let mut bench = Bench::new(spec);
    bench.play(Duration::from_secs(4));
    let fast = bench.sent.iter().filter(|(_, request)| matches!(request, Request::ReadInputRegisters(..))).count();
    assert_eq!(fast, 8);
}

#[test]
fn an_expired_command_is_not_sent() {
    let mut bench = Bench::new(line(1, 1_000));
    bench.play(Duration::from_millis(1_500));
    bench.sent.clear();
    bench.schedule.command(command(&bench, 1, 0, Duration::ZERO));
    bench.play(Duration::from_millis(100));
    assert_eq!(bench.output.outcomes, [Outcome { id: CommandId(1), result: Err(NotDone::Expired) }]);
    assert!(bench.sent.is_empty());
}

#[test]
fn a_write_is_sent_once_even_when_nothing_answers_it() {
    let mut spec = line(1, 60_000);
    spec.retries = 3;
    let mut bench = Bench::new(spec);
    bench.play(Duration::from_secs(1));
    bench.dead = vec![1];
    bench.sent.clear();
    bench.schedule.command(command(&bench, 1, 0, Duration::from_secs(5)));
    bench.play(Duration::from_secs(3));
    let timeout = Err(NotDone::Fault(Fault::Timeout));
    assert_eq!(bench.output.outcomes, [Outcome { id: CommandId(1), result: timeout }]);
    assert_eq!(bench.sent.len(), 1);
}

#[test]
fn a_device_that_is_believed_to_hold_the_value_is_read_and_written_to_only_where_it_does_not() {
    for (raw, requests) in [(1, 1), (2, 2)] {
        let mut bench = Bench::new(line(1, 60_000));
        bench.play(Duration::from_secs(1));
        bench.sent.clear();
        let command = command(&bench, 1, 0, Duration::from_secs(5));
        bench.schedule.command(Command { raw: Value::Uint(raw), unless_equal: true, ..command });
        while bench.output.outcomes.is_empty() {
            bench.play(Duration::from_millis(10));
        }
        assert_eq!(bench.sent.len(), requests, "{:?}", bench.sent);
        assert_eq!(bench.schedule.counters().writes, requests as u64 - 1);
        let readback = (raw == 1).then_some(Value::Uint(1));
        assert_eq!(bench.output.outcomes, [Outcome { id: CommandId(1), result: Ok(Done { readback }) }]);
    }
}

#[test]
fn a_written_point_is_read_at_once() {
    let mut bench = Bench::new(line(1, 60_000));
    bench.play(Duration::from_secs(1));
    bench.sent.clear();
    bench.schedule.command(command(&bench, 1, 0, Duration::from_secs(5)));
    bench.play(Duration::from_millis(200));
    assert_eq!(bench.output.outcomes, [Outcome { id: CommandId(1), result: Ok(Done { readback: None }) }]);
    assert_eq!(bench.sent[1].1, Request::ReadHoldingRegisters(0, 1));
}

#[test]
fn a_lost_line_is_told_for_every_point_and_command_once() {
    let mut bench = Bench::new(line(3, 100));
    bench.play(Duration::from_secs(1));
    bench.schedule.command(command(&bench, 1, 0, Duration::from_secs(5)));
    bench.schedule.link_down(bench.now);
    bench.schedule.command(command(&bench, 2, 0, Duration::from_secs(5)));
    let output = bench.schedule.take_output();
    let disconnected = |sample: &&Sample| sample.reading == Err(Fault::Disconnected);
    assert_eq!(output.samples.iter().flatten().filter(disconnected).count(), 3);
    assert_eq!(output.outcomes.len(), 2);
    assert_eq!(bench.schedule.next(bench.now), Action::Wait(None));
}

#[test]
fn a_block_that_alone_is_never_answered_does_not_take_its_device_along() {
    let mut spec = fixture::serial(19_200, Parity::None);
    fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 200);
    fixture::point(&mut spec, Table::Holding, 1_000, DataType::U16, 200);
    let mut schedule = Schedule::new(Rc::new(spec), BusId(1), Now::read());
    let mut now = Now::read();
    schedule.link_up(now);
    let (mut good, end) = (0, now.mono + Duration::from_secs(200));
    while now.mono < end {
        match schedule.next(now) {
            Action::Wait(until) => now = now.after(until.unwrap_or(end) - now.mono),
            Action::Send(job) => {
                if job.request == Request::ReadHoldingRegisters(1_000, 1) {
                    now = now.after(job.timeout + DRAIN);
                    schedule.failed(job.ticket, Failure::Timeout, now);
                } else {
                    now = now.after(Duration::from_millis(10));
                    schedule.answered(job.ticket, &Answer::Registers(vec![1]), now);
                    good += u32::from(now.mono + Duration::from_secs(100) > end);
                }
            }
        }
    }
    assert!(good > 450, "{good} of 500 polls in the last hundred seconds");
}

#[test]
fn a_server_that_takes_one_request_at_a_time_is_found_out() {
    let mut spec = line(4, 100);
    spec.transport = fixture::tcp(0).transport;
    spec.max_in_flight = 4;
    let mut schedule = Schedule::new(Rc::new(spec), BusId(1), Now::read());
    let mut now = Now::read();
    schedule.link_up(now);
    for _ in 0..200 {
        let mut jobs = Vec::new();
        let until = loop {
            match schedule.next(now) {
                Action::Send(job) => jobs.push(job),
                Action::Wait(until) => break until,
            }
        };
        if jobs.is_empty() {
            now = now.after(until.unwrap().saturating_duration_since(now.mono));
            continue;
        }
        schedule.answered(jobs[0].ticket, &Answer::Registers(vec![1]), now);
        now = now.after(Duration::from_millis(if jobs.len() > 1 { 100 } else { 1 }));
        for job in &jobs[1..] {
            schedule.failed(job.ticket, Failure::Timeout, now);
        }
    }
    let counters = schedule.counters();
    assert!(counters.timeouts < 10, "{counters:?}");
    assert!(schedule.device_status().iter().all(|device| device.state == DeviceState::Online));
}

/// A bus with two points of one table, each a request of its own and with its own interval.
fn two_blocks(transport: Option<crate::modbus::spec::Transport>) -> (Schedule, Now) {
    let mut spec = fixture::serial(115_200, Parity::None);
    if let Some(transport) = transport {
        spec.transport = transport;
    }
    spec.timeout = Duration::from_millis(300);
    spec.retries = 1;
    fixture::point(&mut spec, Table::Holding, 0, DataType::U16, 50);
    fixture::point(&mut spec, Table::Holding, 1_000, DataType::U16, 110);
    spec.points[1].write = Some(WriteSpec { function: WriteFunction::Auto });
    let now = Now::read();
    let mut schedule = Schedule::new(Rc::new(spec), BusId(1), now);
    schedule.link_up(now);
    (schedule, now)
}

/// The next request, and the time at which it goes out.
fn next_job(schedule: &mut Schedule, now: &mut Now) -> Job {
    loop {
        match schedule.next(*now) {
            Action::Send(job) => return job,
            Action::Wait(until) => {
                let until = until.expect("something to wait for");
                assert!(until > now.mono, "it waits for what is past");
                *now = now.after(until - now.mono);
            }
        }
    }
}

#[test]
fn one_lost_answer_puts_no_other_point_of_its_device_off_for_ever() {
    let (mut schedule, mut now) = two_blocks(None);
    let end = now.mono + Duration::from_secs(10);
    let (mut lost, mut answered) = (false, [0, 0]);
    while now.mono < end {
        let job = next_job(&mut schedule, &mut now);
        let first = matches!(job.request, Request::ReadHoldingRegisters(0, _));
        if first && !lost {
            lost = true;
            now = now.after(job.timeout);
            schedule.failed(job.ticket, Failure::Timeout, now);
            continue;
        }
        now = now.after(Duration::from_millis(2));
        schedule.answered(job.ticket, &Answer::Registers(vec![1]), now);
        answered[usize::from(!first)] += 1;
    }
    assert!(answered[0] > 150 && answered[1] > 70, "{answered:?}");
}

#[test]
fn a_device_that_answers_only_when_asked_again_is_set_aside() {
    let (mut schedule, mut now) = two_blocks(None);
    for _ in 0..20 {
        let job = next_job(&mut schedule, &mut now);
        now = now.after(job.timeout);
        schedule.failed(job.ticket, Failure::Timeout, now);
        if schedule.device_status()[0].state == DeviceState::Offline {
            return;
        }
        let again = next_job(&mut schedule, &mut now);
        assert_eq!(again.request, job.request);
        now = now.after(Duration::from_millis(100));
        schedule.answered(again.ticket, &Answer::Registers(vec![1]), now);
        if schedule.device_status()[0].state == DeviceState::Offline {
            return;
        }
    }
    panic!("never set aside");
}

#[test]
fn a_busy_device_is_asked_again_after_a_pause_before_it_is_a_fault() {
    let (mut schedule, mut now) = two_blocks(None);
    let job = next_job(&mut schedule, &mut now);
    let (busy, asked) = (Answer::Exception(tokio_modbus::ExceptionCode::ServerDeviceBusy), now.mono);
    schedule.answered(job.ticket, &busy, now);
    assert!(schedule.take_output().samples.is_empty());
    let mut again = next_job(&mut schedule, &mut now);
    while again.request != job.request {
        schedule.answered(again.ticket, &Answer::Registers(vec![1]), now);
        again = next_job(&mut schedule, &mut now);
    }
    assert!(now.mono >= asked + Duration::from_millis(100));
    schedule.answered(again.ticket, &busy, now);
    let told = schedule.take_output().samples;
    assert!(told.iter().flatten().any(|sample| sample.reading == Err(Fault::Busy)), "{told:?}");
}

#[test]
fn a_connection_closed_in_the_middle_loses_no_poll_and_repeats_no_write() {
    let (mut schedule, mut now) = two_blocks(Some(fixture::tcp(0).transport));
    let job = next_job(&mut schedule, &mut now);
    schedule.interrupted(now);
    assert_eq!(next_job(&mut schedule, &mut now).request, job.request);
    schedule.interrupted(now);
    let point = PointId { bus: BusId(1), index: 1 };
    let expires = now.mono + Duration::from_secs(5);
    schedule.command(Command {
        id: CommandId(1),
        point,
        raw: Value::Uint(1),
        expires,
        readback: false,
        unless_equal: false,
    });
    let write = next_job(&mut schedule, &mut now);
    assert!(matches!(write.request, Request::WriteSingleRegister(..)), "{write:?}");
    schedule.interrupted(now);
    let result = Err(NotDone::Fault(Fault::Disconnected));
    assert_eq!(schedule.take_output().outcomes, [Outcome { id: CommandId(1), result }]);
    for _ in 0..10 {
        let job = next_job(&mut schedule, &mut now);
        assert!(matches!(job.request, Request::ReadHoldingRegisters(..)), "{job:?}");
        schedule.answered(job.ticket, &Answer::Registers(vec![1]), now);
    }
}

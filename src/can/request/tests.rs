use super::*;
use crate::can::signal::{BitOrder, Layout, Number};
use crate::can::spec::Addressing;
use crate::clock::Now;
use proptest::prelude::*;

fn id(raw: u32) -> CanId {
    CanId::standard(raw).unwrap()
}

fn point(send: u32, receive: &[u32], request: &[u8], offset: u16, bits: u64) -> CanPoint {
    let kind = if bits == 0 {
        AnswerKind::Text { length: None }
    } else {
        AnswerKind::Number(Layout::new(7, bits, BitOrder::Big, Number::Unsigned).unwrap())
    };
    let source = Source::Request(RequestSpec {
        send: id(send),
        receive: receive.iter().copied().map(id).collect(),
        addressing: Addressing::Normal,
        request: request.into(),
        padding: Some(0x55),
        fd: false,
        answer: AnswerSpec { offset, kind },
        interval: ms(200),
        timeout: ms(100),
    });
    CanPoint { name: "p".into(), source, min_interval: Duration::ZERO, timeout: None }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A tester that collects what the points are told.
struct Bench {
    requests: Requests,
    start: Instant,
    told: Vec<(u32, Result<Value, Fault>)>,
}

impl Bench {
    fn new(points: &[CanPoint]) -> Self {
        let start = Now::read().mono;
        let mut requests = Requests::new(points);
        requests.start(start);
        Self { requests, start, told: Vec::new() }
    }

    fn asks(&mut self, at: u64) -> Option<(u32, Vec<u8>)> {
        self.requests.poll_transmit(self.start + ms(at)).map(|frame| (frame.id().raw(), frame.data().to_vec()))
    }

    fn hears(&mut self, at: u64, from: u32, data: &[u8]) {
        let told = &mut self.told;
        let frame = Frame::classic(id(from), data).unwrap();
        self.requests.handle(&frame, self.start + ms(at), &mut |index, reading| told.push((index, reading)));
    }

    fn waits_until(&mut self, at: u64) {
        let told = &mut self.told;
        self.requests.handle_timeout(self.start + ms(at), &mut |index, reading| told.push((index, reading)));
    }

    fn told(&mut self) -> Vec<(u32, Result<Value, Fault>)> {
        std::mem::take(&mut self.told)
    }
}

#[test]
fn vehicle_speed_is_asked_at_its_interval() {
    let mut bench = Bench::new(&[point(0x7DF, &[0x7E8], &[0x01, 0x0D], 2, 8)]);
    assert_eq!(bench.asks(0), Some((0x7DF, vec![2, 1, 0x0D, 0x55, 0x55, 0x55, 0x55, 0x55])));
    assert_eq!(bench.asks(0), None);
    bench.hears(20, 0x7E8, &[3, 0x41, 0x0D, 120, 0, 0, 0, 0]);
    assert_eq!(bench.told(), [(0, Ok(Value::Uint(120)))]);
    assert_eq!(bench.asks(199), None);
    assert_eq!(bench.requests.next_due(), Some(bench.start + ms(200)));
    assert!(bench.asks(200).is_some());
}

#[test]
fn a_late_answer_is_never_another_requests() {
    let mut bench =
        Bench::new(&[point(0x7DF, &[0x7E8], &[0x01, 0x0D], 2, 8), point(0x7DF, &[0x7E8], &[0x01, 0x0C], 2, 16)]);
    assert_eq!(bench.asks(0).unwrap().1[2], 0x0D);
    assert_eq!(bench.asks(0), None, "one at a time to the same receiver");
    bench.waits_until(100);
    assert_eq!(bench.told(), [(0, Err(Fault::Timeout))]);
    assert_eq!(bench.asks(100).unwrap().1[2], 0x0C);
    bench.hears(101, 0x7E8, &[3, 0x41, 0x0D, 120, 0, 0, 0, 0]);
    assert_eq!(bench.told(), []);
    assert_eq!(bench.requests.counters.discarded, 1);
    bench.hears(102, 0x7E8, &[4, 0x41, 0x0C, 0x1A, 0xF8, 0, 0, 0]);
    assert_eq!(bench.told(), [(1, Ok(Value::Uint(0x1AF8)))]);
}

#[test]
fn one_request_serves_the_points_of_several_ecus() {
    let mut bench =
        Bench::new(&[point(0x7DF, &[0x7E8], &[0x01, 0x0C], 2, 16), point(0x7DF, &[0x7E9], &[0x01, 0x0C], 2, 16)]);
    assert!(bench.asks(0).is_some());
    bench.hears(5, 0x7E9, &[4, 0x41, 0x0C, 0, 2]);
    bench.hears(6, 0x7E8, &[4, 0x41, 0x0C, 0, 1]);
    assert_eq!(bench.told(), [(1, Ok(Value::Uint(2))), (0, Ok(Value::Uint(1)))]);
    assert_eq!(bench.requests.counters.requests, 1);
}

#[test]
fn a_vin_comes_with_flow_control_to_the_ecu_that_answers() {
    let mut bench = Bench::new(&[point(0x7DF, &[0x7E8, 0x7E9], &[0x09, 0x02], 3, 0)]);
    assert!(bench.asks(0).is_some());
    bench.hears(5, 0x7E9, &[0x10, 0x14, 0x49, 0x02, 0x01, b'1', b'D', b'4']);
    assert_eq!(bench.asks(5).unwrap(), (0x7E1, vec![0x30, 0, 0, 0x55, 0x55, 0x55, 0x55, 0x55]));
    bench.hears(90, 0x7E9, b"\x21GP00R55");
    bench.waits_until(150);
    bench.hears(160, 0x7E9, b"\x22B123456");
    assert_eq!(bench.told(), [(0, Ok(Value::Text("1D4GP00R55B123456".into())))]);
}

#[test]
fn a_refusal_is_told_and_a_pending_answer_is_awaited() {
    let mut bench = Bench::new(&[point(0x7E0, &[0x7E8], &[0x22, 0xF1, 0x90], 3, 8)]);
    assert!(bench.asks(0).is_some());
    bench.hears(10, 0x7E8, &[3, 0x7F, 0x22, 0x78]);
    bench.waits_until(4000);
    assert_eq!(bench.told(), []);
    bench.hears(4001, 0x7E8, &[4, 0x62, 0xF1, 0x90, 7]);
    assert_eq!(bench.told(), [(0, Ok(Value::Uint(7)))]);
    assert!(bench.asks(4200).is_some());
    bench.hears(4201, 0x7E8, &[3, 0x7F, 0x22, 0x31]);
    assert_eq!(bench.told(), [(0, Err(Fault::IllegalAddress))]);
}

#[test]
fn an_ecu_that_pends_for_ever_is_given_up() {
    let mut bench = Bench::new(&[point(0x7E0, &[0x7E8], &[0x22, 0xF1, 0x90], 3, 8)]);
    assert!(bench.asks(0).is_some());
    for second in 0..200 {
        bench.hears(second * 1000, 0x7E8, &[3, 0x7F, 0x22, 0x78]);
        bench.waits_until(second * 1000);
    }
    assert_eq!(bench.told(), [(0, Err(Fault::Timeout))]);
}

#[test]
fn a_quiet_ecu_takes_two_percent_of_the_time_and_comes_back_by_itself() {
    let mut bench =
        Bench::new(&[point(0x7E1, &[0x7E9], &[0x01, 0x0D], 2, 8), point(0x7E0, &[0x7E8], &[0x01, 0x0D], 2, 8)]);
    let mut asked = [0u32; 2];
    for at in (0..200_000).step_by(10) {
        bench.waits_until(at);
        while let Some((to, _)) = bench.asks(at) {
            let healthy = to == 0x7E0;
            if at >= 100_000 {
                asked[usize::from(healthy)] += 1;
            }
            if healthy {
                bench.hears(at, 0x7E8, &[3, 0x41, 0x0D, 120]);
            }
        }
    }
    assert!((1..=20).contains(&asked[0]), "{asked:?}");
    assert!(asked[1] >= 490, "{asked:?}");
    bench.told();
    let again = (200_000..220_000).find(|at| bench.asks(*at).is_some_and(|(to, _)| to == 0x7E1)).unwrap();
    bench.hears(again, 0x7E9, &[3, 0x41, 0x0D, 1]);
    assert_eq!(bench.told(), [(0, Ok(Value::Uint(1)))]);
}

#[test]
fn flow_control_of_29_bit_functional_requests_goes_to_the_ecu() {
    let send = CanId::extended(0x18DB_33F1).unwrap();
    let answer = CanId::extended(0x18DA_F110).unwrap();
    assert_eq!(flow_control_id(send, answer), CanId::extended(0x18DA_10F1).unwrap());
}

proptest! {
    #[test]
    fn hostile_answers_neither_panic_nor_stop_the_asking(frames in proptest::collection::vec((0u32..4, proptest::collection::vec(any::<u8>(), 0..=8)), 0..200)) {
        let mut bench = Bench::new(&[
            point(0x7DF, &[0x7E8, 0x7E9], &[0x01, 0x0D], 2, 8),
            point(0x7E0, &[0x7E8], &[0x09, 0x02], 3, 0),
        ]);
        let mut at = 0;
        for (from, data) in frames {
            while bench.asks(at).is_some() {}
            bench.hears(at, 0x7E7 + from, &data);
            bench.waits_until(at);
            at += 7;
        }
        let end = at + 120_000;
        let mut asked = false;
        while at < end && !asked {
            at += 100;
            bench.waits_until(at);
            asked = bench.asks(at).is_some();
        }
        prop_assert!(asked);
    }
}

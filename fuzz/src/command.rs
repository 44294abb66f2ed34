//! Payloads on `TOPIC/set` of points of every kind.

use std::sync::Arc;
use std::time::Duration;

use fieldgate::clock::Now;
use fieldgate::command::{Done, Outcome};
use fieldgate::mapping::command::{Arrival, CommandIds, Commands};
use fieldgate::mapping::rule::PointRule;
use fieldgate::message::{Again, Delivery, Message, Origin, Qos};
use fieldgate::sample::BusId;

use super::Pieces;
use super::mapping::Memory;

const POINTS: &str = "
[[modbus]]
name = 'b'
tcp = 'h'
[[modbus.device]]
name = 'd'
unit = 1
point = [
  { name = 'u16', holding = 0, write = { min = 0, max = 900, max_step = 50 } },
  { name = 'i64', holding = 10, type = 'i64', scale = 0.1, write = {} },
  { name = 'f32', holding = 20, type = 'f32', offset = -1.5, write = { min = -1e9 } },
  { name = 'f64', holding = 30, type = 'f64', write = {} },
  { name = 'coil', coil = 0, write = {} },
  { name = 'named', holding = 40, map = { 0 = 'off', 1 = 'on' }, write = {} },
  { name = 'text', holding = 50, type = 'string', length = 4, write = {} },
  { name = 'bcd', holding = 60, type = 'bcd16', write = {} },
  { name = 'bits', holding = 70, bits = '2..5', write = {} },
  { name = 'read', holding = 80 },
]
";

pub fn run(data: &[u8]) {
    let outcome = Memory { gateway: b"", mapping: POINTS.as_bytes() }.compile();
    let plan = outcome.plan.unwrap_or_else(|| panic!("{:?}", outcome.diagnostics));
    let rules: Arc<[PointRule]> = plan.buses[0].rules.clone().into();
    let mut commands = Commands::new(BusId(1), rules.clone(), CommandIds::default());
    let mut now = Now::read();
    for (what, payload) in Pieces(data) {
        now = now.after(Duration::from_millis(u64::from(what)));
        let index = u32::from(what & 0x3F) % rules.len() as u32;
        let topic = format!("{}/set", rules[index as usize].topic);
        let message = Message::new(topic, payload.to_vec(), Qos::AtLeastOnce, what & 0x80 != 0);
        let again = if what & 0x40 == 0 { Again::First } else { Again::Redelivered { after: None } };
        let delivery = Delivery { client: "c".into(), packet_id: u16::from(what & 0x0F), again };
        let arrival = Arrival { index, message: &message, origin: Origin::Session(1), delivery: Some(&delivery) };
        let mut answers = Vec::new();
        let sent = commands.handle(now, arrival, None, &mut answers);
        assert!(sent.is_none() || answers.is_empty(), "carried out and answered at once: {payload:?}");
        assert!(sent.is_none() || what & 0x80 == 0, "a retained command is carried out");
        if let Some(command) = sent {
            assert!(rules[command.point.index as usize].write.is_some());
            let done = Outcome { id: command.id, result: Ok(Done { readback: None }) };
            commands.outcome(now, &done, &mut answers);
            assert!(!answers.is_empty(), "a command without a result");
        }
        for answer in answers {
            assert!(answer.message.topic.ends_with("/set/result"));
            let text = std::str::from_utf8(&answer.message.payload).expect("a result is text");
            assert!(text.starts_with('{') && text.contains("\"status\":\""), "{text}");
        }
    }
}

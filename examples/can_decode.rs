//! Takes frames apart and puts them together by a DBC file, line by line: what `tests/can/oracle.py` compares.
//!
//! `D MESSAGE HEX` answers `SIGNAL=RAW` for each signal of the message that the frame carries; `E MESSAGE SIGNAL=RAW …`
//! answers the message's bytes; `L` lists what the file holds and what was left out of it.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fieldgate::can::bus::Bus;
use fieldgate::can::dbc::{self, Database, DbcMessage};
use fieldgate::can::frame::{Frame, Received};
use fieldgate::can::spec::{BusSpec, CanPoint, FrameMatch, SignalSpec, Source};
use fieldgate::clock::Now;
use fieldgate::sample::{BusId, Value};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: can_decode FILE.dbc")?;
    let database = dbc::parse(&std::fs::read(&path)?)?;
    let mut decoder = Decoder::new(&database);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split('\t');
        let answer = match (words.next(), words.next()) {
            (Some("D"), Some(message)) => {
                decoder.decode(&database, message, &unhex(words.next().unwrap_or_default())?)?
            }
            (Some("E"), Some(message)) => encode(find(&database, message)?, words)?,
            (Some("L"), _) => list(&database),
            _ => bail!("no such line: {line}"),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn find<'a>(database: &'a Database, name: &str) -> Result<&'a DbcMessage> {
    database.message(name).with_context(|| format!("no message {name}"))
}

fn list(database: &Database) -> String {
    let held = database.messages.iter().map(|message| format!("{}:{}", message.name, message.signals.len()));
    let left_out = database.skipped.iter().map(|skipped| {
        let signal = skipped.signal.as_deref().unwrap_or("*");
        format!("!{}.{signal}: line {}: {}", skipped.message, skipped.line, skipped.reason)
    });
    held.chain(left_out).collect::<Vec<_>>().join("\t")
}

/// The driver's own state machine, with every signal of the file as a point.
struct Decoder {
    bus: Bus,
    names: Vec<(String, String)>,
}

impl Decoder {
    fn new(database: &Database) -> Self {
        let (mut points, mut names) = (Vec::new(), Vec::new());
        for message in &database.messages {
            for signal in &message.signals {
                let source =
                    SignalSpec { from: FrameMatch::Id(message.id), layout: signal.layout, when: signal.when.clone() };
                points.push(CanPoint {
                    name: signal.name.as_str().into(),
                    source: Source::Signal(source),
                    min_interval: Duration::ZERO,
                    timeout: None,
                });
                names.push((message.name.clone(), signal.name.clone()));
            }
        }
        let spec = BusSpec { name: "bus".into(), interface: "none".into(), fd: true, points };
        Self { bus: Bus::new(&spec, BusId(0), Now::read()), names }
    }

    fn decode(&mut self, database: &Database, message: &str, data: &[u8]) -> Result<String> {
        let id = find(database, message)?.id;
        let frame = if data.len() > 8 { Frame::fd(id, data, false, 0) } else { Frame::classic(id, data) };
        let now = Now::read();
        self.bus.handle(&Received::Data(frame.context("no such frame")?), now.wall, now);
        let mut answer = Vec::new();
        for sample in self.bus.take_samples() {
            let (of, name) = &self.names[usize::try_from(sample.point.index)?];
            if let (true, Ok(value)) = (of == message, sample.reading) {
                answer.push(format!("{name}={}", show(&value)));
            }
        }
        Ok(answer.join("\t"))
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::F32(value) => format!("{:e}", f64::from(*value)),
        Value::F64(value) => format!("{value:e}"),
        Value::Text(text) => text.to_string(),
    }
}

fn encode<'a>(message: &DbcMessage, signals: impl Iterator<Item = &'a str>) -> Result<String> {
    let values: HashMap<_, _> = signals.filter_map(|pair| pair.split_once('=')).collect();
    let mut data = vec![0; usize::from(message.length)];
    for (name, raw) in values {
        let signal = message.signal(name).with_context(|| format!("no signal {name}"))?;
        let value = if signal.layout.range().is_none() {
            let value: f64 = raw.parse()?;
            // A 32-bit float's digits are exact in 64 bits.
            if signal.layout.length() == 32 { Value::F32(raw.parse()?) } else { Value::F64(value) }
        } else if let Ok(value) = raw.parse() {
            Value::Uint(value)
        } else {
            Value::Int(raw.parse()?)
        };
        let bits = signal.layout.bits_of(&value).with_context(|| format!("{name} does not hold {raw}"))?;
        if !signal.layout.insert_bits(&mut data, bits) {
            bail!("{name} does not fit");
        }
    }
    Ok(data.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

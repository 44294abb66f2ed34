//! The CAN driver's task on a real interface, without the rest: what `tests/vm/can` drives with can-utils.
//!
//! `can_watch INTERFACE FILE.dbc MIN_INTERVAL_MS` prints every sample as `NAME VALUE TIME_MS`, every status and every
//! outcome; asks for vehicle speed and VIN by OBD-II; each line on stdin, `NAME RAW`, is a command.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fieldgate::can::dbc;
use fieldgate::can::frame::CanId;
use fieldgate::can::signal::{BitOrder, Layout, Number};
use fieldgate::can::spec::{Addressing, AnswerKind, AnswerSpec, BusSpec, CanPoint, RequestSpec, Source};
use fieldgate::can::task;
use fieldgate::clock::Now;
use fieldgate::command::{Command, CommandId};
use fieldgate::driver::BusEvent;
use fieldgate::sample::{BusId, PointId, Value};
use tokio::io::AsyncBufReadExt;
use tokio::sync::mpsc;

const BUS: BusId = BusId(0);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: can_watch INTERFACE FILE.dbc MIN_INTERVAL_MS");
    let (interface, file, min_interval) = (next()?, next()?, Duration::from_millis(next()?.parse()?));
    let points = points(&dbc::parse(&std::fs::read(file)?)?, min_interval)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(BusSpec { name: "bus".into(), interface, fd: true, points }))
}

/// Each signal twice: as it is heard, and as `set NAME`.
fn points(database: &dbc::Database, min_interval: Duration) -> Result<Vec<CanPoint>> {
    let mut points = Vec::new();
    let mut add = |name: String, source| {
        points.push(CanPoint { name: name.into(), source, min_interval, timeout: Some(Duration::from_secs(2)) });
    };
    for message in &database.messages {
        for signal in &message.signals {
            add(signal.name.clone(), Source::Signal(message.heard(signal, None)));
            let set = message.commanded(signal, None).context("no single frame holds the message")?;
            add(format!("set {}", signal.name), Source::Command(set));
        }
    }
    let byte = AnswerKind::Number(Layout::new(7, 8, BitOrder::Big, Number::Unsigned)?);
    add("obd-speed".into(), ask(&[0x01, 0x0D], 2, byte)?);
    add("obd-vin".into(), ask(&[0x09, 0x02], 3, AnswerKind::Text { length: None })?);
    Ok(points)
}

fn ask(request: &[u8], offset: u16, kind: AnswerKind) -> Result<Source> {
    Ok(Source::Request(RequestSpec {
        send: CanId::standard(0x7DF).context("id")?,
        receive: vec![CanId::standard(0x7E8).context("id")?],
        addressing: Addressing::Normal,
        padding: Some(0x55),
        fd: false,
        request: request.into(),
        answer: AnswerSpec { offset, kind },
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(200),
    }))
}

async fn watch(spec: BusSpec) -> Result<()> {
    let names: Vec<Arc<str>> = spec.points.iter().map(|point| point.name.clone()).collect();
    let places: HashMap<Arc<str>, u32> = names.iter().cloned().zip(0u32..).collect();
    let (events_to, mut events) = mpsc::channel(256);
    let (commands, commands_from) = mpsc::channel(32);
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    let run = task::run(spec, BUS, events_to, commands_from);
    tokio::pin!(run);
    let mut number = 0;
    loop {
        tokio::select! {
            () = &mut run => return Ok(()),
            event = events.recv() => show(&event.context("the task has gone")?, &names),
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let (name, raw) = line.rsplit_once(' ').context("NAME RAW")?;
                let index = *places.get(format!("set {name}").as_str()).context("no such signal")?;
                number += 1;
                let expires = Now::read().mono + Duration::from_secs(2);
                let point = PointId { bus: BUS, index };
                let raw = Value::Uint(raw.parse()?);
                commands.send(Command { id: CommandId(number), point, raw, expires, readback: false, unless_equal: false }).await?;
            }
        }
    }
}

#[allow(clippy::print_stdout, reason = "it is what the program is for")]
fn show(event: &BusEvent, names: &[Arc<str>]) {
    match event {
        BusEvent::Samples(_, samples) => {
            for sample in samples {
                let name =
                    usize::try_from(sample.point.index).ok().and_then(|at| names.get(at)).map_or("?", |name| name);
                match &sample.reading {
                    Ok(Value::Text(text)) => println!("{name} {text} {}", sample.at.0),
                    Ok(Value::Uint(value)) => println!("{name} {value} {}", sample.at.0),
                    Ok(value) => println!("{name} {value:?} {}", sample.at.0),
                    Err(fault) => println!("{name} fault:{fault} {}", sample.at.0),
                }
            }
        }
        BusEvent::Outcome(_, outcome) => println!("outcome {:?}", outcome.result),
        BusEvent::Status(_, status) => {
            let error = status.last_error.as_deref().unwrap_or_default();
            println!("status {:?} discarded={} {error}", status.state, status.counters.discarded);
        }
    }
}

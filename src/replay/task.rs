//! Reads the log and writes the messages: a line is in memory at a time, and what it led to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::Context;

use super::Replay;
use crate::clock::Now;
use crate::config::plan::Plan;

/// A CAN FD frame of 64 bytes takes about 180.
const LINE_BYTES_MAX: usize = 1024;

/// Prints what would be published. False: lines of the log could not be read as frames, each of which was told.
///
/// # Errors
/// A log that cannot be opened or read, a standard output that cannot be written.
pub fn run(plan: &Plan, log: &Path) -> anyhow::Result<bool> {
    let input: Box<dyn Read> = if log == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(log).with_context(|| format!("cannot open the log {}", log.display()))?)
    };
    let mut replay = Replay::new(plan, Now::read().mono);
    let mut out = BufWriter::new(io::stdout().lock());
    let name = log.display().to_string();
    let good = match through(&mut replay, BufReader::new(input), &name, &mut out).and_then(|good| {
        out.flush()?;
        Ok(good)
    }) {
        Ok(good) => good,
        // A reader that went away (`| head`) has seen enough.
        Err(failure) if failure.kind() == io::ErrorKind::BrokenPipe => return Ok(true),
        Err(failure) => return Err(failure).with_context(|| format!("cannot replay {name}")),
    };
    if let Some(unmatched) = replay.unmatched() {
        let interfaces: Vec<&str> = replay.interfaces().collect();
        tell(&format!(
            "{name}: {} frames were passed over: no [[can]] has their interface (the first is {}; there are: {})",
            unmatched.frames,
            unmatched.interface,
            if interfaces.is_empty() { "none".to_owned() } else { interfaces.join(", ") },
        ));
    }
    Ok(good)
}

fn through(replay: &mut Replay, mut input: impl BufRead, name: &str, out: &mut impl Write) -> io::Result<bool> {
    let (mut line, mut lines, mut good) = (Vec::new(), Vec::new(), true);
    for number in 1_u64.. {
        line.clear();
        if input.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            good = false;
            tell(&format!("{name}:{number}:{LINE_BYTES_MAX}: the line is longer than any frame's; remove it"));
            continue;
        }
        if let Err(error) = replay.line(&line) {
            good = false;
            tell(&format!("{name}:{number}:{}: {error}", error.column()));
            continue;
        }
        play(replay, &mut lines, out)?;
    }
    replay.end();
    play(replay, &mut lines, out)?;
    Ok(good)
}

fn play(replay: &mut Replay, lines: &mut Vec<u8>, out: &mut impl Write) -> io::Result<()> {
    loop {
        let more = replay.step(lines);
        out.write_all(lines)?;
        lines.clear();
        if !more {
            return Ok(());
        }
    }
}

fn tell(text: &str) {
    // There is nowhere else to say it.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

//! Load for `tests/bench/store`: MQTT over plain sockets, packets made once, so that it costs less than what it measures.
//!
//! `load publish PORT CLIENTS MESSAGES BYTES WINDOW` publishes QoS 1 from so many connections, each with a topic of its own
//! below `plant/` and at most `WINDOW` unacknowledged; prints messages, seconds from the first PUBLISH to the last PUBACK.
//!
//! `load sink PORT MESSAGES` is a server that takes every PUBLISH and acknowledges it; prints messages, seconds from the
//! first PUBLISH to the last, and how often a topic's number did not rise.

use std::collections::HashMap;
use std::io::Error;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

const PUBLISH: u8 = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| -> Result<usize> {
        Ok(arguments.get(place).context("too few arguments: see the head of examples/load.rs")?.parse()?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let port = u16::try_from(number(1)?)?;
    match arguments.first().map(String::as_str) {
        Some("publish") => {
            let load = Load { port, messages: number(3)? / number(2)?.max(1), bytes: number(4)?, window: number(5)? };
            tokio::task::LocalSet::new().block_on(&runtime, publish(load, number(2)?))
        }
        Some("sink") => runtime.block_on(sink(port, number(2)?)),
        _ => bail!("either publish or sink"),
    }
}

#[derive(Clone, Copy)]
struct Load {
    port: u16,
    /// Of each client.
    messages: usize,
    bytes: usize,
    window: usize,
}

#[allow(clippy::disallowed_methods, reason = "measures time, with a task for each client")]
async fn publish(load: Load, clients: usize) -> Result<()> {
    let barrier = std::rc::Rc::new(Barrier::new(clients + 1));
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let barrier = barrier.clone();
            tokio::task::spawn_local(async move {
                let stream = connect(load.port, client).await?;
                barrier.wait().await;
                run(stream, load, client).await
            })
        })
        .collect();
    barrier.wait().await;
    let begun = Instant::now();
    for task in tasks {
        task.await??;
    }
    say(load.messages * clients, begun.elapsed().as_secs_f64(), 0);
    Ok(())
}

async fn connect(port: u16, client: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let id = format!("load-{client}");
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    put_text(&mut body, &id)?;
    let mut packet = vec![0x10];
    put_length(&mut packet, body.len());
    packet.extend(body);
    stream.write_all(&packet).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    ensure!(connack == [0x20, 2, 0, 0], "CONNACK {connack:?}");
    Ok(stream)
}

/// Writes what the window allows, then waits for acknowledgements, which come in order.
async fn run(mut stream: TcpStream, load: Load, client: usize) -> Result<()> {
    let (packet, id_at) = packet(client, load.bytes)?;
    let (mut sent, mut acknowledged, mut answers) = (0, 0, vec![0; 4096]);
    let mut half = 0;
    while acknowledged < load.messages {
        let room = load.window.saturating_sub(sent - acknowledged).min(load.messages - sent);
        let mut out = Vec::with_capacity(room * packet.len());
        for _ in 0..room {
            let start = out.len();
            out.extend_from_slice(&packet);
            let id = u16::try_from(sent % 60_000)? + 1;
            out[start + id_at..start + id_at + 2].copy_from_slice(&id.to_be_bytes());
            let text = format!("{sent:010}");
            out[start + id_at + 2..start + id_at + 12].copy_from_slice(text.as_bytes());
            sent += 1;
        }
        stream.write_all(&out).await?;
        let count = stream.read(&mut answers).await?;
        ensure!(count > 0, "the server closed the connection");
        half += count;
        acknowledged += half / 4;
        half %= 4;
    }
    Ok(())
}

/// A PUBLISH, and where its packet identifier stands; the number in its payload, ten digits, is behind that.
fn packet(client: usize, bytes: usize) -> Result<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    put_text(&mut body, &format!("plant/{client}/value"))?;
    let id_in_body = body.len();
    body.extend([0, 0]);
    body.resize(body.len() + bytes.max(10), b'x');
    let mut packet = vec![PUBLISH << 4 | 2];
    put_length(&mut packet, body.len());
    let id_at = packet.len() + id_in_body;
    packet.extend(body);
    Ok((packet, id_at))
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.extend(u16::try_from(text.len())?.to_be_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f).to_le_bytes()[0];
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return;
        }
    }
}

/// The kind and flags of the first whole packet, where its body begins and ends.
fn split(input: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut length, mut shift) = (0, 0);
    for (place, byte) in input.iter().enumerate().skip(1) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let begins = place + 1;
            return (input.len() >= begins + length).then_some((input[0], begins, begins + length));
        }
    }
    None
}

/// What the sink has seen of its publishers.
#[derive(Default)]
struct Seen {
    messages: usize,
    begun: Option<Instant>,
    newest: HashMap<Vec<u8>, Vec<u8>>,
    disorder: usize,
}

async fn sink(port: u16, messages: usize) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut seen = Seen::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // One at a time: an uplink or a bridge has one connection.
        if let Err(error) = serve(stream, messages, &mut seen).await
            && error.downcast_ref::<Error>().is_none()
        {
            return Err(error);
        }
        if seen.messages >= messages {
            return Ok(());
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "measures time")]
async fn serve(mut stream: TcpStream, messages: usize, seen: &mut Seen) -> Result<()> {
    let (mut input, mut out, mut v5) = (Vec::with_capacity(1 << 17), Vec::new(), false);
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut at = 0;
        while let Some((head, begins, ends)) = split(&input[at..]) {
            let body = &input[at + begins..at + ends];
            match head >> 4 {
                1 => {
                    v5 = body.get(6) == Some(&5);
                    out.extend_from_slice(if v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] });
                }
                PUBLISH => seen.publish(head, body, &mut out)?,
                8 => {
                    let id = body.get(..2).context("SUBSCRIBE")?;
                    let rest: &[u8] = if v5 { &[0, 1] } else { &[1] };
                    out.extend_from_slice(&[0x90, u8::try_from(2 + rest.len())?, id[0], id[1]]);
                    out.extend_from_slice(rest);
                }
                12 => out.extend_from_slice(&[0xd0, 0]),
                _ => {}
            }
            at += ends;
        }
        input.drain(..at);
        stream.write_all(&out).await?;
        out.clear();
        if seen.messages >= messages {
            say(seen.messages, seen.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64()), seen.disorder);
            // Its last acknowledgements are taken before the connection ends.
            stream.shutdown().await?;
            while stream.read_buf(&mut input).await? > 0 {
                input.clear();
            }
            return Ok(());
        }
    }
}

impl Seen {
    #[allow(clippy::disallowed_methods, reason = "measures time")]
    fn publish(&mut self, head: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = body.get(2..2 + length).context("PUBLISH")?;
        if head >> 1 & 3 == 1 {
            out.extend_from_slice(&[0x40, 2, body[2 + length], body[3 + length]]);
        }
        if !topic.starts_with(b"plant/") {
            return Ok(());
        }
        self.begun.get_or_insert_with(Instant::now);
        self.messages += 1;
        // Behind the number there is nothing but `x`; before it, a boot identifier may hold one too.
        let number = body.iter().rposition(|byte| *byte != b'x').map_or(body.len(), |at| at + 1);
        let number = body[number.saturating_sub(10)..number].to_vec();
        if let Some(newest) = self.newest.get_mut(topic) {
            self.disorder += usize::from(number <= *newest);
            *newest = number;
        } else {
            self.newest.insert(topic.to_vec(), number);
        }
        Ok(())
    }
}

#[allow(clippy::print_stdout, reason = "its result")]
#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn say(messages: usize, secs: f64, disorder: usize) {
    println!(
        "{{\"messages\":{messages},\"secs\":{secs:.4},\"per_sec\":{:.0},\"disorder\":{disorder}}}",
        messages as f64 / secs
    );
}

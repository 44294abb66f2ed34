//! Load for an MQTT broker, without being its bottleneck: packets made beforehand, plain sockets, no client library.
//!
//! `mqtt_load ADDRESS PUBLISHERS SUBSCRIBERS QOS MESSAGES [PAYLOAD_BYTES]` prints seconds until every subscriber has every message, and
//! messages received. `mqtt_load ADDRESS idle CONNECTIONS` holds idle connections until its input ends.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a tool that measures, with threads and clocks of its own"
)]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// QoS 1 and 2 publishes that a publisher has under way.
const WINDOW: usize = 20;
/// A broker that loses messages must not hold up the measurement for ever.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| args.get(place).and_then(|text| text.parse::<usize>().ok());
    let usage = || {
        io::Error::other("mqtt_load ADDRESS (PUBLISHERS SUBSCRIBERS QOS MESSAGES [PAYLOAD_BYTES] | idle CONNECTIONS)")
    };
    let address = args.first().ok_or_else(usage)?.clone();
    if args.get(1).is_some_and(|word| word == "idle") {
        return idle(&address, number(2).ok_or_else(usage)?);
    }
    let (Some(publishers), Some(subscribers), Some(qos), Some(messages)) = (number(1), number(2), number(3), number(4))
    else {
        return Err(usage());
    };
    run(&address, publishers, subscribers, qos as u8, messages, number(5).unwrap_or(100))
}

/// Each publisher sends `messages / publishers`, and each subscriber gets all of them.
fn run(
    address: &str,
    publishers: usize,
    subscribers: usize,
    qos: u8,
    messages: usize,
    payload: usize,
) -> io::Result<()> {
    let each = messages / publishers;
    let start = Arc::new(Barrier::new(publishers + subscribers + 1));
    let mut receivers = Vec::new();
    for place in 0..subscribers {
        let mut stream = connect(address, &format!("sub-{place}"))?;
        stream.write_all(&subscribe(qos))?;
        let start = start.clone();
        let mut input = Packets::new(stream.try_clone()?);
        input.next()?;
        receivers.push(thread::spawn(move || {
            start.wait();
            receive(stream, input, each * publishers)
        }));
    }
    let mut senders = Vec::new();
    for place in 0..publishers {
        let stream = connect(address, &format!("pub-{place}"))?;
        let start = start.clone();
        senders.push(thread::spawn(move || {
            start.wait();
            if qos == 0 { send_qos0(stream, each, payload) } else { send_acknowledged(stream, qos, each, payload) }
        }));
    }
    start.wait();
    let began = Instant::now();
    let mut failed = 0;
    for sender in senders {
        failed += usize::from(!matches!(sender.join(), Ok(Ok(()))));
    }
    let mut received = 0;
    let mut last = began;
    for receiver in receivers {
        if let Ok((count, at)) = receiver.join() {
            received += count;
            last = last.max(at);
        }
    }
    let seconds = (last - began).as_secs_f64();
    writeln!(io::stdout(), "{seconds:.4} {received} {}", each * publishers * subscribers)?;
    if failed > 0 {
        return Err(io::Error::other(format!("{failed} publishers failed")));
    }
    Ok(())
}

fn connect(address: &str, client: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    put_text(&mut body, client);
    let mut packet = vec![0x10];
    put_length(&mut packet, body.len());
    packet.extend(body);
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer[3] == 0 { Ok(stream) } else { Err(io::Error::other(format!("CONNACK {answer:?}"))) }
}

fn subscribe(qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, "bench/#");
    body.push(qos);
    let mut packet = vec![0x82];
    put_length(&mut packet, body.len());
    packet.extend(body);
    packet
}

/// A PUBLISH, and where its packet identifier stands.
fn publish(qos: u8, payload: usize) -> (Vec<u8>, usize) {
    let mut body = Vec::new();
    put_text(&mut body, "bench/plant/line-1/temperature");
    let id = body.len();
    if qos > 0 {
        body.extend([0, 0]);
    }
    body.extend(std::iter::repeat_n(b'x', payload));
    let mut packet = vec![0x30 | qos << 1];
    put_length(&mut packet, body.len());
    let head = packet.len();
    packet.extend(body);
    (packet, head + id)
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.as_bytes());
}

fn put_length(packet: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        packet.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
}

fn send_qos0(mut stream: TcpStream, count: usize, payload: usize) -> io::Result<()> {
    const AT_ONCE: usize = 32;
    let packets = publish(0, payload).0.repeat(AT_ONCE);
    let one = packets.len() / AT_ONCE;
    let mut left = count;
    while left > 0 {
        let now = left.min(AT_ONCE);
        stream.write_all(&packets[..now * one])?;
        left -= now;
    }
    // Closing now could cut off what the broker has not read.
    stream.write_all(&[0xC0, 0])?;
    stream.read_exact(&mut [0; 2])
}

fn send_acknowledged(mut stream: TcpStream, qos: u8, count: usize, payload: usize) -> io::Result<()> {
    let (packet, place) = publish(qos, payload);
    let mut input = Packets::new(stream.try_clone()?);
    let (mut sent, mut done, mut under_way) = (0, 0, 0);
    let mut out = Vec::new();
    while done < count {
        while sent < count && under_way < WINDOW {
            let id = (sent % 65_535) as u16 + 1;
            let at = out.len();
            out.extend_from_slice(&packet);
            out[at + place..at + place + 2].copy_from_slice(&id.to_be_bytes());
            sent += 1;
            under_way += 1;
        }
        if !out.is_empty() {
            stream.write_all(&out)?;
            out.clear();
        }
        loop {
            let (kind, id) = input.next()?;
            match kind {
                4 | 7 => {
                    done += 1;
                    under_way -= 1;
                }
                5 => out.extend([0x62, 2, (id >> 8) as u8, id as u8]),
                _ => {}
            }
            if !input.has_whole() {
                break;
            }
        }
    }
    Ok(())
}

/// Takes `wanted` messages, acknowledging as their QoS asks; how many came, and when the last did.
fn receive(mut stream: TcpStream, mut input: Packets, wanted: usize) -> (usize, Instant) {
    let (mut count, mut last) = (0, Instant::now());
    let mut out = Vec::new();
    let mut open = 0;
    while count < wanted || open > 0 {
        let Ok((kind, id)) = input.next() else { break };
        let [high, low] = id.to_be_bytes();
        match kind {
            3 => {
                count += 1;
                match input.qos {
                    1 => out.extend([0x40, 2, high, low]),
                    2 => {
                        out.extend([0x50, 2, high, low]);
                        open += 1;
                    }
                    _ => {}
                }
            }
            6 => {
                out.extend([0x70, 2, high, low]);
                open -= 1;
            }
            _ => {}
        }
        if !input.has_whole() {
            if !out.is_empty() && stream.write_all(&out).is_err() {
                break;
            }
            out.clear();
            last = Instant::now();
        }
    }
    // The last acknowledgements.
    let _ = stream.write_all(&out);
    (count, if count == wanted { Instant::now() } else { last })
}

/// Cuts a stream into packets, looking at type, QoS and packet identifier only.
struct Packets {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    qos: u8,
}

impl Packets {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; 256 * 1024], start: 0, end: 0, qos: 0 }
    }

    /// Fixed header and whole length of the packet at the front.
    fn whole(&self) -> Option<(usize, usize)> {
        let bytes = &self.buffer[self.start..self.end];
        let mut length = 0;
        for place in 0..4 {
            let byte = *bytes.get(1 + place)?;
            length |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                let total = 2 + place + length;
                return (bytes.len() >= total).then_some((2 + place, total));
            }
        }
        None
    }

    fn has_whole(&self) -> bool {
        self.whole().is_some()
    }

    /// Type and packet identifier (0 where there is none).
    fn next(&mut self) -> io::Result<(u8, u16)> {
        let (head, total) = loop {
            if let Some(found) = self.whole() {
                break found;
            }
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let count = self.stream.read(&mut self.buffer[self.end..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.end += count;
        };
        let packet = &self.buffer[self.start..self.start + total];
        self.start += total;
        let kind = packet[0] >> 4;
        let word = |at: usize| packet.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        if kind != 3 {
            return Ok((kind, word(head)));
        }
        self.qos = packet[0] >> 1 & 3;
        Ok((kind, if self.qos == 0 { 0 } else { word(head + 2 + usize::from(word(head))) }))
    }
}

fn idle(address: &str, connections: usize) -> io::Result<()> {
    let mut held = Vec::new();
    for place in 0..connections {
        held.push(connect(address, &format!("idle-{place}"))?);
    }
    writeln!(io::stdout(), "{} connected", held.len())?;
    let mut rest = Vec::new();
    io::stdin().read_to_end(&mut rest)?;
    drop(held);
    Ok(())
}

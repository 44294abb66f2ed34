//! Serves simulated devices: Modbus TCP, plain or with TLS, RTU and ASCII on connections and pseudo-terminals.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use rustls::ServerConfig;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::fault::Faults;
use super::modbus::Registers;
use super::request;
use crate::clock::Now;
use crate::modbus::alarm::task::Alarm;
use crate::modbus::frame;
use crate::modbus::timing::GAP_FIXED;

const CONNECTIONS_MAX: usize = 64;
const BUFFER_MAX: usize = 1024;
/// A request that pauses for longer is forgotten.
const PAUSE: Duration = Duration::from_millis(30);
/// What a gateway says of a unit that does not answer.
const GATEWAY_TARGET: u8 = 0x0B;

/// The simulated devices of one bus, shared by its connections; each task of one event loop has a clone.
#[derive(Clone, Debug)]
pub struct Bench {
    registers: Rc<RefCell<Registers>>,
    faults: Rc<RefCell<Faults>>,
    start: Instant,
    /// One character on the line, where the line's speed is to be kept.
    character: Duration,
}

impl Bench {
    /// `character`: the time of one character on an RTU line; zero answers at once.
    pub fn new(registers: Registers, faults: Faults, character: Duration) -> Self {
        let start = Now::read().mono;
        Self { registers: Rc::new(RefCell::new(registers)), faults: Rc::new(RefCell::new(faults)), start, character }
    }

    fn answer(&self, unit: u8, pdu: &[u8]) -> Option<Vec<u8>> {
        let elapsed = Now::read().mono.saturating_duration_since(self.start);
        self.registers.borrow_mut().answer(unit, pdu, elapsed)
    }
}

/// Serves a TCP port until its listener fails. Must run in a `LocalSet`.
///
/// # Errors
/// The listener's.
pub async fn serve_port(
    listener: TcpListener,
    bench: Bench,
    speech: Speech,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            continue;
        }
        stream.set_nodelay(true)?;
        let bench = bench.clone();
        match tls.clone() {
            None => connections.spawn_local(serve(stream, bench, speech)),
            Some(tls) => {
                let stream = TlsAcceptor::from(tls).accept(stream);
                connections.spawn_local(async move { serve(stream.await?, bench, speech).await })
            }
        };
    }
}

/// How requests and answers are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    Tcp,
    Rtu,
    Ascii,
}

/// Serves anything that carries bytes (a connection, a pseudo-terminal) until it is lost.
///
/// # Errors
/// That it was lost.
pub async fn serve<S>(mut stream: S, bench: Bench, speech: Speech) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut received: Vec<u8> = Vec::new();
    let mut late: Vec<(Instant, Vec<u8>)> = Vec::new();
    let mut bytes = [0; 512];
    let mut heard_at = Now::read().mono;
    let mut wake_up = if bench.character.is_zero() { Alarm::coarse() } else { Alarm::precise() };
    loop {
        let next = late.iter().map(|(at, _)| *at).min();
        let wake = next.unwrap_or(heard_at + Duration::from_secs(3600));
        tokio::select! {
            count = stream.read(&mut bytes) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                let now = Now::read().mono;
                if speech != Speech::Tcp && now.saturating_duration_since(heard_at) > PAUSE {
                    received.clear();
                }
                heard_at = now;
                received.extend_from_slice(&bytes[..count]);
            }
            () = wake_up.until(wake) => {}
        }
        let now = Now::read().mono;
        while let Some((delay, bytes)) = take_request(&mut received, &bench, speech)? {
            late.extend(bytes.into_iter().map(|(extra, bytes)| (now + delay + extra, bytes)));
        }
        late.sort_by_key(|(at, _)| *at);
        while late.first().is_some_and(|(at, _)| *at <= Now::read().mono) {
            let (_, bytes) = late.remove(0);
            stream.write_all(&bytes).await?;
            stream.flush().await?;
        }
        if received.len() > BUFFER_MAX || late.len() > BUFFER_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "requests that have no end"));
        }
    }
}

/// How long the line takes, and what to send then.
type Reply = (Duration, Vec<super::fault::Delivery>);

fn take_request(received: &mut Vec<u8>, bench: &Bench, speech: Speech) -> io::Result<Option<Reply>> {
    match speech {
        Speech::Tcp => {
            let garbled = |_| io::Error::new(io::ErrorKind::InvalidData, "not Modbus TCP");
            let Some(request) = frame::tcp_frame(received).map_err(garbled)? else { return Ok(None) };
            let absent = || vec![request.pdu.first().copied().unwrap_or(0) | 0x80, GATEWAY_TARGET];
            let answer = bench.answer(request.unit, request.pdu).unwrap_or_else(absent);
            let reply = bench.faults.borrow_mut().tcp(request.transaction, request.unit, answer);
            let used = request.used;
            received.drain(..used);
            Ok(Some((Duration::ZERO, reply)))
        }
        Speech::Ascii => {
            let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
            let line: Vec<u8> = received.drain(..end + 2).collect();
            let silence = Ok(Some((Duration::ZERO, Vec::new())));
            let Some(start) = line.iter().rposition(|byte| *byte == b':') else { return silence };
            let Ok((unit, pdu)) = frame::ascii_body(&line[start + 1..end]) else { return silence };
            let Some(answer) = bench.answer(unit, &pdu) else { return silence };
            let characters = u32::try_from(line.len() + 2 * answer.len() + 7).unwrap_or(0);
            Ok(Some((bench.character * characters, bench.faults.borrow_mut().ascii(unit, answer))))
        }
        Speech::Rtu => {
            let Some(length) = received.get(1..).and_then(request::length).map(|pdu| pdu + 3) else { return Ok(None) };
            if received.len() < length {
                return Ok(None);
            }
            let frame: Vec<u8> = received.drain(..length).collect();
            let (body, crc) = frame.split_at(length - 2);
            if crc != frame::crc16(body).to_le_bytes() {
                received.clear();
                return Ok(None);
            }
            let Some(answer) = bench.answer(body[0], &body[1..]) else { return Ok(Some((Duration::ZERO, Vec::new()))) };
            // Request, the gap that ends it, and the answer, whose last byte then stands on the line.
            let characters = u32::try_from(length + answer.len() + 3).unwrap_or(0);
            let on_line = bench.character * characters + gap(bench.character);
            Ok(Some((on_line, bench.faults.borrow_mut().rtu(body[0], answer))))
        }
    }
}

/// The quiet time that ends a frame: 3.5 characters, fixed above 19,200 baud, where a character is shorter than 0.5 ms
/// (Modbus over Serial Line 1.02, section 2.5.1.1).
fn gap(character: Duration) -> Duration {
    if character.is_zero() || character >= Duration::from_micros(500) { character * 7 / 2 } else { GAP_FIXED }
}

/// The devices' end of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    fd: AsyncFd<OwnedFd>,
    /// Held so that the gateway may close and open its end as it likes.
    _peer: OwnedFd,
}

/// A new pseudo-terminal, raw: the devices' end, and the path that the gateway opens.
///
/// # Errors
/// The operating system's.
pub fn open_pty() -> io::Result<(Pty, PathBuf)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let path = PathBuf::from(OsStr::from_bytes(ptsname(&controller, Vec::new())?.as_bytes()));
    let peer = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    make_raw(&peer)?;
    rustix::io::ioctl_fionbio(&controller, true)?;
    #[allow(deprecated, reason = "an OwnedFd owns what it registers; the successor is unsafe for types that do not")]
    let fd = AsyncFd::new(controller)?;
    Ok((Pty { fd, _peer: peer }, path))
}

/// An emulator of another processor's programs may not know the request (QEMU 7.2): there the line is left as it is.
fn make_raw(peer: &OwnedFd) -> io::Result<()> {
    let mut settings = match tcgetattr(peer) {
        Err(Errno::NOSYS) => return Ok(()),
        settings => settings?,
    };
    settings.make_raw();
    Ok(tcsetattr(peer, OptionalActions::Now, &settings)?)
}

impl AsyncRead for Pty {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match guard.try_io(|fd| rustix::io::read(fd.get_ref(), room).map_err(io::Error::from)) {
                Ok(count) => {
                    buf.advance(count?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Pty {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match guard.try_io(|fd| rustix::io::write(fd.get_ref(), bytes).map_err(io::Error::from)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

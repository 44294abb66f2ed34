//! The line: sends one request, and hears its answer or that there is none.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep_until, timeout_at};

use crate::clock::Now;
use crate::modbus::alarm::task::Alarm;
use crate::modbus::frame::{self, Progress};
use crate::modbus::pdu::{self, Answer};
use crate::modbus::schedule::{DRAIN, Failure, Job};
use crate::modbus::timing::Timing;

/// A frame that pauses for longer has ended: USB adapters hand bytes over every 16 ms.
const PAUSE_SERIAL: Duration = Duration::from_millis(40);
/// A line that is never quiet is not waited for longer than this before each request.
const BABBLE_MAX: Duration = Duration::from_secs(1);
/// Beyond the line's own time for a request, its bytes must be taken within this.
const WRITE_MAX: Duration = Duration::from_secs(2);
const BUFFER_MAX: usize = 1024;

/// How frames stand on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Rtu,
    Ascii,
}

/// A line and what was heard on it last.
#[derive(Debug)]
pub struct Line<S> {
    stream: S,
    framing: Framing,
    timing: Timing,
    /// Rings when the line has been quiet for long enough.
    quiet: Alarm,
    /// A frame that pauses for longer has ended.
    pause: Duration,
    /// When the last byte stood on the line, sent or heard.
    last_byte: Instant,
    /// Something was heard that answers nothing: the line must be quiet before it is used again.
    dirty: bool,
    /// Bytes that answer nothing were heard since this was last asked.
    stray: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// `pause`: for a TCP converter, which may part a frame as it likes; a serial port needs `None`.
    pub fn new(stream: S, framing: Framing, timing: Timing, pause: Option<Duration>) -> Self {
        // Of a line behind a network the milliseconds are unknown anyway.
        let quiet = if pause.is_none() { Alarm::precise() } else { Alarm::coarse() };
        let pause = pause.unwrap_or(PAUSE_SERIAL.max(timing.character() * 10));
        // What the line's other end may still have to say to an earlier master is not for us.
        Self { stream, framing, timing, quiet, pause, last_byte: Now::read().mono, dirty: true, stray: false }
    }

    /// Whether bytes were discarded since this was last asked.
    pub fn take_stray(&mut self) -> bool {
        std::mem::take(&mut self.stray)
    }

    /// Listens while nothing is asked; ends when something was heard, or the line is lost. Cancel safe.
    ///
    /// # Errors
    /// The line is lost.
    pub async fn idle(&mut self) -> io::Result<()> {
        let mut bytes = [0; 256];
        self.heard(&mut bytes).await?;
        self.strayed();
        Ok(())
    }

    /// Sends a request and gives its answer. Not cancel safe: a line that was left in the middle is to be dropped.
    ///
    /// # Errors
    /// The line is lost.
    pub async fn exchange(&mut self, job: &Job) -> io::Result<Result<Answer, Failure>> {
        if !self.become_quiet().await? {
            return Ok(Err(Failure::Discarded));
        }
        let mut pdu = Vec::with_capacity(frame::MAX_RTU);
        pdu::write_request(&job.request, &mut pdu);
        let request = match self.framing {
            Framing::Rtu => frame::rtu(job.unit, &pdu),
            Framing::Ascii => frame::ascii(job.unit, &pdu),
        };
        let start = Now::read().mono;
        let on_line = self.timing.transmit(pdu.len());
        let written = timeout_at((start + on_line + WRITE_MAX).into(), self.stream.write_all(&request)).await;
        written.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the line does not take bytes"))??;
        self.last_byte = start + on_line;
        self.hear_answer(job).await
    }

    async fn hear_answer(&mut self, job: &Job) -> io::Result<Result<Answer, Failure>> {
        let mut received = Vec::with_capacity(frame::MAX_RTU);
        let mut bytes = [0; 256];
        let mut deadline = self.last_byte.max(Now::read().mono) + job.timeout;
        loop {
            let Ok(heard) = timeout_at(deadline.into(), self.heard(&mut bytes)).await else {
                self.dirty = true;
                return Ok(Err(if received.is_empty() { Failure::Timeout } else { Failure::Discarded }));
            };
            received.extend_from_slice(&bytes[..heard?]);
            let progress = match self.framing {
                Framing::Rtu => frame::rtu_answer(&received, job.unit, &job.request),
                Framing::Ascii => frame::ascii_answer(&received, job.unit, &job.request),
            };
            match progress {
                Progress::Answer(answer) => return Ok(Ok(answer)),
                Progress::More if received.len() <= BUFFER_MAX => deadline = self.last_byte + self.pause,
                Progress::More | Progress::Flawed(_) => {
                    self.dirty = true;
                    return Ok(Err(Failure::Discarded));
                }
            }
        }
    }

    /// Waits for the gap that must stand before a request, after a mishap for a line that was quiet for [`DRAIN`].
    /// False where it never was.
    async fn become_quiet(&mut self) -> io::Result<bool> {
        // Lets the operating system's news of waiting bytes arrive.
        tokio::task::yield_now().await;
        let give_up = Now::read().mono + BABBLE_MAX;
        let mut bytes = [0; 256];
        loop {
            let quiet = if self.dirty { self.timing.quiet().max(DRAIN) } else { self.timing.quiet() };
            let until = self.last_byte + quiet;
            tokio::select! {
                biased;
                count = self.stream.read(&mut bytes) => {
                    self.take_heard(count)?;
                    self.strayed();
                }
                () = self.quiet.until(until) => {
                    self.dirty = false;
                    return Ok(true);
                }
            }
            if Now::read().mono >= give_up {
                sleep_until(give_up.into()).await;
                return Ok(false);
            }
        }
    }

    fn strayed(&mut self) {
        self.dirty = true;
        self.stray = true;
    }

    async fn heard(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes).await;
        self.take_heard(count)
    }

    fn take_heard(&mut self, count: io::Result<usize>) -> io::Result<usize> {
        let count = count?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end hung up"));
        }
        self.last_byte = Now::read().mono;
        Ok(count)
    }
}

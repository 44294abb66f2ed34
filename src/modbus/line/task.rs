//! The line: sends one request, and hears its answer or that there is none.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep_until, timeout_at};

use crate::clock::Now;
use crate::modbus::alarm::task::Alarm;
use crate::modbus::frame::{self, Heard, Progress};
use crate::modbus::pdu::{self, Answer, Flaw};
use crate::modbus::schedule::{DRAIN, Failure, Job};
use crate::modbus::spec::Framing;
use crate::modbus::timing::Timing;

/// A frame that pauses for longer has ended: USB adapters hand bytes over every 16 ms.
const PAUSE_SERIAL: Duration = Duration::from_millis(40);
/// A line that is never quiet is not waited for longer than this before each request.
const BABBLE_MAX: Duration = Duration::from_secs(1);
/// Beyond the line's own time for a request, its bytes must be taken within this.
const WRITE_MAX: Duration = Duration::from_secs(2);
const BUFFER_MAX: usize = 1024;
/// Frames that nobody waited for, kept until they are asked for.
const FRAMES_MAX: usize = 16;

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
    /// It is reached through a TCP converter.
    converter: bool,
    /// Something was answered on it.
    answered: bool,
    /// When the last byte stood on the line, sent or heard.
    last_byte: Instant,
    /// Something was heard that answers nothing: the line must be quiet before it is used again.
    dirty: bool,
    /// Bytes that answer nothing were heard since this was last asked.
    stray: bool,
    /// Of those, what may be the beginning of a frame.
    junk: Vec<u8>,
    /// Whole frames among them.
    frames: Vec<Heard>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// `pause`: for a TCP converter, which may part a frame as it likes; a serial port needs `None`.
    pub fn new(stream: S, framing: Framing, timing: Timing, pause: Option<Duration>) -> Self {
        // Of a line behind a network the milliseconds are unknown anyway.
        let quiet = if pause.is_none() { Alarm::precise() } else { Alarm::coarse() };
        let converter = pause.is_some();
        let pause = pause.unwrap_or(PAUSE_SERIAL.max(timing.character() * 10));
        // What the line's other end may still have to say to an earlier master is not for us.
        let last_byte = Now::read().mono;
        let (junk, frames) = (Vec::new(), Vec::new());
        let (dirty, stray, answered) = (true, false, false);
        Self { stream, framing, timing, quiet, pause, converter, answered, last_byte, dirty, stray, junk, frames }
    }

    /// Whether bytes were discarded since this was last asked.
    pub fn take_stray(&mut self) -> bool {
        std::mem::take(&mut self.stray)
    }

    /// Whether it is reached through a TCP converter, which may close a connection that was idle.
    pub fn is_converter(&self) -> bool {
        self.converter
    }

    /// Whether something was answered on it.
    pub fn has_served(&self) -> bool {
        self.answered
    }

    /// The whole frames that were heard since this was last asked and that nobody waited for: late answers.
    pub fn take_frames(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.frames)
    }

    /// Listens while nothing is asked; ends when something was heard, or the line is lost. Cancel safe.
    ///
    /// # Errors
    /// The line is lost.
    pub async fn idle(&mut self) -> io::Result<()> {
        let mut bytes = [0; 256];
        let count = self.heard(&mut bytes).await?;
        self.strayed(&bytes[..count]);
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
        let patience = self.last_byte.max(Now::read().mono) + job.timeout;
        let mut deadline = patience;
        loop {
            let Ok(heard) = timeout_at(deadline.into(), self.heard(&mut bytes)).await else {
                // After mere silence the next may be asked at once: what is late is known by what is owed.
                if received.is_empty() {
                    return Ok(Err(Failure::Timeout));
                }
                self.dirty = true;
                return Ok(Err(self.flawed(&received, job)));
            };
            received.extend_from_slice(&bytes[..heard?]);
            if let Some(landed) = self.judge(&mut received, job) {
                self.answered |= landed.is_ok();
                self.dirty |= landed.is_err();
                return Ok(landed);
            }
            deadline = if received.is_empty() { patience } else { self.last_byte + self.pause };
        }
    }

    /// What came so far: the answer, no answer, or `None` while it may still become one. Whole frames that are
    /// another's are taken out: a slow device's late answer costs the one that is asked nothing.
    fn judge(&mut self, received: &mut Vec<u8>, job: &Job) -> Option<Result<Answer, Failure>> {
        loop {
            let progress = match self.framing {
                Framing::Rtu => frame::rtu_answer(received, job.unit, &job.request),
                Framing::Ascii => frame::ascii_answer(received, job.unit, &job.request),
            };
            let flaw = match progress {
                Progress::Answer(answer) => return Some(Ok(answer)),
                Progress::More if received.len() <= BUFFER_MAX => return None,
                Progress::More => return Some(Err(Failure::Discarded)),
                Progress::Flawed(flaw) => flaw,
            };
            let Some(heard) = frame::heard(self.framing, received) else {
                // Noise, or the beginning of another's frame.
                let may_go_on = flaw == Flaw::Foreign && received.len() <= BUFFER_MAX;
                return if may_go_on { None } else { Some(Err(self.flawed(received, job))) };
            };
            if heard.unit != job.unit || heard.pdu[0] & 0x7F != job.request.function_code().value() {
                received.drain(..heard.end);
                self.stray = true;
                self.keep(heard);
                if received.is_empty() {
                    return None;
                }
            } else if heard.start > 0 {
                received.drain(..heard.start);
            } else {
                return Some(Err(Failure::Discarded));
            }
        }
    }

    /// Whether what came was the answer, damaged, or something else while that may still come.
    fn flawed(&self, received: &[u8], job: &Job) -> Failure {
        let head = [job.unit, job.request.function_code().value()];
        let own = match self.framing {
            Framing::Rtu => received.get(..2) == Some(&head),
            Framing::Ascii => false,
        };
        if own { Failure::Damaged } else { Failure::Discarded }
    }

    fn keep(&mut self, heard: Heard) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push(heard);
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
                    let count = self.take_heard(count)?;
                    self.strayed(&bytes[..count]);
                }
                () = self.quiet.until(until) => {
                    self.dirty = false;
                    self.junk.clear();
                    return Ok(true);
                }
            }
            if Now::read().mono >= give_up {
                sleep_until(give_up.into()).await;
                return Ok(false);
            }
        }
    }

    fn strayed(&mut self, bytes: &[u8]) {
        self.dirty = true;
        self.stray = true;
        if self.junk.len() > BUFFER_MAX {
            self.junk.clear();
        }
        self.junk.extend_from_slice(bytes);
        while let Some(heard) = frame::heard(self.framing, &self.junk) {
            self.junk.drain(..heard.end);
            self.keep(heard);
        }
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

//! One Modbus TCP connection and the requests under way on it.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::clock::Now;
use crate::modbus::frame;
use crate::modbus::pdu::{self, Answer, Request};
use crate::modbus::schedule::{Failure, Job};

const WRITE_MAX: Duration = Duration::from_secs(2);
/// So many time-outs on end without one byte heard, and the connection is thought dead.
const SILENT_MAX: u32 = 3;

/// What became of a request, by its ticket; `None` for an answer to nothing.
pub type Landed = (Option<u64>, Result<Answer, Failure>);

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    unit: u8,
    request: Request,
    deadline: Instant,
}

/// A connection. A late answer is known by its transaction number, which is not given again for 65,535 requests.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    transaction: u16,
    waiting: BTreeMap<u16, Waiting>,
    received: Vec<u8>,
    outgoing: Vec<u8>,
    silent: u32,
    /// A well-formed answer came: the peer does speak Modbus.
    answered: bool,
    asked: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            transaction: 0,
            waiting: BTreeMap::new(),
            received: Vec::new(),
            outgoing: Vec::new(),
            silent: 0,
            answered: false,
            asked: false,
        }
    }

    /// Puts a request among those to send.
    pub fn request(&mut self, job: Job, now: Now) {
        self.asked = true;
        self.transaction = self.transaction.wrapping_add(1);
        let mut pdu = Vec::with_capacity(frame::MAX_TCP);
        pdu::write_request(&job.request, &mut pdu);
        self.outgoing.extend(frame::tcp(self.transaction, job.unit, &pdu));
        let deadline = now.mono + job.timeout;
        let waiting = Waiting { ticket: job.ticket, unit: job.unit, request: job.request, deadline };
        self.waiting.insert(self.transaction, waiting);
    }

    /// Sends what was put.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        timeout(WRITE_MAX, write)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the connection does not take bytes"))??;
        self.outgoing.clear();
        Ok(())
    }

    /// Waits for bytes. Cancel safe.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0; 1024];
        let count = self.stream.read(&mut bytes).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed the connection"));
        }
        self.received.extend_from_slice(&bytes[..count]);
        self.silent = 0;
        Ok(())
    }

    /// The next frame's meaning.
    ///
    /// # Errors
    /// The stream is out of step: only a new connection helps.
    pub fn landed(&mut self) -> io::Result<Option<Landed>> {
        let frame = frame::tcp_frame(&self.received)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "what came is not Modbus TCP"))?;
        let Some(frame) = frame else { return Ok(None) };
        let landed = match self.waiting.remove(&frame.transaction) {
            None => (None, Err(Failure::Discarded)),
            Some(waiting) if waiting.unit != frame.unit => (Some(waiting.ticket), Err(Failure::Discarded)),
            Some(waiting) => {
                let answer = pdu::read_answer(&waiting.request, frame.pdu).map_err(|_| Failure::Discarded);
                (Some(waiting.ticket), answer)
            }
        };
        self.answered |= landed.1.is_ok();
        let used = frame.used;
        self.received.drain(..used);
        Ok(Some(landed))
    }

    /// The tickets whose time is over.
    pub fn overdue(&mut self, now: Now) -> Vec<u64> {
        let mut tickets = Vec::new();
        self.waiting.retain(|_, waiting| {
            let keep = waiting.deadline > now.mono;
            if !keep {
                tickets.push(waiting.ticket);
            }
            keep
        });
        self.silent = self.silent.saturating_add(u32::try_from(tickets.len()).unwrap_or(u32::MAX));
        tickets
    }

    /// Whether it ever brought a well-formed answer.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether it answered what it was asked, or never was.
    pub fn has_served(&self) -> bool {
        self.answered || !self.asked
    }

    /// Gives up what is under way, and says what that was.
    pub fn abandon(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.ticket).collect()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    /// Whether it is better made anew: nothing was heard for long, as after the peer's power was cut.
    pub fn is_silent(&self) -> bool {
        self.silent >= SILENT_MAX && self.waiting.is_empty()
    }
}

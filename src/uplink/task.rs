//! Moves bytes between an uplink's engine and the network, and rows between it and its queue.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};

use crate::clock::Now;
use crate::pulse::{self, Pulse};
use crate::store::{Seq, Stored};

use super::drain::{READ_BYTES, READ_MESSAGES, Read};
use super::engine::Engine;
use super::error::SessionError;
use super::queue::Queue;
use super::spec::UplinkSpec;
use super::status::{UplinkControl, UplinkEvent, UplinkState};
use super::transport::BoxStream;
use super::transport::task::{Opened, TransportError, connect};

/// Bytes taken from the socket in one read.
const INPUT_BYTES: usize = 64 * 1024;
/// A stop takes no longer than this, whatever the server and the store do.
const STOP_WITHIN: Duration = Duration::from_millis(1700);
/// How long the transport's own goodbye may take, beside that.
const SHUTDOWN_WITHIN: Duration = Duration::from_millis(250);

type Pending<'q, T> = Pin<Box<dyn Future<Output = T> + 'q>>;

enum Happened {
    Control(Option<UplinkControl>),
    Link(LinkEvent),
    Rows(Read, Vec<Stored>),
    Delivered,
    Committed,
    /// The owner has room for an event, or is gone.
    Room(bool),
    Tick,
}

enum LinkEvent {
    RetryDue,
    Opened(Result<Opened, TransportError>),
    Input(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Flushed(std::io::Result<()>),
}

/// The way to the server.
enum Link {
    Waiting(Instant),
    Connecting(Pending<'static, Result<Opened, TransportError>>),
    Open(Box<Open>),
}

struct Open {
    reader: ReadHalf<BoxStream>,
    writer: WriteHalf<BoxStream>,
    input: BytesMut,
    /// What is being written; more is taken when all of it is flushed.
    writing: Bytes,
    unflushed: bool,
}

impl Link {
    async fn happened(&mut self, wants_input: bool) -> LinkEvent {
        match self {
            Self::Waiting(until) => {
                tokio::time::sleep_until((*until).into()).await;
                LinkEvent::RetryDue
            }
            Self::Connecting(connect) => LinkEvent::Opened(connect.await),
            Self::Open(open) => open.happened(wants_input).await,
        }
    }
}

impl Open {
    fn new(stream: BoxStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, input: BytesMut::new(), writing: Bytes::new(), unflushed: false }
    }

    fn is_idle(&self) -> bool {
        self.writing.is_empty() && !self.unflushed
    }

    /// Ends the connection, and reads it to its end: a socket closed over unread bytes is reset, and the server would lose what
    /// it has not read yet.
    async fn shut(&mut self) {
        let mut going_on = self.writer.shutdown().await.is_ok();
        while going_on {
            self.input.clear();
            going_on = matches!(self.reader.read_buf(&mut self.input).await, Ok(1..));
        }
    }

    /// Reading, writing and flushing can each be dropped half way without losing a byte.
    async fn happened(&mut self, wants_input: bool) -> LinkEvent {
        let Self { reader, writer, input, writing, unflushed } = self;
        input.reserve(INPUT_BYTES);
        let output = async {
            match (writing.is_empty(), *unflushed) {
                (false, _) => LinkEvent::Written(writer.write(writing).await),
                (true, true) => LinkEvent::Flushed(writer.flush().await),
                (true, false) => std::future::pending().await,
            }
        };
        tokio::select! {
            read = reader.read_buf(input), if wants_input => LinkEvent::Input(read),
            event = output => event,
        }
    }
}

/// Runs until `control` is closed or `events` has no reader; then says goodbye and returns within two seconds.
///
/// `id` is what its events carry; `pulse` is late where it hangs. Needs a tokio runtime with time and I/O; nothing in it blocks.
pub async fn run<Q: Queue>(
    spec: UplinkSpec,
    id: u16,
    queue: Q,
    events: mpsc::Sender<UplinkEvent>,
    mut control: mpsc::Receiver<UplinkControl>,
    pulse: Pulse,
) {
    let now = Now::read();
    let spec = Arc::new(spec);
    let mut committed = queue.committed();
    let mut uplink = Uplink {
        engine: Engine::new(Arc::clone(&spec), id, fastrand::u64(..), now),
        spec,
        queue: &queue,
        link: Link::Waiting(now.mono),
        read: None,
        deliver: None,
        give_up: None,
        told: UplinkState::Connecting,
    };
    uplink.see_committed(&mut committed);
    let mut queue_lives = true;
    loop {
        let now = Now::read();
        pulse.beat(now, pulse::IDLE);
        if uplink.prepare(now).is_break() {
            break;
        }
        let due = uplink.engine.poll_timeout(now);
        let due = uplink.give_up.map_or(due, |at| at.min(due)).min(now.mono + pulse::IDLE);
        let (wants_input, has_event) = (uplink.engine.wants_input(), uplink.engine.has_event(now));
        let stopping = uplink.engine.is_stopping();
        let happened = tokio::select! {
            taken = control.recv(), if !stopping => Happened::Control(taken),
            link = uplink.link.happened(wants_input) => Happened::Link(link),
            rows = pending(&mut uplink.read) => Happened::Rows(rows.0, rows.1),
            () = pending(&mut uplink.deliver) => Happened::Delivered,
            changed = committed.changed(), if queue_lives => {
                queue_lives = changed.is_ok();
                Happened::Committed
            }
            room = events.reserve(), if has_event && !stopping => match room {
                Ok(permit) => {
                    if let Some(event) = uplink.engine.next_event(now) {
                        permit.send(event);
                    }
                    Happened::Room(true)
                }
                Err(_) => Happened::Room(false),
            },
            () = tokio::time::sleep_until(due.into()) => Happened::Tick,
        };
        if matches!(happened, Happened::Committed) {
            uplink.see_committed(&mut committed);
        }
        uplink.apply(happened, Now::read());
    }
    uplink.close(&events).await;
}

/// The result of what is under way; waits for ever where nothing is.
async fn pending<T>(slot: &mut Option<Pending<'_, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

struct Uplink<'q, Q> {
    engine: Engine,
    spec: Arc<UplinkSpec>,
    queue: &'q Q,
    link: Link,
    read: Option<Pending<'q, (Read, Vec<Stored>)>>,
    deliver: Option<Pending<'q, ()>>,
    /// When a stop ends whatever is left to do.
    give_up: Option<Instant>,
    /// The state that the log was told last.
    told: UplinkState,
}

impl<'q, Q: Queue> Uplink<'q, Q> {
    /// Starts what the engine wants done. `Break`: there is nothing left to do.
    fn prepare(&mut self, now: Now) -> ControlFlow<()> {
        self.engine.advance(now);
        if let Link::Open(open) = &mut self.link
            && open.is_idle()
        {
            open.writing = self.engine.take_output(now);
            open.unflushed = !open.writing.is_empty();
        }
        let queue = self.queue;
        if self.read.is_none()
            && let Some(read) = self.engine.next_read()
        {
            self.read = Some(Box::pin(async move { (read, queue.read(read.after, READ_MESSAGES, READ_BYTES).await) }));
        }
        if let Some(seqs) = self.engine.take_settled() {
            self.deliver = Some(Box::pin(queue.deliver(seqs)));
        }
        let written = match &self.link {
            Link::Open(open) => open.is_idle(),
            Link::Waiting(_) | Link::Connecting(_) => true,
        };
        let late = self.give_up.is_some_and(|at| at <= now.mono);
        if late || self.engine.is_done() && written { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn apply(&mut self, happened: Happened, now: Now) {
        match happened {
            Happened::Control(Some(UplinkControl::Acknowledge(token))) => self.engine.acknowledge(token),
            Happened::Control(None) | Happened::Room(false) => {
                self.engine.stop(now);
                self.give_up = Some(now.mono + STOP_WITHIN);
            }
            Happened::Room(true) | Happened::Committed => {}
            Happened::Link(event) => self.apply_link(event, now),
            Happened::Rows(read, rows) => {
                self.read = None;
                self.engine.filled(read, rows);
            }
            Happened::Delivered => {
                self.deliver = None;
                self.engine.delivered();
            }
            Happened::Tick => {
                if let Err(error) = self.engine.handle_timeout(now) {
                    self.closed(&error, now);
                }
            }
        }
    }

    fn apply_link(&mut self, event: LinkEvent, now: Now) {
        let result = match (event, &mut self.link) {
            (LinkEvent::RetryDue, link) => {
                *link = if self.engine.is_stopping() {
                    Link::Waiting(now.mono + STOP_WITHIN)
                } else {
                    self.engine.connecting(now);
                    Link::Connecting(Box::pin(connect(Arc::clone(&self.spec))))
                };
                Ok(())
            }
            (LinkEvent::Opened(Ok(opened)), link) => {
                *link = Link::Open(Box::new(Open::new(opened.stream)));
                self.engine.opened(opened.password.as_deref(), now)
            }
            (LinkEvent::Opened(Err(error)), _) => Err(SessionError::Transport(error.to_string())),
            (LinkEvent::Input(Ok(0)), _) => Err(SessionError::Closed),
            (LinkEvent::Input(Ok(_)), Link::Open(open)) => {
                let result = self.engine.handle_input(&open.input, now);
                open.input.clear();
                result
            }
            (LinkEvent::Written(Ok(count)), Link::Open(open)) => {
                open.writing.advance(count);
                if count == 0 { Err(SessionError::Closed) } else { Ok(()) }
            }
            (LinkEvent::Flushed(Ok(())), Link::Open(open)) => {
                open.unflushed = false;
                self.engine.flushed();
                Ok(())
            }
            (LinkEvent::Input(Err(error)) | LinkEvent::Written(Err(error)) | LinkEvent::Flushed(Err(error)), _) => {
                Err(SessionError::Transport(error.to_string()))
            }
            // Only an open link has bytes.
            (LinkEvent::Input(_) | LinkEvent::Written(_) | LinkEvent::Flushed(_), _) => Ok(()),
        };
        match result {
            Ok(()) => self.log(),
            Err(error) => self.closed(&error, now),
        }
    }

    fn closed(&mut self, error: &SessionError, now: Now) {
        let retry = self.engine.closed(error, now);
        let wait_ms = u64::try_from(retry.saturating_duration_since(now.mono).as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(uplink = &*self.spec.name, wait_ms, "{error}");
        self.link = Link::Waiting(retry);
        self.told = UplinkState::BackingOff;
    }

    fn log(&mut self) {
        let state = self.engine.state();
        if state == UplinkState::Connected && self.told != state {
            tracing::info!(uplink = &*self.spec.name, "connected");
        }
        self.told = state;
    }

    fn see_committed(&mut self, committed: &mut watch::Receiver<Seq>) {
        self.engine.committed(*committed.borrow_and_update());
    }

    async fn close(mut self, events: &mpsc::Sender<UplinkEvent>) {
        if let Link::Open(open) = &mut self.link {
            // Whether the peer hears the transport's own goodbye changes nothing.
            tokio::time::timeout(SHUTDOWN_WITHIN, open.shut()).await.ok();
        }
        let now = Now::read();
        self.engine.stopped(now);
        if let Some(event) = self.engine.next_event(now) {
            // The owner may be gone, or full: it closed the channel and waits for nothing.
            events.try_send(event).ok();
        }
    }
}

//! A connection's task: bytes from its socket to the core, bytes from the core to its socket. It knows no MQTT.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::broker::{ConnId, Input};

/// Read buffers grow from the first to the last while reads fill them: an idle connection costs little, a busy one few calls.
const READ_BYTES_MIN: usize = 512;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Written bytes are told to the core in steps of this share of what chokes a connection.
const WRITTEN_STEP_SHARE: usize = 4;
/// A closing connection gets this long to take what was sent.
const LINGER: Duration = Duration::from_secs(5);

/// What the core has for one connection. The core keeps its size within the connection's bound.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: RefCell<OutboxState>,
    changed: Notify,
    /// Apart from `changed`: one permit wakes one waiter only.
    closed: Notify,
    read_on: Notify,
}

#[derive(Debug, Default)]
struct OutboxState {
    chunks: VecDeque<Bytes>,
    closing: bool,
    /// Nothing is to be read for now.
    held: bool,
}

impl Outbox {
    pub(crate) fn push(&self, data: Bytes) {
        self.state.borrow_mut().chunks.push_back(data);
        self.changed.notify_one();
    }

    pub(crate) fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.changed.notify_one();
        self.closed.notify_one();
        self.read_on.notify_one();
    }

    /// Whether its connection is to be read.
    pub(crate) fn read(&self, on: bool) {
        self.state.borrow_mut().held = !on;
        if on {
            self.read_on.notify_one();
        }
    }

    fn is_held(&self) -> bool {
        let state = self.state.borrow();
        state.held && !state.closing
    }

    async fn readable(&self) {
        while self.is_held() {
            self.read_on.notified().await;
        }
    }

    /// The next chunk; `None` once it is closing and empty.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.state.borrow_mut();
                if let Some(chunk) = state.chunks.pop_front() {
                    return Some(chunk);
                }
                if state.closing {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    async fn closing(&self) {
        while !self.state.borrow().closing {
            self.closed.notified().await;
        }
    }
}

pub(crate) struct Link {
    pub(crate) conn: ConnId,
    pub(crate) outbox: Rc<Outbox>,
    pub(crate) to_core: mpsc::Sender<Input>,
    /// For what was written, ahead of the rest.
    pub(crate) written: mpsc::Sender<Input>,
    /// What the core holds back at; see [`WRITTEN_STEP_SHARE`].
    pub(crate) choke_bytes: usize,
}

impl Link {
    /// Waits while the core is busy: that pauses reading, and the peer's sending in turn.
    async fn received(&self, data: Bytes) -> io::Result<()> {
        self.to_core
            .send(Input::Bytes { conn: self.conn, data })
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    async fn wrote(&self, untold: &mut usize, bytes: usize) {
        *untold += bytes;
        if *untold >= self.choke_bytes / WRITTEN_STEP_SHARE {
            let bytes = std::mem::take(untold);
            // A core that is gone has no use for it.
            let _ = self.written.send(Input::Written { conn: self.conn, bytes }).await;
        }
    }
}

/// Serves a byte stream until either side ends it.
pub(crate) async fn stream(link: &Link, stream: impl AsyncRead + AsyncWrite) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        let mut size = READ_BYTES_MIN;
        let mut buffer = BytesMut::new();
        loop {
            if link.outbox.is_held() {
                link.outbox.readable().await;
                // Whoever was held begins small again, so that many of them together do not overrun whom they waited for.
                size = READ_BYTES_MIN;
            }
            buffer.reserve(size);
            let count = reader.read_buf(&mut buffer).await?;
            if count == 0 {
                return io::Result::Ok(());
            }
            size = if count >= size { (size * 2).min(READ_BYTES_MAX) } else { size.div_ceil(2).max(READ_BYTES_MIN) };
            link.received(buffer.split().freeze()).await?;
        }
    };
    let write = async {
        let mut untold = 0;
        while let Some(mut chunk) = link.outbox.next().await {
            while chunk.has_remaining() {
                let count = writer.write_buf(&mut chunk).await?;
                if count == 0 {
                    return io::Result::Err(io::ErrorKind::WriteZero.into());
                }
                link.wrote(&mut untold, count).await;
            }
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    until_ended(link, read, write).await;
}

/// Serves MQTT over WebSocket: binary frames, whose borders mean nothing (MQTT 5, 6).
pub(crate) async fn websocket(link: &Link, stream: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    let (mut sink, mut source) = stream.split();
    let read = async {
        loop {
            link.outbox.readable().await;
            let Some(frame) = source.next().await else { break };
            match frame.map_err(io::Error::other)? {
                Frame::Binary(data) => link.received(data).await?,
                // A text frame is an error (6.0-1); the others are the library's business.
                Frame::Text(_) | Frame::Close(_) => break,
                Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => {}
            }
        }
        io::Result::Ok(())
    };
    let write = async {
        let mut untold = 0;
        while let Some(chunk) = link.outbox.next().await {
            let count = chunk.len();
            sink.send(Frame::Binary(chunk)).await.map_err(io::Error::other)?;
            link.wrote(&mut untold, count).await;
        }
        sink.close().await.map_err(io::Error::other)
    };
    until_ended(link, read, write).await;
}

async fn until_ended(
    link: &Link,
    read: impl Future<Output = io::Result<()>>,
    write: impl Future<Output = io::Result<()>>,
) {
    tokio::pin!(read);
    let linger = async {
        link.outbox.closing().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        // The peer has ended it, or the network; answers that wait have no reader any more.
        _ = &mut read => return,
        written = write => match written {
            Ok(()) => {}
            Err(_) => return,
        },
        () = linger => return,
    }
    // To close a socket on a peer that still sends is to reset it, and it may never see why: read on until it has gone as well.
    let _ = tokio::time::timeout(LINGER, read).await;
}

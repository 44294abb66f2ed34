//! Ways to a broker: TCP, TLS, and WebSocket over either. All end up as one stream of bytes.

pub(crate) mod task;
mod ws;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection's bytes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub(crate) type BoxStream = Box<dyn Stream>;

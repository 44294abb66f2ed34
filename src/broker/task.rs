//! The broker's sockets: accept loops, handshakes, and the table of connections that the core's outputs go to.
//!
//! All of it runs on one `LocalSet`. Every handshake has a task and a time limit of its own, so a silent peer delays nobody.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tracing::{debug, error, info, warn};

use super::api::{ConnId, Input, Output, Peer, Secret};
use super::connection::task::{self as connection, Link, Outbox};
use super::core::CHOKE_BYTES;
use super::passwd::verify_password;
use super::spec::{Limits, ListenerSpec, ListenerTransport};
use super::tls::task::{Identity, TlsError, common_name};
use crate::clock::Now;
use crate::pulse::{self, Pulse};

/// Events that wait for the core's loop. Beyond it connections are not read.
const EVENTS: usize = 256;
/// Passwords verified at once: each takes 19 MiB and most of a core.
const VERIFICATIONS: usize = 1;
/// After an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A turn of an accept loop waits for a connection, and for the connection rate.
const TURN: Duration = pulse::IDLE.saturating_mul(2);
/// The certificate's files are looked at this often at most, when somebody connects.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum NetError {
    #[error("cannot listen on {bind}")]
    Bind { bind: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct Shared {
    limits: Cell<Limits>,
    to_core: mpsc::Sender<Input>,
    written: mpsc::Sender<Input>,
    outboxes: RefCell<HashMap<ConnId, Rc<Outbox>>>,
    next: Cell<u64>,
    live: Cell<usize>,
    verifications: Arc<Semaphore>,
    /// When the next connection may be taken, by the connection rate.
    next_accept: Cell<Option<tokio::time::Instant>>,
}

struct Listener {
    spec: ListenerSpec,
    /// Among the file's listeners.
    place: usize,
    local: SocketAddr,
    identity: Option<Rc<RefCell<Identity>>>,
    pulse: Pulse,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What happened on the sockets, for the core. What was written comes before what was read: a core that knows of free room late would
/// take a reader for a slow one.
pub struct Events {
    written: mpsc::Receiver<Input>,
    others: mpsc::Receiver<Input>,
}

impl Events {
    /// `None`: nothing comes any more.
    pub async fn recv(&mut self) -> Option<Input> {
        tokio::select! {
            biased;
            Some(input) = self.written.recv() => Some(input),
            input = self.others.recv() => input,
        }
    }

    /// # Errors
    /// Nothing is there now.
    pub fn try_recv(&mut self) -> Result<Input, mpsc::error::TryRecvError> {
        self.written.try_recv().or_else(|_| self.others.try_recv())
    }

    /// Of a gateway without a broker.
    pub fn none() -> Self {
        Self { written: mpsc::channel(1).1, others: mpsc::channel(1).1 }
    }
}

/// The broker's listeners and connections. Its owner feeds the receiver's events to `Broker::handle`, and the core's outputs to
/// [`Net::apply`].
pub struct Net {
    shared: Rc<Shared>,
    listeners: Vec<Listener>,
}

impl Net {
    pub fn new(limits: Limits) -> (Self, Events) {
        let (to_core, others) = mpsc::channel(EVENTS);
        let (written_tx, written) = mpsc::channel(EVENTS);
        let shared = Shared {
            limits: Cell::new(limits),
            to_core,
            written: written_tx,
            outboxes: RefCell::default(),
            next: Cell::new(1),
            live: Cell::new(0),
            verifications: Arc::new(Semaphore::new(VERIFICATIONS)),
            next_accept: Cell::new(None),
        };
        (Self { shared: Rc::new(shared), listeners: Vec::new() }, Events { written, others })
    }

    /// Makes the listeners what `specs` says, at the start and after a reload: same ones stay (their certificates are read again), others
    /// are bound, the rest is closed; connections live on. On an error nothing has changed.
    pub async fn configure(&mut self, specs: &[ListenerSpec], limits: Limits) -> Result<(), NetError> {
        let wanted: Vec<(usize, &ListenerSpec)> =
            specs.iter().enumerate().filter(|(_, spec)| self.listeners.iter().all(|old| old.spec != **spec)).collect();
        let mut identities = Vec::new();
        for (_, spec) in &wanted {
            identities.push(spec.tls.as_ref().map(Identity::load).transpose()?.map(|id| Rc::new(RefCell::new(id))));
        }
        // The same address in another form (TLS added, or all interfaces instead of one) must be free first.
        let gives_way =
            |old: &Listener| !specs.contains(&old.spec) && wanted.iter().any(|(_, new)| overlap(old.local, new.bind));
        let (given_way, kept) = self.listeners.drain(..).partition::<Vec<_>, _>(gives_way);
        self.listeners = kept;
        let mut closed = Vec::new();
        for old in given_way {
            old.task.abort();
            closed.push((old.place, ListenerSpec { bind: old.local, ..old.spec.clone() }, old.identity.clone()));
        }
        tokio::task::yield_now().await;
        let mut fresh = Vec::new();
        for ((place, spec), identity) in wanted.into_iter().zip(identities) {
            match self.bind(place, spec, identity).await {
                Ok(listener) => fresh.push(listener),
                Err(error) => {
                    drop(fresh);
                    tokio::task::yield_now().await;
                    for (place, spec, identity) in closed {
                        match self.bind(place, &spec, identity).await {
                            Ok(listener) => self.listeners.push(listener),
                            Err(lost) => error!("{lost} again, where it listened before"),
                        }
                    }
                    return Err(error);
                }
            }
        }
        self.shared.limits.set(limits);
        self.listeners.retain(|listener| specs.contains(&listener.spec));
        for listener in &self.listeners {
            refresh(listener.identity.as_deref());
        }
        self.listeners.append(&mut fresh);
        Ok(())
    }

    async fn bind(
        &self,
        place: usize,
        spec: &ListenerSpec,
        identity: Option<Rc<RefCell<Identity>>>,
    ) -> Result<Listener, NetError> {
        let bind = spec.bind;
        let socket = TcpListener::bind(bind).await.map_err(|source| NetError::Bind { bind, source })?;
        let local = socket.local_addr().map_err(|source| NetError::Bind { bind, source })?;
        info!(%local, transport = ?spec.transport, tls = spec.tls.is_some(), "listening");
        let pulse = Pulse::new(Now::read());
        let accept = accept(self.shared.clone(), socket, place, spec.transport, identity.clone(), pulse.clone());
        #[allow(clippy::disallowed_methods, reason = "an accept loop")]
        let task = tokio::task::spawn_local(accept);
        Ok(Listener { spec: spec.clone(), place, local, identity, pulse, task })
    }

    /// Each listener's sign of life.
    pub fn pulses(&self) -> impl Iterator<Item = (SocketAddr, &Pulse)> {
        self.listeners.iter().map(|listener| (listener.local, &listener.pulse))
    }

    /// Where the listeners really listen, in no particular order; for tests and the log.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.local).collect()
    }

    /// Does what the core asked of the sockets; gives back what is not theirs.
    pub fn apply(&self, output: Output) -> Option<Output> {
        match output {
            Output::Send { conn, data } => {
                if let Some(outbox) = self.shared.outboxes.borrow().get(&conn) {
                    outbox.push(data);
                }
            }
            Output::Close { conn, .. } => {
                if let Some(outbox) = self.shared.outboxes.borrow().get(&conn) {
                    outbox.close();
                }
            }
            Output::Read { conn, on } => {
                if let Some(outbox) = self.shared.outboxes.borrow().get(&conn) {
                    outbox.read(on);
                }
            }
            Output::CheckPassword { conn, hash, password } => {
                #[allow(clippy::disallowed_methods, reason = "verification leaves the event loop")]
                tokio::task::spawn_local(verify(self.shared.clone(), conn, hash, password));
            }
            other @ (Output::Publish { .. } | Output::Store(_) | Output::Barrier(_) | Output::Load { .. }) => {
                return Some(other);
            }
        }
        None
    }
}

/// Whether both cannot be listened on at once.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    b.port() != 0 && a.port() == b.port() && same_ip
}

async fn verify(shared: Rc<Shared>, conn: ConnId, hash: Arc<str>, password: Secret) {
    let Ok(_permit) = shared.verifications.clone().acquire_owned().await else { return };
    if !shared.outboxes.borrow().contains_key(&conn) {
        return;
    }
    #[allow(clippy::disallowed_methods, reason = "argon2 takes tens of milliseconds: not on the event loop")]
    let verified = tokio::task::spawn_blocking(move || verify_password(&hash, &password.0)).await;
    let ok = verified.unwrap_or(false);
    let _ = shared.to_core.send(Input::PasswordChecked { conn, ok }).await;
}

fn refresh(identity: Option<&RefCell<Identity>>) {
    match identity.map(|identity| identity.borrow_mut().refresh()) {
        Some(Ok(true)) => info!("certificate read again"),
        Some(Err(error)) => warn!(%error, "the certificate stays as it was"),
        Some(Ok(false)) | None => {}
    }
}

/// Counts a socket from its accept to its end.
struct Live(Rc<Shared>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get() - 1);
    }
}

async fn accept(
    shared: Rc<Shared>,
    socket: TcpListener,
    listener: usize,
    transport: ListenerTransport,
    identity: Option<Rc<RefCell<Identity>>>,
    pulse: Pulse,
) {
    let mut checked: Option<tokio::time::Instant> = None;
    loop {
        pulse.beat(Now::read(), TURN);
        let (stream, address) = match tokio::time::timeout(pulse::IDLE, socket.accept()).await {
            Ok(Ok(accepted)) => accepted,
            Err(_) => continue,
            Ok(Err(error)) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if shared.live.get() >= shared.limits.get().max_connections {
            debug!(%address, "connection refused: max_connections reached");
            continue;
        }
        shared.live.set(shared.live.get() + 1);
        let live = Live(shared.clone());
        let now = pace(&shared).await;
        if identity.is_some() && checked.is_none_or(|at| now >= at + CERTIFICATE_CHECK) {
            checked = Some(now);
            refresh(identity.as_deref());
        }
        let tls = identity.as_ref().map(|identity| TlsAcceptor::from(identity.borrow().config()));
        #[allow(clippy::disallowed_methods, reason = "a connection's task")]
        tokio::task::spawn_local(async move {
            serve(&live.0, stream, address, listener, transport, tls).await;
        });
    }
}

/// Waits until the connection rate allows another, over all listeners; gives the time.
async fn pace(shared: &Shared) -> tokio::time::Instant {
    let now = tokio::time::Instant::from_std(Now::read().mono);
    let step = Duration::from_secs(1) / shared.limits.get().max_connection_rate.max(1);
    // Up to a second's worth may come at once.
    let earliest = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
    let slot = shared.next_accept.get().map_or(earliest, |next| next.max(earliest));
    shared.next_accept.set(Some(slot + step));
    if slot > now {
        tokio::time::sleep_until(slot).await;
    }
    now
}

async fn serve(
    shared: &Rc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    listener: usize,
    transport: ListenerTransport,
    tls: Option<TlsAcceptor>,
) {
    let limit = shared.limits.get().connect_timeout;
    // Small packets go at once; without it a PUBACK waits for the peer's delayed ACK.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "TCP_NODELAY refused");
    }
    let peer = Peer { address, listener, certificate_user: None };
    let Some(tls) = tls else { return transport_on(shared, stream, peer, transport).await };
    // In boxes, so that a plain connection's task is not as large as the largest.
    match Box::pin(tokio::time::timeout(limit, tls.accept(stream))).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
            let mut peer = peer;
            if let Some(certificate) = certificate {
                peer.certificate_user = common_name(&certificate);
                if peer.certificate_user.is_none() {
                    warn!(%address, "connection refused: its certificate has no single CN");
                    return;
                }
            }
            Box::pin(transport_on(shared, stream, peer, transport)).await;
        }
        Ok(Err(error)) => debug!(%address, %error, "TLS handshake failed"),
        Err(_) => debug!(%address, "TLS handshake took too long"),
    }
}

/// A connection that MQTT may begin on.
enum Ready<S> {
    Stream(S),
    Frames(Box<WebSocketStream<S>>),
}

async fn transport_on(
    shared: &Rc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    transport: ListenerTransport,
) {
    let limits = shared.limits.get();
    let address = peer.address;
    let stream = match transport {
        ListenerTransport::Tcp => Ready::Stream(stream),
        ListenerTransport::WebSocket => {
            let most = limits.max_packet_bytes as usize;
            let config = WebSocketConfig::default()
                .max_message_size(Some(most))
                .max_frame_size(Some(most))
                .read_buffer_size(4096)
                .write_buffer_size(0);
            let accepted = tokio_tungstenite::accept_hdr_async_with_config(stream, subprotocol, Some(config));
            match Box::pin(tokio::time::timeout(limits.connect_timeout, accepted)).await {
                Ok(Ok(stream)) => Ready::Frames(Box::new(stream)),
                Ok(Err(error)) => return debug!(%address, %error, "WebSocket handshake failed"),
                Err(_) => return debug!(%address, "WebSocket handshake took too long"),
            }
        }
    };
    let conn = ConnId(shared.next.get());
    shared.next.set(conn.0 + 1);
    let outbox = Rc::new(Outbox::default());
    shared.outboxes.borrow_mut().insert(conn, outbox.clone());
    let choke_bytes = CHOKE_BYTES.min(limits.max_outbound_bytes);
    let link = Link { conn, outbox, to_core: shared.to_core.clone(), written: shared.written.clone(), choke_bytes };
    if shared.to_core.send(Input::Connected { conn, peer }).await.is_ok() {
        match stream {
            Ready::Stream(stream) => connection::stream(&link, stream).await,
            Ready::Frames(stream) => Box::pin(connection::websocket(&link, *stream)).await,
        }
        // After the last bytes it sent; a core that closed it first takes no notice.
        let _ = shared.to_core.send(Input::Closed { conn }).await;
    }
    shared.outboxes.borrow_mut().remove(&conn);
}

/// The client must offer `mqtt` (MQTT 5, 6.0-3); old clients also say `mqttv3.1`.
#[allow(clippy::result_large_err, reason = "the library's callback has this shape")]
fn subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all("sec-websocket-protocol").iter();
    let offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim);
    for name in offered {
        let known = name == "mqtt" || name == "mqttv3.1";
        if let (true, Ok(value)) = (known, HeaderValue::from_str(name)) {
            response.headers_mut().insert("sec-websocket-protocol", value);
            return Ok(response);
        }
    }
    let mut refused = ErrorResponse::new(Some("the WebSocket subprotocol must be mqtt".to_owned()));
    *refused.status_mut() = StatusCode::BAD_REQUEST;
    Err(refused)
}

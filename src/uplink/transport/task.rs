//! Makes the connection: reads the files, resolves the name, TCP, TLS, WebSocket. No secret leaves this file but in the
//! [`Opened`] that is handed on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::super::codec::PACKET_BYTES_MAX;
use super::super::spec::{Scheme, UplinkSpec, UplinkUrl};
use super::BoxStream;
use super::ws::WsStream;

/// For name, TCP, TLS and WebSocket together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A password file larger than this is a mistake; MQTT carries 65,535 bytes.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// A connection, and the password that its CONNECT needs. No `Debug`: the password is a secret.
pub(in super::super) struct Opened {
    pub(in super::super) stream: BoxStream,
    pub(in super::super) password: Option<Vec<u8>>,
}

#[derive(Debug, Error)]
pub(crate) enum TransportError {
    #[error("{}: {reason}", .path.display())]
    File { path: PathBuf, reason: String },
    #[error("no certificate authority of the system can be used; name one with `ca`")]
    NoRoots,
    #[error("TLS set-up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0} is no name that a certificate can be checked against")]
    ServerName(String),
    #[error("connecting to {host}:{port}: {error}")]
    Connect { host: String, port: u16, error: io::Error },
    #[error("TLS with {host}: {error}")]
    Handshake { host: String, error: io::Error },
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("no connection within 10 s")]
    Timeout,
}

/// What the files say, read anew for each connection.
struct Files {
    password: Option<Vec<u8>>,
    tls: Option<Arc<ClientConfig>>,
}

pub(in super::super) async fn connect(spec: Arc<UplinkSpec>) -> Result<Opened, TransportError> {
    tokio::time::timeout(CONNECT_TIMEOUT, open(spec)).await.map_err(|_| TransportError::Timeout)?
}

async fn open(spec: Arc<UplinkSpec>) -> Result<Opened, TransportError> {
    let wanted = Arc::clone(&spec);
    #[allow(clippy::disallowed_methods, reason = "reading files, the system's certificates among them, blocks")]
    let read = tokio::task::spawn_blocking(move || read_files(&wanted)).await;
    let files = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(Opened { stream: reach(&spec.url, files.tls).await?, password: files.password })
}

/// A connection for a person who looks on: the system's certificate authorities, no certificate of one's own.
pub(crate) async fn connect_to(url: UplinkUrl) -> Result<BoxStream, TransportError> {
    let scheme = url.scheme;
    let open = async {
        #[allow(clippy::disallowed_methods, reason = "reading the system's certificates blocks")]
        let read = tokio::task::spawn_blocking(move || tls_of(scheme, None, None)).await;
        let tls = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        reach(&url, tls).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, open).await.map_err(|_| TransportError::Timeout)?
}

async fn reach(url: &UplinkUrl, tls: Option<Arc<ClientConfig>>) -> Result<BoxStream, TransportError> {
    let UplinkUrl { scheme, host, port, path } = url;
    let tcp = TcpStream::connect((host.as_str(), *port)).await;
    let tcp = tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp));
    let tcp = tcp.map_err(|error| TransportError::Connect { host: host.clone(), port: *port, error })?;
    let mut stream: BoxStream = Box::new(tcp);
    if let Some(tls) = tls {
        let name = ServerName::try_from(host.clone()).map_err(|_| TransportError::ServerName(host.clone()))?;
        let secured = TlsConnector::from(tls).connect(name, stream).await;
        stream = Box::new(secured.map_err(|error| TransportError::Handshake { host: host.clone(), error })?);
    }
    if matches!(scheme, Scheme::Ws | Scheme::Wss) {
        stream = Box::new(websocket(stream, *scheme, host, *port, path).await?);
    }
    Ok(stream)
}

async fn websocket(
    stream: BoxStream,
    scheme: Scheme,
    host: &str,
    port: u16,
    path: &str,
) -> Result<WsStream, TransportError> {
    let name = if scheme == Scheme::Wss { "wss" } else { "ws" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let failed = |e: tokio_tungstenite::tungstenite::Error| TransportError::WebSocket(e.to_string());
    let mut request = format!("{name}://{host}:{port}{path}").into_client_request().map_err(failed)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    // A frame need not be a packet: a server may put several into one.
    let largest = Some(4 * PACKET_BYTES_MAX as usize);
    let config = WebSocketConfig::default().max_message_size(largest).max_frame_size(largest);
    let (frames, _) =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.map_err(failed)?;
    Ok(WsStream::new(frames))
}

fn read_files(spec: &UplinkSpec) -> Result<Files, TransportError> {
    let password = spec.password_file.as_deref().map(read_password).transpose()?;
    let tls = tls_of(spec.url.scheme, spec.ca.as_deref(), spec.client_cert.as_ref())?;
    Ok(Files { password, tls })
}

fn tls_of(
    scheme: Scheme,
    ca: Option<&Path>,
    client_cert: Option<&(PathBuf, PathBuf)>,
) -> Result<Option<Arc<ClientConfig>>, TransportError> {
    match scheme {
        Scheme::Mqtt | Scheme::Ws => Ok(None),
        Scheme::Mqtts | Scheme::Wss => tls_config(ca, client_cert).map(|config| Some(Arc::new(config))),
    }
}

fn read_password(path: &Path) -> Result<Vec<u8>, TransportError> {
    let mut password = std::fs::read(path).map_err(|e| file_error(path, e))?;
    while password.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        password.pop();
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(file_error(path, "longer than MQTT carries, 65,535 bytes"));
    }
    Ok(password)
}

/// The provider is named, so that no process-wide default decides.
fn tls_config(ca: Option<&Path>, client_cert: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?);
    let Some((cert, key)) = client_cert else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| file_error(key, e))?;
    Ok(config.with_client_auth_cert(chain, key_der)?)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| file_error(path, e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TransportError::NoRoots);
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|e| file_error(path, e))?;
    if certificates.is_empty() {
        return Err(file_error(path, "holds no certificate"));
    }
    Ok(certificates)
}

fn file_error(path: &Path, reason: impl ToString) -> TransportError {
    TransportError::File { path: path.to_owned(), reason: reason.to_string() }
}

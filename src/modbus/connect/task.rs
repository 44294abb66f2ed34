//! Opens serial ports and connections, with messages that say what to do.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_serial::{DataBits, FlowControl, SerialStream, StopBits};

use crate::modbus::spec::{Endpoint, Parity, SerialSpec, TlsSpec};
use crate::modbus::timing::data_bits;

const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Opens a serial port for this process alone.
///
/// # Errors
/// With the path, the cause, and what to do about it.
pub fn open_serial(spec: &SerialSpec) -> io::Result<SerialStream> {
    let parity = match spec.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let transceiver = if spec.rs485 { Some(drive_rts(&spec.path)?) } else { None };
    let builder = tokio_serial::new(spec.path.to_string_lossy(), spec.baud)
        .data_bits(if data_bits(spec) == 7 { DataBits::Seven } else { DataBits::Eight })
        .parity(parity)
        .stop_bits(if spec.stop_bits == 2 { StopBits::Two } else { StopBits::One })
        .flow_control(FlowControl::None);
    let port = SerialStream::open(&builder).map_err(|error| explain(&spec.path, &io::Error::from(error)))?;
    // The mode is the port's and would be reset by a last close: this handle was held until here.
    drop(transceiver);
    Ok(port)
}

/// Lets the kernel drive RTS (TIOCSRS485), which tokio-serial has no call for.
fn drive_rts(path: &Path) -> io::Result<serial2::SerialPort> {
    let port = serial2::SerialPort::open(path, serial2::KeepSettings).map_err(|error| explain(path, &error))?;
    let mode = serial2::rs4xx::TransceiverMode::Rs485(serial2::rs4xx::Rs485Config::new());
    port.set_rs4xx_mode(mode).map_err(|error| {
        let text = format!(
            "{}: its driver cannot switch RS-485 ({error}); set rs485 = false where the adapter does it by itself",
            path.display()
        );
        io::Error::new(error.kind(), text)
    })?;
    Ok(port)
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    let path = path.display();
    let said = error.to_string().to_lowercase();
    // First, as the library calls a port that another program holds one that is not there.
    let text = if said.contains("busy") || said.contains("exclusive") {
        format!("{path} is in use by another program: stop that one first")
    } else if said.contains("typewriter") || said.contains("inappropriate ioctl") {
        format!("{path} is no serial port: is the path right?")
    } else if error.kind() == io::ErrorKind::NotFound {
        format!("{path} is not there: is the adapter plugged in, and the path right?")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("{path} may not be opened: add the user to the group that owns it (dialout), or correct its mode")
    } else {
        format!("{path}: {error}")
    };
    io::Error::new(error.kind(), text)
}

/// Connects, within five seconds.
///
/// # Errors
/// With the endpoint and the cause.
pub async fn connect(address: &Endpoint) -> io::Result<TcpStream> {
    let attempt = TcpStream::connect((address.host.as_str(), address.port));
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}:{}: {error}", address.host, address.port));
    let stream = timeout(CONNECT_MAX, attempt)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection attempt")))
        .map_err(named)?;
    stream.set_nodelay(true).map_err(named)?;
    Ok(stream)
}

/// Connects with TLS (Modbus/TCP Security).
///
/// # Errors
/// With the file or endpoint, and the cause.
pub async fn connect_tls(address: &Endpoint, spec: &TlsSpec) -> io::Result<TlsStream<TcpStream>> {
    let files = spec.clone();
    #[allow(clippy::disallowed_methods, reason = "reading the certificates must not stop the event loop")]
    let config = tokio::task::spawn_blocking(move || tls_config(&files)).await.map_err(io::Error::other)??;
    let stream = connect(address).await?;
    let named = |text: String| io::Error::other(format!("{}:{}: {text}", address.host, address.port));
    let name = ServerName::try_from(address.host.clone()).map_err(|error| named(error.to_string()))?;
    timeout(CONNECT_MAX, TlsConnector::from(Arc::new(config)).connect(name, stream))
        .await
        .map_err(|_| named("no answer to the TLS handshake".to_owned()))?
        .map_err(|error| named(error.to_string()))
}

fn tls_config(spec: &TlsSpec) -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&spec.ca)? {
        roots.add(certificate).map_err(|error| bad_file(&spec.ca, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    match (&spec.cert, &spec.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file(key, &error))?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| bad_file(cert, &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| bad_file(path, &error))?.collect();
    all.map_err(|error| bad_file(path, &error))
}

fn bad_file(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {error}", path.display()))
}

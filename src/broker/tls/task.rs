//! Reads a listener's PEM files and makes its TLS configuration; reads them again when they change.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::broker::spec::ListenerTls;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path}: {source}")]
    File { path: String, source: rustls::pki_types::pem::Error },
    #[error("{path}: holds no certificate")]
    Empty { path: String },
    #[error("{path}: {source}")]
    Certificate { path: String, source: rustls::Error },
    #[error("{path}: {source}")]
    ClientCa { path: String, source: rustls::server::VerifierBuilderError },
}

/// A listener's certificate and key as they were when last read.
#[derive(Debug)]
pub(crate) struct Identity {
    spec: ListenerTls,
    config: Arc<ServerConfig>,
    read: Vec<Option<SystemTime>>,
}

impl Identity {
    pub(crate) fn load(spec: &ListenerTls) -> Result<Self, TlsError> {
        let read = times(spec);
        Ok(Self { spec: spec.clone(), config: config(spec)?, read })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Reads the files again if one of them has another time than before. On an error what was read before stays in force.
    pub(crate) fn refresh(&mut self) -> Result<bool, TlsError> {
        let times = times(&self.spec);
        if times == self.read {
            return Ok(false);
        }
        // Remembered before it is known to load: one bad file is told once, and tried again when it changes.
        self.read = times;
        self.config = config(&self.spec)?;
        Ok(true)
    }
}

fn times(spec: &ListenerTls) -> Vec<Option<SystemTime>> {
    [Some(&spec.cert), Some(&spec.key), spec.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
        .collect()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let named = || path.display().to_string();
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::File { path: named(), source })?;
    if found.is_empty() { Err(TlsError::Empty { path: named() }) } else { Ok(found) }
}

fn config(spec: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&spec.cert)?;
    let key = PrivateKeyDer::from_pem_file(&spec.key)
        .map_err(|source| TlsError::File { path: spec.key.display().to_string(), source })?;
    let bad = |source| TlsError::Certificate { path: spec.cert.display().to_string(), source };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(bad)?;
    let builder = match &spec.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let named = || path.display().to_string();
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| TlsError::Certificate { path: named(), source })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| TlsError::ClientCa { path: named(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(chain, key).map(Arc::new).map_err(bad)
}

/// The one CN of a verified certificate; `None` when there is none, or more than one.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    (names.next().is_none() && !name.is_empty()).then_some(name)
}

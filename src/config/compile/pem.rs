//! The PEM files that a table names, read and understood before anything is started with them.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Context;
use crate::config::diagnostic::Diagnostic;
use crate::config::reader::Table;

/// The file of trusted certificates that `key` names.
pub(super) fn authorities(table: &Table<'_>, key: &str, by: &Path, cx: &Context<'_>) -> Option<PathBuf> {
    let (path, bytes) = read(table, key, by, cx)?;
    let mut roots = RootCertStore::empty();
    for certificate in bytes.and_then(|bytes| certificates(&bytes, &path, key, table, cx)).unwrap_or_default() {
        if let Err(error) = roots.add(certificate) {
            let found = format!(
                "`{key}` names {}, which holds a certificate that nothing can be checked by: {error}",
                path.display()
            );
            cx.report.error(table.place(key), found, "put the authority's own certificate there");
            break;
        }
    }
    Some(path)
}

/// The files of a certificate, with its chain, and of its private key; `keys` are the two keys of the table.
pub(super) fn identity(
    table: &Table<'_>,
    keys: (&str, &str),
    by: &Path,
    cx: &Context<'_>,
) -> (Option<PathBuf>, Option<PathBuf>) {
    let (cert, key) = (read(table, keys.0, by, cx), read(table, keys.1, by, cx));
    let chain = cert.as_ref().and_then(|(path, bytes)| certificates(bytes.as_ref()?, path, keys.0, table, cx));
    let private = key.as_ref().and_then(|(path, bytes)| private_key(bytes.as_ref()?, path, keys.1, table, cx));
    if let (Some(chain), Some(private)) = (chain, private)
        && let Err(error) = CertifiedKey::from_der(chain, private, &ring::default_provider())
    {
        let found = format!("`{}` and `{}` are no pair: {error}", keys.0, keys.1);
        cx.report.error(table.place(keys.1), found, "name the key that the certificate was made with");
    }
    (cert.map(|(path, _)| path), key.map(|(path, _)| path))
}

/// The file's path, and its bytes where it can be read; where not, that is reported.
fn read(table: &Table<'_>, key: &str, by: &Path, cx: &Context<'_>) -> Option<(PathBuf, Option<Vec<u8>>)> {
    let path = cx.beside(by, table.text(key)?);
    let bytes = cx.files.read_bytes(&path).map_err(|error| cx.unreadable(&path, &error, table.place(key), key)).ok();
    Some((path, bytes))
}

fn certificates(
    bytes: &[u8],
    path: &Path,
    key: &str,
    table: &Table<'_>,
    cx: &Context<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => no_pem("holds no certificate", "-----BEGIN CERTIFICATE-----", path, key, table, cx),
        Err(error) => no_pem(&format!("is damaged: {error}"), "-----BEGIN CERTIFICATE-----", path, key, table, cx),
    }
}

/// Nothing of the key's own bytes stands in the message (P10).
fn private_key(
    bytes: &[u8],
    path: &Path,
    key: &str,
    table: &Table<'_>,
    cx: &Context<'_>,
) -> Option<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(found) => Some(found),
        Err(_) => {
            let found = "holds no private key without a passphrase";
            no_pem(found, "-----BEGIN PRIVATE KEY-----", path, key, table, cx)
        }
    }
}

fn no_pem<T>(found: &str, begin: &str, path: &Path, key: &str, table: &Table<'_>, cx: &Context<'_>) -> Option<T> {
    cx.report.push(
        Diagnostic::error(table.place(key), format!("`{key}` names {}, which {found}", path.display()))
            .expected(format!("a PEM file with a line {begin}"))
            .help("put that file there, or correct the path"),
    );
    None
}

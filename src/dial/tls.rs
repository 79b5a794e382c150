//! TLS towards upstreams and proxies: whom we trust, and how the handshake is done.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::DialError;
use super::link::Wire;
use super::target::Host;
use crate::crypto;

/// TLS 1.2 and 1.3 with the system's roots and those in `ca_file` (PEM).
///
/// # Errors
/// [`DialError::CaFile`] when the file cannot be read, holds no certificate, or one that cannot be a root.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, DialError> {
    let mut roots = system_roots();
    if let Some(path) = ca_file {
        add_file(&mut roots, path)?;
    }
    let provider = Arc::new(crypto::provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    // HTTP/1.1 only: parallel transfers then do not share one congestion window, which over a long link is most of a cold
    // image's time, and no transfer waits behind another's flow control.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// # Errors
/// [`DialError::Tls`]; [`DialError::Target`] for a host that no certificate can be for.
pub(super) async fn handshake<W: Wire>(tls: &TlsConnector, host: &Host, wire: W) -> Result<TlsStream<W>, DialError> {
    let name = host.server_name()?;
    tls.connect(name, wire).await.map_err(|error| DialError::Tls { host: host.to_string(), why: error.to_string() })
}

/// A system without roots is no error here: `ca_file` may hold all that is needed, and plain HTTP needs none.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate authority cannot be read");
    }
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "system certificate authorities of an unknown form");
    }
    roots
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), DialError> {
    let wrong = |why: String| DialError::CaFile { path: path.to_owned(), why };
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(wrong("no certificate in PEM form".to_owned())) } else { Ok(()) }
}

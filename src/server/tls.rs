//! Certificates: several by server name, replaced while connections go on; and those that clients may show.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::ServerError;
use crate::clock::Clock;
use crate::config::{CertificateFiles, Tls};
use crate::crypto;
use crate::http::TLS_RECORD_BYTES;
use crate::identity::{Authorities, ClientCertificate};
use crate::metrics::Metrics;

/// What a TLS client may speak (RFC 7301).
const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The certificates of an edge. Clones share them, so a reload reaches every listener.
#[derive(Clone)]
pub struct Certificates(Arc<Served>);

struct Served {
    chooser: Arc<Chooser>,
    terms: RwLock<Arc<Terms>>,
    metrics: Metrics,
}

/// On what terms handshakes are made. Others come with other client authorities, and with them other keys of tickets: no session is
/// resumed in which the old ones vouched for the client.
pub(super) struct Terms {
    pub(super) config: Arc<ServerConfig>,
    client_authorities: Vec<CertificateDer<'static>>,
    http2: bool,
    in_force: Arc<Authorities>,
}

impl Terms {
    fn new(client_authorities: Vec<CertificateDer<'static>>, chooser: &Arc<Chooser>, http2: bool) -> Result<Terms, rustls::Error> {
        let provider = Arc::new(crypto::provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = if client_authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for authority in &client_authorities {
                roots.add(authority.clone())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| rustls::Error::General(error.to_string()))?)
        };
        let mut config = builder.with_cert_resolver(Arc::clone(chooser) as Arc<dyn ResolvesServerCert>);
        // In the order of preference.
        config.alpn_protocols = [HTTP_2, HTTP_1_1].iter().skip(usize::from(!http2)).map(|protocol| protocol.to_vec()).collect();
        // rustls counts a record's head in.
        config.max_fragment_size = Some(TLS_RECORD_BYTES + 5);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Terms { config: Arc::new(config), client_authorities, http2, in_force: Arc::default() })
    }

    /// What the client of a session has shown.
    pub(super) fn client_certificate(&self, session: &rustls::ServerConnection) -> Option<Arc<ClientCertificate>> {
        let shown = session.peer_certificates()?.first()?;
        ClientCertificate::read(shown, &self.in_force, Clock::system()).map(Arc::new)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads all certificates. The first is the default, for clients that name no server or one that no certificate has.
    ///
    /// TLS 1.2 and 1.3; sessions are resumed by tickets under keys that change every six hours.
    ///
    /// # Errors
    /// [`ServerError::Certificate`] names the file that cannot be read or does not fit; [`ServerError::Tls`] for anything else.
    pub fn load(tls: &Tls, metrics: Metrics) -> Result<Certificates, ServerError> {
        let chooser = Arc::new(Chooser(RwLock::new(read_all(tls, &crypto::provider(), &metrics)?)));
        let terms = Terms::new(read_client_authorities(tls)?, &chooser, tls.http2).map_err(ServerError::Tls)?;
        Ok(Certificates(Arc::new(Served { chooser, terms: RwLock::new(Arc::new(terms)), metrics })))
    }

    /// Reads all certificates again. They serve new handshakes; connections that are open do not notice. With other authorities for
    /// clients' certificates those of the old ones do not count any more, whatever the connection.
    ///
    /// # Errors
    /// As [`load`](Self::load); then the old certificates stay.
    pub fn reload(&self, tls: &Tls) -> Result<(), ServerError> {
        let Served { chooser, metrics, .. } = &*self.0;
        match self.read_again(tls) {
            Err(error) => {
                metrics.reload("certificate", "rejected");
                Err(error)
            }
            Ok((fresh, terms)) => {
                let mut served = chooser.0.write().unwrap_or_else(PoisonError::into_inner);
                let outcome = if *served == fresh && terms.is_none() { "unchanged" } else { "applied" };
                *served = fresh;
                if let Some(terms) = terms {
                    *self.0.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
                }
                metrics.reload("certificate", outcome);
                Ok(())
            }
        }
    }

    /// The certificates, and new terms if those in force do not do any more.
    fn read_again(&self, tls: &Tls) -> Result<(Vec<Entry>, Option<Terms>), ServerError> {
        let Served { chooser, metrics, .. } = &*self.0;
        let terms = self.terms();
        let fresh = read_all(tls, terms.config.crypto_provider(), metrics)?;
        let client_authorities = read_client_authorities(tls)?;
        if client_authorities == terms.client_authorities && tls.http2 == terms.http2 {
            return Ok((fresh, None));
        }
        let terms = Terms::new(client_authorities, chooser, tls.http2).map_err(ServerError::Tls)?;
        Ok((fresh, Some(terms)))
    }

    pub(super) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.0.terms.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The authorities that clients' certificates may come from; none at all where clients are not asked for any.
fn read_client_authorities(tls: &Tls) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let Some(file) = &tls.client_ca_file else { return Ok(Vec::new()) };
    let refused = |reason: String| ServerError::Certificate { file: file.clone(), reason };
    let authorities = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let authorities = authorities.map_err(|error| refused(error.to_string()))?;
    if authorities.is_empty() {
        return Err(refused("it holds no certificate".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        roots.add(authority.clone()).map_err(|error| refused(error.to_string()))?;
    }
    Ok(authorities)
}

/// One certificate with its key and the names it is for, in lower case.
#[derive(Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key.cert == other.key.cert
    }
}

/// Chooses by server name: an exact name first, then a wildcard, then the default.
#[derive(Debug)]
struct Chooser(RwLock<Vec<Entry>>);

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let entry = asked.and_then(|name| choose(&entries, &name)).or_else(|| entries.first());
        entry.map(|entry| Arc::clone(&entry.key))
    }
}

/// A wildcard stands for exactly one label (RFC 9525 section 6.3).
fn choose<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let wildcard = name.split_once('.').map(|(_, domain)| format!("*.{domain}"));
    let find = |wanted: &str| entries.iter().find(|entry| entry.names.iter().any(|name| name == wanted));
    find(name).or_else(|| wildcard.as_deref().and_then(find))
}

fn read_all(tls: &Tls, provider: &CryptoProvider, metrics: &Metrics) -> Result<Vec<Entry>, ServerError> {
    let read: Vec<(Entry, i64)> = tls.certificates.iter().map(|files| read(files, provider)).collect::<Result<_, _>>()?;
    if read.is_empty() {
        return Err(ServerError::Tls(rustls::Error::NoCertificatesPresented));
    }
    let place = |index: usize| index.checked_sub(1).map_or_else(|| "tls".to_owned(), |also| format!("tls.also[{also}]"));
    for (index, (_, expiry_unix_s)) in read.iter().enumerate() {
        metrics.certificate_expiry(&place(index), *expiry_unix_s);
    }
    Ok(read.into_iter().map(|(entry, _)| entry).collect())
}

/// Reads one certificate chain with its key, and when its first certificate ends.
fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<(Entry, i64), ServerError> {
    let refused = |file: &std::path::Path| {
        let file = file.to_owned();
        move |reason: String| ServerError::Certificate { file, reason }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused(&files.cert_file)(error.to_string()))?;
    let first = chain.first().ok_or_else(|| refused(&files.cert_file)("it holds no certificate".to_owned()))?;
    let (names, expiry_unix_s) = look_into(first).map_err(refused(&files.cert_file))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|error| refused(&files.key_file)(error.to_string()))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| refused(&files.key_file)(error.to_string()))?;
    Ok((Entry { key: Arc::new(key), names }, expiry_unix_s))
}

/// The DNS names of a certificate, and when it ends.
fn look_into(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let alternatives = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok((names.collect(), parsed.validity().not_after.timestamp()))
}

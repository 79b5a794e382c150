//! A certificate authority of the test's own.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

/// Issues certificates that only its own clients trust.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM files hold them.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        Authority { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these host names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, Vec::new())
    }

    /// With further alternative names.
    pub fn issue_with(&self, names: &[&str], more: Vec<SanType>) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("proper names");
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.subject_alt_names.extend(more);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// A client that trusts this authority only.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusting().with_no_client_auth())
    }

    /// The same, which shows a certificate of its own.
    pub fn client_showing(&self, own: &Pair) -> Arc<ClientConfig> {
        let (chain, key) = own.parts();
        Arc::new(self.trusting().with_client_auth_cert(chain, key).expect("our own pair"))
    }

    fn trusting(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("our own certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("the provider's versions");
        config.with_root_certificates(roots)
    }
}

impl Pair {
    pub fn server(&self) -> Arc<ServerConfig> {
        let (chain, key) = self.parts();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("the provider's versions");
        Arc::new(config.with_no_client_auth().with_single_cert(chain, key).expect("our own pair"))
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().expect("our own PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("our own PEM");
        (chain, key)
    }
}

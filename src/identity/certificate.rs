//! Client certificates: what one says of its holder, and which principal that is.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::access::{CertificateName, Principal};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::oci::Digest;

/// Alternative names of one certificate that are looked at, at most.
const MAX_NAMES: usize = 64;

/// The authorities that certificates are accepted from, for as long as they are: what they issued counts no longer than this exists.
#[derive(Debug, Default)]
pub struct Authorities(());

/// A certificate that a client has shown: its chain was verified, and that the client has its key.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// Those that say most of it first.
    names: Vec<CertificateName>,
    valid_until: Timestamp,
    issued_by: Weak<Authorities>,
    clock: Clock,
}

impl ClientCertificate {
    /// Reads one in its DER form. `None` for what cannot be read: it names nobody.
    pub fn read(der: &[u8], issued_by: &Arc<Authorities>, clock: Clock) -> Option<ClientCertificate> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()?;
        let alternatives = alternatives.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES);
        let mut names: Vec<CertificateName> = alternatives
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(CertificateName::Uri((*uri).to_owned())),
                GeneralName::DNSName(name) => Some(CertificateName::Dns(name.to_ascii_lowercase())),
                _ => None,
            })
            .collect();
        names.push(CertificateName::Fingerprint(Digest::sha256(der)));
        let mut common_names = parsed.subject().iter_common_name().map(|name| name.as_str());
        // Of several nobody could say which one is meant.
        if let (Some(Ok(name)), None) = (common_names.next(), common_names.next()) {
            names.push(CertificateName::CommonName(name.to_owned()));
        }
        names.sort();
        let valid_until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default().saturating_mul(1000);
        Some(ClientCertificate { names, valid_until: Timestamp::from_ms(valid_until), issued_by: Arc::downgrade(issued_by), clock })
    }

    /// Whether it still proves anything. A connection, or a TLS session that is resumed, can outlive both.
    fn is_valid(&self) -> bool {
        self.issued_by.strong_count() > 0 && self.clock.now() < self.valid_until
    }
}

/// The principals that can prove who they are by a certificate.
#[derive(Debug)]
pub(super) struct Certified(HashMap<CertificateName, Arc<str>>);

impl Certified {
    pub(super) fn new(principals: &[config::Principal]) -> Certified {
        let names = principals.iter().flat_map(|principal| {
            let name: Arc<str> = principal.name.as_str().into();
            principal.certificates.iter().map(move |certificate| (certificate.clone(), name.clone()))
        });
        Certified(names.collect())
    }

    /// `None` for a certificate that is nobody's here, or counts no longer.
    pub(super) fn find(&self, certificate: &ClientCertificate) -> Option<Principal> {
        let known = certificate.names.iter().find_map(|name| self.0.get(name)).filter(|_| certificate.is_valid());
        known.map(|name| Principal::Named(name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn der(common_names: &[&str], alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = alternatives;
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn principal(name: &str, certificates: &[&str]) -> config::Principal {
        let certificates = certificates.iter().map(|text| text.parse().unwrap()).collect();
        config::Principal { name: name.to_owned(), passwords: Vec::new(), certificates, pull: Vec::new(), push: Vec::new() }
    }

    #[test]
    fn the_name_that_says_most_counts() {
        let alternatives = vec![SanType::DnsName("CI.example.com".try_into().unwrap()), SanType::URI("spiffe://x/ci".try_into().unwrap())];
        let der = der(&["ci"], alternatives);
        let fingerprint = Digest::sha256(&der).to_string();
        let (authorities, clock) = (Arc::new(Authorities::default()), Clock::manual(Timestamp::from_ms(0)));
        let certificate = ClientCertificate::read(&der, &authorities, clock).unwrap();
        let all = [fingerprint.as_str(), "spiffe://x/ci", "dns:ci.example.com", "CN=ci"];
        for first in 0..all.len() {
            let principals: Vec<_> = all[first..].iter().map(|name| principal(name, &[name])).collect();
            let found = Certified::new(&principals).find(&certificate);
            assert_eq!(found, Some(Principal::Named(all[first].into())));
        }
        for stranger in ["CN=CI", "dns:example.com", "spiffe://x/c", "CN=ci.example.com"] {
            assert_eq!(Certified::new(&[principal("x", &[stranger])]).find(&certificate), None, "{stranger}");
        }
    }

    #[test]
    fn it_counts_until_it_ends_and_while_its_authorities_do() {
        let certified = Certified::new(&[principal("ci", &["CN=ci"])]);
        let (authorities, clock) = (Arc::new(Authorities::default()), Clock::manual(Timestamp::from_ms(1_893_455_999_000)));
        let certificate = ClientCertificate::read(&der(&["ci"], Vec::new()), &authorities, clock.clone()).unwrap();
        assert!(certified.find(&certificate).is_some());
        clock.advance(Duration::from_secs(1));
        assert_eq!(certified.find(&certificate), None, "from 2030 on");

        let certificate = ClientCertificate { clock: Clock::manual(Timestamp::from_ms(0)), ..certificate };
        assert!(certified.find(&certificate).is_some());
        drop(authorities);
        assert_eq!(certified.find(&certificate), None);
    }

    #[test]
    fn what_cannot_be_read_names_nobody() {
        let authorities = Arc::new(Authorities::default());
        for bytes in [&b""[..], b"certificate", &der(&["ci"], Vec::new())[1..]] {
            assert!(ClientCertificate::read(bytes, &authorities, Clock::system()).is_none());
        }
    }
}

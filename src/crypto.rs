//! The cryptography of TLS: aws-lc's, and for AES-GCM ring's where that is faster.
//!
//! AES over 256 bits at a time (VAES) is in processors with AVX-512 and in some without: AMD's Zen 3, Intel's of the client kind. aws-lc
//! has code for the first only and takes one block at a time on the others; ring has code for both. Sealing records of 16 KiB with
//! AES-128-GCM on a Zen 3, GB/s: aws-lc 4.0, ring 7.3. With AVX-512 aws-lc is faster: 12.3, ring 8.7. All else (handshakes, ChaCha20) is
//! aws-lc's everywhere, and what is offered and preferred is the same.

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{CipherSuite, SupportedCipherSuite};

/// What TLS is done with on this processor. It is handed to whoever needs it: a process-wide default would be static state.
pub fn provider() -> CryptoProvider {
    with_aes_of_ring(ring_seals_faster())
}

fn with_aes_of_ring(wanted: bool) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if wanted {
        for suite in provider.cipher_suites.iter_mut().filter(|suite| is_aes_gcm(suite.suite())) {
            *suite = same_of_ring(suite.suite()).unwrap_or(*suite);
        }
    }
    provider
}

fn same_of_ring(wanted: CipherSuite) -> Option<SupportedCipherSuite> {
    ring::ALL_CIPHER_SUITES.iter().copied().find(|suite| suite.suite() == wanted)
}

fn is_aes_gcm(suite: CipherSuite) -> bool {
    use CipherSuite as Suite;
    matches!(
        suite,
        Suite::TLS13_AES_128_GCM_SHA256
            | Suite::TLS13_AES_256_GCM_SHA384
            | Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            | Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
    )
}

#[cfg(target_arch = "x86_64")]
fn ring_seals_faster() -> bool {
    let has_vector_aes = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("avx2");
    has_vector_aes && !is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn ring_seals_faster() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    #[test]
    fn what_is_offered_does_not_depend_on_who_seals() {
        let offered = |provider: CryptoProvider| provider.cipher_suites.iter().map(|suite| suite.suite()).collect::<Vec<_>>();
        let (ours, theirs) = (with_aes_of_ring(true), with_aes_of_ring(false));
        let replaced = ours.cipher_suites.iter().zip(&theirs.cipher_suites).filter(|(our, their)| !is_one(our, their)).count();
        assert_eq!((replaced, offered(ours)), (6, offered(theirs)));
    }

    /// Suites count as equal by their names alone.
    fn is_one(one: &SupportedCipherSuite, other: &SupportedCipherSuite) -> bool {
        match (one, other) {
            (SupportedCipherSuite::Tls12(one), SupportedCipherSuite::Tls12(other)) => std::ptr::eq(*one, *other),
            (SupportedCipherSuite::Tls13(one), SupportedCipherSuite::Tls13(other)) => std::ptr::eq(*one, *other),
            _ => false,
        }
    }

    /// Each suite of AES-GCM with each implementation at each end, in both versions: what one seals the other opens.
    #[test]
    fn either_end_understands_the_other() {
        for suite in with_aes_of_ring(true).cipher_suites.iter().map(|suite| suite.suite()).filter(|suite| is_aes_gcm(*suite)) {
            for (server, client) in [(true, false), (false, true), (true, true)] {
                assert_eq!(conversation(suite, server, client), (suite, b"a question".to_vec(), vec![7; 100_000]), "{server} {client}");
            }
        }
    }

    fn conversation(suite: CipherSuite, server: bool, client: bool) -> (CipherSuite, Vec<u8>, Vec<u8>) {
        let only = |of_ring| {
            let mut provider = with_aes_of_ring(of_ring);
            provider.cipher_suites.retain(|offered| offered.suite() == suite);
            let version = if provider.cipher_suites[0].tls13().is_some() { &TLS13 } else { &TLS12 };
            (Arc::new(provider), [version])
        };
        let is_rsa = format!("{suite:?}").contains("ECDHE_RSA");
        let key = rcgen::KeyPair::generate_for(if is_rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 }).unwrap();
        let certificate = rcgen::CertificateParams::new(["edge".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let ((server, versions), (client, _)) = (only(server), only(client));
        let server = ServerConfig::builder_with_provider(server).with_protocol_versions(&versions).unwrap().with_no_client_auth();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = server.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let client = ClientConfig::builder_with_provider(client).with_protocol_versions(&versions).unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), "edge".try_into().unwrap()).unwrap();
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        client.writer().write_all(b"a question").unwrap();
        server.set_buffer_limit(None);
        server.writer().write_all(&[7; 100_000]).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            take(&mut server, &wire, &mut asked);
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            take(&mut client, &wire, &mut answered);
        }
        (client.negotiated_cipher_suite().unwrap().suite(), asked, answered)
    }

    fn take<S>(end: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>, mut wire: &[u8], plain: &mut Vec<u8>) {
        while !wire.is_empty() {
            end.read_tls(&mut wire).unwrap();
            end.process_new_packets().unwrap();
            // Nothing more is there for now.
            let _ = end.reader().read_to_end(plain);
        }
    }
}

//! Which certificate is served, and what a reload does.

use super::*;

/// Whether a client that trusts only this certificate is satisfied when it asks for `name`.
async fn trusts(edge: &Edge, identity: &Identity, name: &str) -> bool {
    tls_connect(edge, &identity.certificate, name, &[]).await.is_ok()
}

#[tokio::test]
async fn the_server_name_chooses() {
    let (first, exact, wildcard) = (Identity::new(&["edge.test"]), Identity::new(&["a.hub.test"]), Identity::new(&["*.Hub.test"]));
    let tls = Tls { certificates: vec![first.files(), wildcard.files(), exact.files()], client_ca_file: None, http2: true };
    let metrics = Metrics::new();
    let certificates = Certificates::load(&tls, metrics.clone()).unwrap();
    let edge = Edge::start(Mode::Tls(certificates), patient(), metrics).await;
    assert!(trusts(&edge, &first, "edge.test").await);
    assert!(trusts(&edge, &exact, "a.hub.test").await, "an exact name goes before a wildcard");
    assert!(trusts(&edge, &wildcard, "b.hub.test").await);
    assert!(!trusts(&edge, &wildcard, "c.b.hub.test").await, "a wildcard is one label");
    for place in ["tls", "tls.also[0]", "tls.also[1]"] {
        assert!(edge.metrics.render().contains(&format!("expiry_timestamp_seconds{{certificate=\"{place}\"}} ")), "{place}");
    }
}

#[tokio::test]
async fn the_service_learns_who_came_and_for_which_name() {
    let (edge, identity) = Edge::tls(patient()).await;
    let mut stream = tls_connect(&edge, &identity.certificate, "EDGE.test", &["http/1.1"]).await.unwrap();
    let local = stream.get_ref().0.local_addr().unwrap();
    stream.write_all(b"GET /connection HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    let expected = Connection { tls: true, server_name: Some("edge.test".to_owned()), ..Connection::plain(local) };
    assert!(answer.ends_with(&format!("{expected:?}")), "{answer}");
}

/// Bodies are in smaller blocks then, and less is sealed ahead: see `tests/bench/run --long --only memory`.
#[tokio::test]
async fn the_service_learns_that_there_are_many() {
    let (edge, identity) = Edge::tls(patient()).await;
    for (others, crowded) in [(255, false), (256, true), (10_000, true), (0, false)] {
        edge.metrics.connections.set(others);
        let mut stream = tls_connect(&edge, &identity.certificate, "edge.test", &["http/1.1"]).await.unwrap();
        stream.write_all(b"GET /connection HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.contains(&format!("crowded: {crowded}")), "{others}: {answer}");
    }
}

#[tokio::test]
async fn http2_is_offered_before_http1_unless_the_configuration_says_no() {
    let identity = Identity::new(&["edge.test"]);
    let (both, one) = (identity.tls(), Tls { http2: false, ..identity.tls() });
    let certificates = Certificates::load(&both, Metrics::new()).unwrap();
    let edge = Edge::start(Mode::Tls(certificates.clone()), patient(), Metrics::new()).await;
    for (tls, spoken) in [(&both, &b"h2"[..]), (&one, b"http/1.1"), (&both, b"h2")] {
        certificates.reload(tls).unwrap();
        let stream = tls_connect(&edge, &identity.certificate, "edge.test", &["http/1.1", "h2"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(spoken));
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let (edge, identity) = Edge::tls(patient()).await;
    let connector = connector(&identity.certificate, &["http/1.1"]);
    for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let name = ServerName::try_from("edge.test").unwrap();
        let mut stream = connector.connect(name, edge.connect().await).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        read_to_end(&mut stream).await;
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
    }
}

#[tokio::test]
async fn a_bad_certificate_is_told_by_its_file() {
    let (one, other) = (Identity::new(&["a.test"]), Identity::new(&["b.test"]));
    let swapped = CertificateFiles { cert_file: one.files().cert_file, key_file: other.files().key_file };
    let absent = CertificateFiles { cert_file: one.dir.path().join("absent"), ..one.files() };
    let no_key = CertificateFiles { key_file: one.files().cert_file, ..one.files() };
    let empty = CertificateFiles { cert_file: one.files().key_file, ..one.files() };
    for (files, told) in [
        (swapped, other.files().key_file),
        (absent, one.dir.path().join("absent")),
        (no_key, one.files().cert_file),
        (empty, one.files().key_file),
    ] {
        match Certificates::load(&Tls { certificates: vec![files], client_ca_file: None, http2: true }, Metrics::new()) {
            Err(super::super::ServerError::Certificate { file, .. }) => assert_eq!(file, told),
            other => panic!("{told:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_bad_reload_keeps_the_old_certificate() {
    let identity = Identity::new(&["edge.test"]);
    let metrics = Metrics::new();
    let certificates = Certificates::load(&identity.tls(), metrics.clone()).unwrap();
    let edge = Edge::start(Mode::Tls(certificates.clone()), patient(), metrics).await;
    certificates.reload(&identity.tls()).unwrap();
    std::fs::write(identity.files().cert_file, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n").unwrap();
    assert!(certificates.reload(&identity.tls()).is_err());
    assert!(trusts(&edge, &identity, "edge.test").await);
    for outcome in ["unchanged", "rejected"] {
        assert!(edge.counts(&format!("outport_config_reloads_total{{outcome=\"{outcome}\",what=\"certificate\"}} 1")), "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_fails_no_request() {
    let old = Identity::new(&["edge.test"]);
    let metrics = Metrics::new();
    let certificates = Certificates::load(&old.tls(), metrics.clone()).unwrap();
    let edge = Arc::new(Edge::start(Mode::Tls(certificates.clone()), patient(), metrics).await);
    let old_certificate = old.certificate.clone();
    let new = old.replaced(&["edge.test"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(old_certificate.clone()).unwrap();
    roots.add(new.certificate.clone()).unwrap();
    let mut kept = tls_connect(&edge, &old_certificate, "edge.test", &[]).await.unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (edge, connector) = (Arc::clone(&edge), connector.clone());
            tokio::spawn(async move {
                for _ in 0..30 {
                    let name = ServerName::try_from("edge.test").unwrap();
                    let mut stream = connector.connect(name, edge.connect().await).await.unwrap();
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
                    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    certificates.reload(&new.tls()).unwrap();
    for client in clients {
        client.await.unwrap();
    }
    assert!(trusts(&edge, &new, "edge.test").await);
    assert!(tls_connect(&edge, &old_certificate, "edge.test", &[]).await.is_err());
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut kept).await.starts_with("HTTP/1.1 200"), "a connection under the old certificate goes on");
}

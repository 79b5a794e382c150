//! An OpenID Connect provider by hand, and the tokens that it signs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use outport::clock::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::wire::read_head;

/// What its tokens are for.
pub const AUDIENCE: &str = "outport-tests";

/// A running provider; it ends with the test's runtime.
#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Those that it has had, the last of which signs. Each is called by its place.
    keys: Mutex<Vec<EcdsaKeyPair>>,
    is_down: AtomicBool,
    asked_for_keys: AtomicUsize,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Provider {
    pub async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let provider = Provider { address: listener.local_addr().expect("it is bound"), state: Arc::default() };
        provider.rotate();
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                // Whoever hangs up has its own reasons.
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        provider
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The configuration's table, with further lines.
    pub fn table(&self, lines: &str) -> String {
        format!("[[oidc]]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\n{lines}", self.issuer())
    }

    /// From now on another key signs.
    pub fn rotate(&self) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        self.state.keys.lock().expect("no panic meanwhile").push(key);
    }

    /// Whether it answers nothing but 503.
    pub fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
    }

    pub fn asked_for_keys(&self) -> usize {
        self.state.asked_for_keys.load(Ordering::SeqCst)
    }

    /// Claims of somebody, good for ten minutes.
    pub fn claims(&self, name: &str, groups: &[&str]) -> Value {
        let now = Clock::system().now().as_ms() / 1_000;
        json!({ "iss": self.issuer(), "aud": AUDIENCE, "sub": name, "groups": groups, "iat": now, "exp": now + 600 })
    }

    /// A token of somebody.
    pub fn token(&self, name: &str, groups: &[&str]) -> String {
        self.sign(&self.claims(name, groups))
    }

    pub fn sign(&self, claims: &Value) -> String {
        let last = self.state.keys.lock().expect("no panic meanwhile").len() - 1;
        self.sign_as(&last.to_string(), claims)
    }

    /// With the present key, called by another name.
    pub fn sign_as(&self, key_id: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": key_id });
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let keys = self.state.keys.lock().expect("no panic meanwhile");
        let signature = keys.last().expect("there is one").sign(&SystemRandom::new(), message.as_bytes()).expect("it signs");
        format!("{message}.{}", encode(signature))
    }

    fn key_set(&self) -> Value {
        let keys = self.state.keys.lock().expect("no panic meanwhile");
        let jwk = |(id, key): (usize, &EcdsaKeyPair)| {
            let point = key.public_key().as_ref();
            let (x, y) = point[1..].split_at(32);
            json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id.to_string(), "x": encode(x), "y": encode(y) })
        };
        json!({ "keys": keys.iter().enumerate().map(jwk).collect::<Vec<_>>() })
    }

    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufStream::new(stream);
        while let Some(head) = read_head(&mut stream).await? {
            let path = head.start.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match path {
                _ if self.state.is_down.load(Ordering::SeqCst) => (503, Value::Null),
                "/.well-known/openid-configuration" => {
                    (200, json!({ "issuer": self.issuer(), "jwks_uri": format!("{}/keys", self.issuer()) }))
                }
                "/keys" => {
                    self.state.asked_for_keys.fetch_add(1, Ordering::SeqCst);
                    (200, self.key_set())
                }
                _ => (404, Value::Null),
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}

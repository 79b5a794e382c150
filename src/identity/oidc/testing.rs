//! A provider played by hand, with keys of its own.

use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config;
use crate::upstream::testing::{Origin, Reply, reply};

pub const AUDIENCE: &str = "registry.example.com";

/// A private key.
pub struct Signer {
    pub id: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub fn rsa(id: &'static str) -> Signer {
        Signer { id, pair: Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub fn ec(id: &'static str) -> Signer {
        Signer { id, pair: Pair::Ec(Box::new(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())) }
    }

    /// The public key. One of 2048 bits has its modulus and exponent always at the same places of its DER form (RFC 8017, A.1.1).
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let der = pair.public_key().as_ref();
                json!({ "kty": "RSA", "kid": self.id, "n": encode(&der[9..265]), "e": encode(&der[267..270]) })
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "kid": self.id, "x": encode(&point[1..33]), "y": encode(&point[33..65]) })
            }
        }
    }

    /// What somebody has who takes the public key for a shared secret.
    pub fn public_der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token with the usual header.
    pub fn token(&self, claims: &Value) -> String {
        let algorithm = if matches!(self.pair, Pair::Rsa(_)) { "RS256" } else { "ES256" };
        self.signed(&json!({ "alg": algorithm, "kid": self.id, "typ": "JWT" }), claims)
    }

    /// Signed as the header says, if the key can.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match header["alg"].as_str() {
                    Some("PS256") => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", encode(signature))
    }
}

/// A provider on a socket of this machine.
pub struct Played {
    pub origin: Origin,
    /// What it answers about its keys; `None`: it is out of order.
    pub keys: Arc<Mutex<Option<Value>>>,
}

impl Played {
    /// With these keys.
    pub async fn start(signers: &[&Signer]) -> Played {
        let keys: Arc<Mutex<Option<Value>>> = Arc::default();
        let (told, place) = (keys.clone(), Arc::new(Mutex::new(String::new())));
        let own = place.clone();
        let origin = Origin::start(move |seen| answer(&seen.target, &own.lock().unwrap(), told.lock().unwrap().as_ref())).await;
        *place.lock().unwrap() = format!("http://{}", origin.address);
        let played = Played { origin, keys };
        played.publish(signers);
        played
    }

    pub fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = Some(json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }));
    }

    pub fn break_down(&self) {
        *self.keys.lock().unwrap() = None;
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.origin.address)
    }

    pub fn settings(&self) -> config::Oidc {
        config::Oidc {
            issuer: self.issuer(),
            audience: AUDIENCE.to_owned(),
            client_id: None,
            scope: "openid".to_owned(),
            groups_claim: "groups".to_owned(),
            name_claim: "preferred_username".to_owned(),
            prefix: String::new(),
            ca_file: None,
            private_networks: Vec::new(),
        }
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> usize {
        self.origin.requests().iter().filter(|request| *request == "GET /keys").count()
    }

    /// Of somebody called `ann`, good for ten minutes from now on.
    pub fn claims(&self, clock: &Clock) -> Value {
        let now = clock.now().as_ms() / 1_000;
        json!({
            "iss": self.issuer(), "aud": AUDIENCE, "sub": "1", "iat": now, "nbf": now, "exp": now + 600,
            "preferred_username": "ann", "groups": ["builders", "all of us"],
        })
    }
}

fn answer(target: &str, issuer: &str, keys: Option<&Value>) -> Reply {
    match (target, keys) {
        (_, None) => reply(503, "out of order"),
        ("/keys", Some(keys)) => reply(200, keys.to_string()),
        ("/.well-known/openid-configuration", _) => {
            let description = json!({
                "issuer": issuer, "jwks_uri": format!("{issuer}/keys"),
                "device_authorization_endpoint": format!("{issuer}/device"), "token_endpoint": format!("{issuer}/token"),
            });
            reply(200, description.to_string())
        }
        _ => reply(404, ""),
    }
}

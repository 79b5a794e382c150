//! A receiver of webhooks by hand: it verifies signatures, and fails, hangs or is away as a test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use outport::clock::Clock;
use serde_json::Value;

use super::edge::Settings;
use super::inbox::Inbox;
use super::wire::Head;

/// What signs.
const SECRET: &str = "a secret of the receiver";
/// How old a signature may be.
const MAX_AGE: Duration = Duration::from_secs(60);

/// A running receiver; it ends with the test's runtime.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    inbox: Inbox,
    got: Arc<Mutex<Vec<Got>>>,
}

/// One request, which was signed as it should be.
#[derive(Clone, Debug)]
pub struct Got {
    pub event: Value,
    /// What it was answered; `None` while it hangs.
    pub status: Option<u16>,
}

impl Got {
    pub fn id(&self) -> &str {
        self.event["id"].as_str().expect("an event has an id")
    }
}

impl Receiver {
    pub async fn start() -> Receiver {
        Receiver::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(address: SocketAddr) -> Receiver {
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let gathered = got.clone();
        let inbox = Inbox::open(address, move |head, body, status| {
            let event = verified(head, body);
            gathered.lock().expect("no panic meanwhile").push(Got { event, status });
        });
        let inbox = inbox.await;
        Receiver { address: inbox.address, inbox, got }
    }

    /// The file that its tables name.
    pub fn secret(settings: &Settings) -> PathBuf {
        settings.file("webhook-secret", SECRET)
    }

    /// The configuration's table, with further lines.
    pub fn table(&self, settings: &Settings, lines: &str) -> String {
        let secret = Receiver::secret(settings);
        format!("[[webhook]]\nname = \"hook\"\nurl = \"http://{}/hook?x=1\"\nsecret_file = \"{}\"\n{lines}", self.address, secret.display())
    }

    /// The next requests are answered so; those after them with 200.
    pub fn answer(&self, statuses: &[u16]) {
        self.inbox.answer(statuses);
    }

    /// Whether requests are read and never answered. Those that hang already go on hanging until their client gives up.
    pub fn set_hanging(&self, is_hanging: bool) {
        self.inbox.set_hanging(is_hanging);
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().expect("no panic meanwhile").clone()
    }

    /// The events of an action that were taken, each once, in the order in which they came first.
    pub fn taken(&self, action: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        for got in self.got() {
            let is_new = events.iter().all(|event| event["id"] != got.event["id"]);
            if is_new && got.event["action"] == action && got.status.is_some_and(|status| status < 300) {
                events.push(got.event);
            }
        }
        events
    }
}

/// The event, if the request is what Standard Webhooks says; else the test's receiver panics, and the event never counts as taken.
fn verified(head: &Head, body: &[u8]) -> Value {
    let header = |name: &str| head.header(name).unwrap_or_else(|| panic!("no {name} in {head:?}"));
    assert_eq!(head.start, "POST /hook?x=1 HTTP/1.1");
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let sent = Duration::from_secs(timestamp.parse().expect("a number of seconds"));
    let now = Duration::from_millis(Clock::system().now().as_ms());
    assert!(now.abs_diff(sent) < MAX_AGE, "signed at {sent:?}, which is not {now:?}");
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let expected = BASE64_STANDARD.encode(sign(&Key::new(HMAC_SHA256, SECRET.as_bytes()), &signed));
    assert_eq!(header("webhook-signature"), format!("v1,{expected}"));
    assert_eq!(header("content-type"), "application/json");
    assert!(header("user-agent").starts_with("outport/"), "{head:?}");
    let event: Value = serde_json::from_slice(body).expect("an event is JSON");
    assert_eq!(event["id"], id);
    event
}

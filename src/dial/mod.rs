//! Outgoing connections: resolver, address policy, TLS, proxies, pool.
//!
//! One [`Client`] for each upstream and one for the siblings, with its own pool, policy and roots; one [`Resolver`] for all. A client
//! follows no redirect, adds no credential but the proxy's, to the proxy, and never retries a request that the server may have seen.

mod connect;
mod error;
mod link;
mod policy;
mod proxy;
mod resolve;
mod target;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use connect::Connector;
pub use error::{DialError, Sent, Wait};
use policy::Policy;
pub use proxy::Proxies;
pub use resolve::{Freshness, Resolver};
use target::{Host, Target, Transport};

use crate::clock::Clock;
use crate::metrics::Metrics;

/// By what all that is outside is reached.
#[derive(Clone)]
pub struct Outside {
    pub resolver: Resolver,
    pub proxies: Proxies,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// Registries and load balancers close idle connections after 60 s and more; ours go first, so that few requests meet a
/// connection that is about to close.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// How one upstream, or the siblings, are dialled.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Certificate authorities beside the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// Networks outside the public internet that may be dialled.
    pub private_networks: Vec<IpNet>,
    /// The hosts that the configuration writes literally, as in its URLs, IPv6 with or without brackets. An address literal or
    /// `localhost` among them may be dialled by itself, wherever it is; a DNS name opens nothing.
    pub named_hosts: Vec<String>,
    /// For resolution, TCP, proxy and TLS together; also the longest wait for one of `max_connections`.
    pub connect_timeout: Duration,
    /// From having a connection to the head of the answer.
    pub read_timeout: Duration,
    /// Requests that wait for a connection or a head at one time, at most.
    pub max_connections: usize,
    /// Idle connections kept for each host, at most. With none, each request finds out whether its peer still takes connections.
    pub max_idle: usize,
    /// The name that certificates must be for, in place of the host that is dialled.
    pub server_name: Option<String>,
}

/// Sends requests to one upstream and to the hosts that it refers to. Clones share one pool.
///
/// Bodies of requests are of type `B`; one that streams is never sent again, since a request goes to another connection only where
/// its body was not touched.
///
/// Bodies of answers are not counted against `max_connections`: who reads bodies bounds them, since a reader that holds a slot while it
/// asks for a token could block itself.
#[derive(Clone, Debug)]
pub struct Client<B = Full<Bytes>> {
    http: legacy::Client<Connector, B>,
    proxies: Proxies,
    slots: Arc<Semaphore>,
    connect_timeout: Duration,
    read_timeout: Duration,
}

impl<B> Client<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// # Errors
    /// [`DialError::CaFile`]
    pub fn new(settings: Settings, resolver: Resolver, proxies: Proxies) -> Result<Client<B>, DialError> {
        let tls = tls::connector(settings.ca_file.as_deref())?;
        let policy = Policy::new(settings.private_networks, &settings.named_hosts);
        let named = settings.server_name.as_deref().map(Host::parse_name).transpose()?;
        let connector = Connector::new(policy, resolver, proxies.clone(), (tls, named), settings.connect_timeout);
        // retry_canceled_requests stays on, as it is by default: a request that met a closing connection before its first byte
        // was written goes to another one.
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.max_idle)
            .build(connector);
        Ok(Client {
            http,
            proxies,
            slots: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            connect_timeout: settings.connect_timeout,
            read_timeout: settings.read_timeout,
        })
    }

    /// Sends a request whose URI is absolute and returns when the head of its answer is here. The body has no time limit: its
    /// reader sets one. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// Any [`DialError`] but `CaFile` and `System`.
    pub async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, DialError> {
        self.send_until(request, sleep(self.read_timeout)).await
    }

    /// The same, with a patience of the caller's own in place of `read_timeout`: the head is late once `late` returns, which begins when
    /// there is a connection. For a body that takes its time.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_until(&self, mut request: Request<B>, late: impl Future<Output = ()>) -> Result<Response<Incoming>, DialError> {
        let target = Target::of(request.uri())?;
        self.authorize_to_proxy(&mut request, &target);
        let slot = timeout(self.connect_timeout, self.slots.acquire()).await;
        let Ok(Ok(_slot)) = slot else { return Err(DialError::Timeout(Wait::Slot)) };

        let mut connection = capture_connection(&mut request);
        let head_is_late = async {
            drop(connection.wait_for_connection_metadata().await);
            late.await;
        };
        tokio::select! {
            biased;
            answer = self.http.request(request) => answer.map_err(|error| DialError::from_client(&error)),
            () = head_is_late => Err(DialError::Timeout(Wait::Head)),
        }
    }

    /// A proxy reads the head of a plain request itself; of an encrypted one it sees only the tunnel's. The header goes nowhere
    /// else, whoever set it.
    fn authorize_to_proxy(&self, request: &mut Request<B>, target: &Target) {
        request.headers_mut().remove(PROXY_AUTHORIZATION);
        if target.transport == Transport::Plain
            && let Some(proxy) = self.proxies.intercept(request.uri())
            && let Some(credentials) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use hickory_resolver::proto::rr::RecordType;
    use http_body_util::BodyExt;
    use rustls::version::{TLS12, TLS13};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::testing::{Authority, NameServer, Reply, Script, Server, deaf_listener};
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;

    const HOSTS: &str = "127.0.0.1 registry.example other.example\n";

    /// This machine is named, nothing else is.
    fn settings() -> Settings {
        Settings {
            ca_file: None,
            private_networks: Vec::new(),
            named_hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            max_connections: 4,
            max_idle: 4,
            server_name: None,
        }
    }

    fn open_here() -> Settings {
        Settings { private_networks: vec!["127.0.0.1/32".parse().unwrap()], ..settings() }
    }

    /// A client without DNS: names are those in `HOSTS`.
    fn client(settings: Settings, proxies: Proxies) -> Client {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let resolver = Resolver::with_config(nowhere, HOSTS, Clock::system(), Metrics::new()).unwrap();
        Client::new(settings, resolver, proxies).unwrap()
    }

    fn request(url: &str) -> Request<Full<Bytes>> {
        Request::get(url).body(Full::default()).unwrap()
    }

    /// Sends a GET and reads the body.
    async fn get(client: &Client, url: &str) -> Result<Bytes, DialError> {
        let answer = client.send(request(url)).await?;
        assert_eq!(answer.status(), 200);
        Ok(answer.into_body().collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn a_connection_is_used_again() {
        let server = Server::start(Script::Answer).await;
        let client = client(settings(), Proxies::none());
        for _ in 0..3 {
            assert_eq!(get(&client.clone(), &format!("http://{}/v2/", server.address)).await.unwrap(), "ok");
        }
        assert_eq!((server.connections(), server.seen().len()), (1, 3));
        let head = &server.seen()[0];
        assert!(head.starts_with("get /v2/ http/1.1\r\n") && head.contains(&format!("host: {}\r\n", server.address)), "{head}");
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closes_is_not_used_again() {
        let server = Server::start(Script::AnswerAndClose).await;
        let client = client(settings(), Proxies::none());
        for _ in 0..3 {
            assert_eq!(get(&client, &format!("http://{}/", server.address)).await.unwrap(), "ok");
        }
        assert_eq!(server.connections(), 3);
    }

    #[tokio::test]
    async fn what_a_server_does_wrong_has_its_own_error() {
        let (connect_timeout, read_timeout) = (Duration::from_millis(500), Duration::from_millis(300));
        let client = client(Settings { connect_timeout, read_timeout, ..settings() }, Proxies::none());
        let url = |server: &Server| format!("http://{}/", server.address);

        let error = get(&client, &url(&Server::start(Script::Hang).await)).await.unwrap_err();
        assert_eq!((&error, error.label(), error.certainly_unsent()), (&DialError::Timeout(Wait::Head), "timeout", false));

        let error = get(&client, &url(&Server::start(Script::Cut).await)).await.unwrap_err();
        assert!(matches!(error, DialError::Broken { sent: Sent::Perhaps, .. }), "{error:?}");
        assert_eq!((error.label(), error.certainly_unsent()), ("broken", false));

        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = get(&client, &format!("http://{free}/")).await.unwrap_err();
        assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
        assert_eq!((error.label(), error.certainly_unsent()), ("connect", true));

        // A handshake that never begins: the server takes the connection and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = get(&client, &format!("https://{}/", mute.local_addr().unwrap())).await.unwrap_err();
        assert_eq!((&error, error.certainly_unsent()), (&DialError::Timeout(Wait::Handshake), true));
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_wait_and_give_up() {
        let (slow, quick) = (Server::start(Script::Hang).await, Server::start(Script::Answer).await);
        let settings = Settings { max_connections: 1, connect_timeout: Duration::from_millis(500), ..settings() };
        let client = client(settings, Proxies::none());
        let hanging = tokio::spawn({
            let (client, url) = (client.clone(), format!("http://{}/", slow.address));
            async move { client.send(request(&url)).await.map(drop) }
        });
        while slow.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        let url = format!("http://{}/", quick.address);
        assert_eq!(get(&client, &url).await, Err(DialError::Timeout(Wait::Slot)));
        assert_eq!(quick.connections(), 0);
        hanging.abort();
        assert!(hanging.await.unwrap_err().is_cancelled());
        assert_eq!(get(&client, &url).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn a_name_at_a_private_address_is_refused_until_its_network_is_open() {
        let server = Server::start(Script::Answer).await;
        let port = server.address.port();
        for host in ["registry.example", "[::ffff:127.0.0.2]", "127.0.0.2", "[64:ff9b::127.0.0.1]", "a.localhost"] {
            let error = get(&client(settings(), Proxies::none()), &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(matches!(error, DialError::Refused { .. }), "{host}: {error:?}");
            assert_eq!((error.label(), error.certainly_unsent()), ("refused", true));
        }
        for host in ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "user:word@127.0.0.1"] {
            let error = get(&client(settings(), Proxies::none()), &format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(matches!(error, DialError::Target { .. }), "{host}: {error:?}");
        }
        assert_eq!(server.connections(), 0);
        let open = client(open_here(), Proxies::none());
        assert_eq!(get(&open, &format!("http://registry.example:{port}/")).await.unwrap(), "ok");
        assert_eq!(get(&client(settings(), Proxies::none()), &format!("http://127.0.0.1:{port}/")).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn a_name_that_moves_to_a_private_address_is_refused_at_its_next_connection() {
        let (server, names) = (Server::start(Script::AnswerAndClose).await, NameServer::start().await);
        names.set("a.example.", RecordType::A, Reply::Addresses(&["127.0.0.1"], 0));
        let resolver = Resolver::with_config(names.address, "", Clock::system(), Metrics::new()).unwrap();
        let client = Client::new(open_here(), resolver, Proxies::none()).unwrap();
        let url = format!("http://a.example:{}/", server.address.port());
        assert_eq!(get(&client, &url).await.unwrap(), "ok");
        names.set("a.example.", RecordType::A, Reply::Addresses(&["127.0.0.2"], 0));
        assert!(matches!(get(&client, &url).await, Err(DialError::Refused { .. })));
        names.set("a.example.", RecordType::A, Reply::NoName);
        assert_eq!(get(&client, &url).await, Err(DialError::Absent { host: "a.example".to_owned() }));
    }

    #[tokio::test]
    async fn a_dead_ipv6_is_passed_over() {
        let (deaf, _held) = deaf_listener("[::1]").await;
        let listener = TcpListener::bind(("127.0.0.1", deaf.port())).await.unwrap();
        let server = Server::listen(listener, Script::Answer, None);
        let client = client(settings(), Proxies::none());
        let began = Instant::now();
        assert_eq!(get(&client, &format!("http://localhost:{}/", deaf.port())).await.unwrap(), "ok");
        let took = began.elapsed();
        // The exact time, 250 ms, is held by `addresses_race_by_the_clock`; here the machine may be busy.
        assert!((Duration::from_millis(250)..Duration::from_secs(2)).contains(&took), "{took:?}");
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn certificates_are_verified_against_the_system_and_the_file() {
        let authority = Authority::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        for version in [&TLS12, &TLS13] {
            let server = Server::start_tls(Script::Answer, authority.acceptor("registry.example", version)).await;
            let port = server.address.port();
            let trusting = client(Settings { ca_file: Some(file.path().to_owned()), ..open_here() }, Proxies::none());
            assert_eq!(get(&trusting, &format!("https://registry.example:{port}/")).await.unwrap(), "ok");
            let other_name = get(&trusting, &format!("https://other.example:{port}/")).await;
            let unknown = get(&client(open_here(), Proxies::none()), &format!("https://registry.example:{port}/")).await;
            for error in [other_name.unwrap_err(), unknown.unwrap_err()] {
                assert!(matches!(error, DialError::Tls { .. }), "{error:?}");
                assert_eq!((error.label(), error.certainly_unsent()), ("tls", true));
            }
            assert_eq!(server.seen().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_ca_file_that_gives_no_root_is_an_error_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let resolver = Resolver::with_config(SocketAddr::from(([127, 0, 0, 1], 9)), "", Clock::system(), Metrics::new()).unwrap();
        for (name, text) in [("missing", None), ("empty", Some("")), ("broken", Some("-----BEGIN CERTIFICATE-----\nAAAA\n"))] {
            let path = folder.path().join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let refusing = Settings { ca_file: Some(path.clone()), ..settings() };
            let made: Result<Client, DialError> = Client::new(refusing, resolver.clone(), Proxies::none());
            assert!(matches!(made.err(), Some(DialError::CaFile { path: told, .. }) if told == path), "{name}");
        }
    }

    #[tokio::test]
    async fn plain_requests_are_forwarded_by_the_proxy_with_its_credentials() {
        let proxy = Server::start(Script::Answer).await;
        let through = Proxies::fixed(&format!("http://me:s%65cret@{}", proxy.address), "");
        let client = client(settings(), through);
        // The proxy resolves the name; nobody here could.
        let mut request = request("http://unknown.example/v2/?n=1");
        request.headers_mut().insert(PROXY_AUTHORIZATION, http::HeaderValue::from_static("Basic forged"));
        assert_eq!(client.send(request).await.unwrap().status(), 200);
        let head = &proxy.seen()[0];
        assert!(head.starts_with("get http://unknown.example/v2/?n=1 http/1.1\r\n"), "{head}");
        // me:secret
        assert!(head.contains("proxy-authorization: basic bwu6c2vjcmv0\r\n") && !head.contains("forged"), "{head}");

        for url in ["http://10.0.0.1/", "http://169.254.169.254/", "https://[::1]/", "http://a.localhost/"] {
            assert!(matches!(get(&client, url).await, Err(DialError::Refused { .. })), "{url}");
        }
        assert_eq!(proxy.seen().len(), 1);
    }

    #[tokio::test]
    async fn encrypted_requests_go_through_a_tunnel_and_hide_the_proxy_s_credentials() {
        let authority = Authority::new();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        let server = Server::start_tls(Script::Answer, authority.acceptor("127.0.0.1", &TLS13)).await;
        let plain_proxy = Server::start(Script::Answer).await;
        let tls_proxy = Server::start_tls(Script::Answer, authority.acceptor("localhost", &TLS13)).await;
        for (proxy, scheme, host) in [(plain_proxy, "http", "127.0.0.1"), (tls_proxy, "https", "localhost")] {
            let through = Proxies::fixed(&format!("{scheme}://me:secret@{host}:{}", proxy.address.port()), "");
            let client = client(Settings { ca_file: Some(file.path().to_owned()), ..settings() }, through);
            assert_eq!(get(&client, &format!("https://{}/v2/", server.address)).await.unwrap(), "ok");
            let head = &proxy.seen()[0];
            assert!(head.starts_with(&format!("connect {} http/1.1\r\n", server.address)), "{head}");
            assert!(head.contains("proxy-authorization: basic bwu6c2vjcmv0\r\n"), "{head}");
        }
        assert_eq!(server.seen().len(), 2);
        for head in server.seen() {
            assert!(head.starts_with("get /v2/ http/1.1\r\n") && !head.contains("proxy-authorization"), "{head}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_grants_no_tunnel_or_speaks_socks_is_an_error() {
        let proxy = Server::start(Script::Answer).await;
        for (scheme, word) in [("http", "tunnel"), ("socks5", "http://")] {
            let client = client(settings(), Proxies::fixed(&format!("{scheme}://{}", proxy.address), ""));
            let error = get(&client, "https://unknown.example/").await.unwrap_err();
            assert!(matches!(&error, DialError::Proxy { why, .. } if why.contains(word)), "{error:?}");
            assert_eq!((error.label(), error.certainly_unsent()), ("connect", true));
        }
    }

    #[tokio::test]
    async fn what_no_proxy_names_is_dialled_directly() {
        let (server, proxy) = (Server::start(Script::Answer).await, Server::start(Script::Answer).await);
        let through = || Proxies::fixed(&format!("http://me:secret@{}", proxy.address), "example, 127.0.0.0/8");
        for host in ["127.0.0.1", "registry.example"] {
            let url = format!("http://{host}:{}/", server.address.port());
            assert_eq!(get(&client(open_here(), through()), &url).await.unwrap(), "ok");
        }
        assert_eq!((server.seen().len(), proxy.connections()), (2, 0));
        assert!(server.seen().iter().all(|head| !head.contains("proxy-authorization")));
    }

    #[test]
    fn nothing_printable_holds_a_proxy_s_password() {
        let through = Proxies::fixed("http://me:secret@127.0.0.1:1", "");
        assert!(!format!("{through:?}").contains("secret"));
    }
}

//! A registry for the tests of this room and of those above: it answers over real sockets of this machine by a script, byte for byte, so that it can lie,
//! stall and cut.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::oci::Digest;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn authorization(&self) -> &str {
        self.header("authorization").unwrap_or_default()
    }
}

/// An answer to send.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Clean,
    /// The connection closes after this many bytes of the body.
    Cut(usize),
    /// Nothing comes after this many bytes of the body, and the connection stays.
    Stall(usize),
}

pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: Vec::new(), body: body.into(), end: End::Clean }
}

impl Reply {
    pub fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn cut_after(self, bytes: usize) -> Reply {
        Reply { end: End::Cut(bytes), ..self }
    }

    pub fn stall_after(self, bytes: usize) -> Reply {
        Reply { end: End::Stall(bytes), ..self }
    }
}

/// A running registry. It ends with the test's runtime.
#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    cuts: Cuts,
}

/// After how many bytes of their bodies the next requests with more are cut off.
type Cuts = Arc<Mutex<VecDeque<usize>>>;

impl Origin {
    /// Listens on 127.0.0.1 and answers each request as `script` says.
    pub async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::start_at("127.0.0.1:0", script).await
    }

    pub async fn start_at(address: &str, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(address).await.unwrap();
        let origin =
            Origin { address: listener.local_addr().unwrap(), seen: Arc::default(), connections: Arc::default(), cuts: Cuts::default() };
        let (seen, script, connections, cuts) = (origin.seen.clone(), Arc::new(script), origin.connections.clone(), origin.cuts.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script, cuts) = (seen.clone(), script.clone(), cuts.clone());
                // A client that leaves early is part of the tests.
                tokio::spawn(async move { serve(stream, &seen, &cuts, script.as_ref()).await });
            }
        });
        origin
    }

    pub fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    /// Closes the connection of the next request whose body is longer than this, once so much of it has come.
    pub fn cut_a_body_after(&self, bytes: usize) {
        self.cuts.lock().unwrap().push_back(bytes);
    }

    /// Every request until now, as `METHOD target`.
    pub fn requests(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }

    /// Connections taken until now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>, cuts: &Cuts, script: &(impl Fn(&Seen) -> Reply + Sync)) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, cuts).await? {
        seen.lock().unwrap().push(request.clone());
        let reply = script(&request);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !reply.headers.iter().any(|(name, _)| matches!(name.as_str(), "content-length" | "transfer-encoding")) {
            head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &reply.body };
        let sent = match reply.end {
            End::Clean => body,
            End::Cut(bytes) | End::Stall(bytes) => &body[..bytes.min(body.len())],
        };
        // In one piece: two would wait for each other by Nagle's rule.
        stream.write_all(&[head.as_bytes(), sent].concat()).await?;
        match reply.end {
            End::Clean => {}
            End::Cut(_) => return stream.shutdown().await,
            End::Stall(_) => tokio::time::sleep(Duration::from_secs(60)).await,
        }
    }
    Ok(())
}

async fn read(stream: &mut BufReader<TcpStream>, cuts: &Cuts) -> std::io::Result<Option<Seen>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let header = |line: &String| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let headers: Vec<_> = lines[1..].iter().filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let cut = cuts.lock().unwrap().pop_front_if(|after| *after < length);
    let mut body = vec![0; cut.unwrap_or(length)];
    stream.read_exact(&mut body).await?;
    if cut.is_some() {
        return Ok(None);
    }
    Ok(Some(Seen { method, target, headers, body: String::from_utf8(body).unwrap() }))
}

type First = (&'static str, &'static str, Reply);

/// A registry that keeps what is pushed, by path.
#[derive(Clone, Default)]
pub struct Registry {
    pub kept: Arc<Mutex<BTreeMap<String, (String, String)>>>,
    /// Answers that come first, by method and a part of the target; each once.
    first: Arc<Mutex<Vec<First>>>,
    /// What `Location` begins with; else it is relative.
    pub elsewhere: Arc<Mutex<String>>,
    /// Queries of mounts that succeed contain one of these.
    pub mounts: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    pub async fn start(&self) -> Origin {
        let registry = self.clone();
        Origin::start(move |seen| registry.answer(seen)).await
    }

    pub fn once(&self, method: &'static str, target: &'static str, reply: Reply) {
        self.first.lock().unwrap().push((method, target, reply));
    }

    pub fn has(&self, path: &str) -> Option<(String, String)> {
        self.kept.lock().unwrap().get(path).cloned()
    }

    pub fn answer(&self, seen: &Seen) -> Reply {
        let mut first = self.first.lock().unwrap();
        if let Some(at) = first.iter().position(|(method, part, _)| seen.method == *method && seen.target.contains(part)) {
            return first.remove(at).2;
        }
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let mut kept = self.kept.lock().unwrap();
        match seen.method.as_str() {
            "POST" if self.mounts.lock().unwrap().iter().any(|mounted| query.contains(mounted)) => reply(201, ""),
            "POST" => reply(202, "").with("location", format!("{}/v2/up/1?state=s", self.elsewhere.lock().unwrap())),
            "PUT" if path == "/v2/up/1" => {
                let digest = query.strip_prefix("state=s&digest=").unwrap().replace("%3A", ":");
                if Digest::sha256(seen.body.as_bytes()).to_string() != digest {
                    return reply(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"other\nbytes"}]}"#);
                }
                kept.insert(digest.clone(), (String::new(), seen.body.clone()));
                reply(201, "").with("docker-content-digest", digest)
            }
            "PUT" => {
                kept.insert(path.to_owned(), (seen.header("content-type").unwrap().to_owned(), seen.body.clone()));
                reply(201, "")
            }
            _ => match kept.get(path).or_else(|| kept.get(path.rsplit('/').next().unwrap())) {
                Some((media_type, body)) => reply(200, body.clone()).with("content-type", media_type),
                None => reply(404, "{}"),
            },
        }
    }
}

/// An upstream at this place, with everything else as most tests want it.
pub fn config(url: Url) -> crate::config::Upstream {
    crate::config::Upstream {
        name: "up.test".to_owned(),
        hosts: Vec::new(),
        url,
        mirrors: Vec::new(),
        username: None,
        password: None,
        authorize: crate::config::Authorize::Edge,
        ca_file: None,
        private_networks: Vec::new(),
        token_hosts: Vec::new(),
        tag_ttl: Duration::from_secs(60),
        authorization_ttl: Duration::from_secs(60),
        allow: Vec::new(),
        deny: Vec::new(),
        max_connections: 64,
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(5),
    }
}

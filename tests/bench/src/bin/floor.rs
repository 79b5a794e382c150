//! What hyper and tokio alone answer with: as many bytes as the path names (`/2048`), with the headers that a manifest has, and nothing
//! looked up, decided, counted or recorded. No server built on them can be faster.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bench::options::Options;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const USAGE: &str = "floor --address HOST:PORT";
const MOST_BYTES: usize = 1 << 20;
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// As the edge has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = Options::from_command_line(USAGE, &["address"]).required("address");
    // One worker, and what accepts is one of its tasks, as in an edge on one core.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async move { tokio::spawn(serve(address)).await })??;
    Ok(())
}

async fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let bytes = Bytes::from(vec![b' '; MOST_BYTES]);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let bytes = bytes.clone();
        tokio::spawn(async move {
            let answering = service_fn(move |request| {
                let answer = answer(&request, &bytes);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that leaves.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answering).await;
        });
    }
}

fn answer(request: &Request<Incoming>, bytes: &Bytes) -> Response<Full<Bytes>> {
    let size = request.uri().path().trim_start_matches('/').parse::<usize>().unwrap_or(0).min(MOST_BYTES);
    let mut answer = Response::new(Full::new(bytes.slice(..size)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.oci.image.manifest.v1+json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(HeaderName::from_static("docker-content-digest"), HeaderValue::from_static(DIGEST));
    headers.insert(ETAG, HeaderValue::from_static(DIGEST));
    headers.insert(HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
    answer
}

//! An origin of many small blobs: no registry could be filled with a hundred thousand of them in a reasonable time. It serves blobs of
//! one repository by GET and HEAD, writes their paths into a file, and prints its address.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bench::options::Options;
use sha2::{Digest, Sha256};

const USAGE: &str = "small-blobs --count N --size-bytes N --repository NAME --paths FILE [--address 127.0.0.1:0]";

/// Blobs by their digest: a number, out of which the content is made again.
struct Blobs {
    numbers: HashMap<String, usize>,
    size_bytes: usize,
    /// Requests so far.
    asked: AtomicUsize,
}

fn main() {
    let options = Options::from_command_line(USAGE, &["count", "size-bytes", "repository", "paths", "address"]);
    let (count, size_bytes): (usize, usize) = (options.required("count"), options.required("size-bytes"));
    let repository: String = options.required("repository");
    let address = options.optional("address").unwrap_or_else(|| "127.0.0.1:0".to_owned());
    if let Err(error) = serve(count, size_bytes, &repository, &options.required::<String>("paths"), &address) {
        eprintln!("small-blobs: {error}");
        std::process::exit(1);
    }
}

fn serve(count: usize, size_bytes: usize, repository: &str, paths: &str, address: &str) -> io::Result<()> {
    let numbers: HashMap<_, _> = (0..count).map(|number| (digest(&content(number, size_bytes)), number)).collect();
    let mut listed = String::new();
    for digest in numbers.keys() {
        // Writing to a String cannot fail.
        let _ = writeln!(listed, "/v2/{repository}/blobs/{digest}");
    }
    std::fs::write(paths, listed)?;
    let blobs = Arc::new(Blobs { numbers, size_bytes, asked: AtomicUsize::new(0) });
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    for stream in listener.incoming() {
        let (stream, blobs) = (stream?, blobs.clone());
        // A client that goes away is no fault of the origin's.
        thread::spawn(move || answer_all(stream, &blobs));
    }
    Ok(())
}

/// Different for each number, and as long as wanted.
fn content(number: usize, size_bytes: usize) -> Vec<u8> {
    let line = format!("blob {number}\n");
    line.bytes().cycle().take(size_bytes.max(line.len())).collect()
}

fn digest(content: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Answers requests of a connection until it ends.
fn answer_all(stream: TcpStream, blobs: &Blobs) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut answers = stream;
    loop {
        let mut request = String::new();
        if requests.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while requests.read_line(&mut header)? > 2 {
            header.clear();
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        answers.write_all(&answer(blobs, method, path))?;
    }
}

fn answer(blobs: &Blobs, method: &str, path: &str) -> Vec<u8> {
    if path == "/asked" {
        let asked = blobs.asked.load(Ordering::Relaxed).to_string();
        return format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{asked}", asked.len()).into_bytes();
    }
    blobs.asked.fetch_add(1, Ordering::Relaxed);
    let found = path.rsplit_once("/blobs/").and_then(|(_, digest)| blobs.numbers.get_key_value(digest));
    let Some((digest, number)) = found else {
        let (status, body) = if path == "/v2/" { ("200 OK", "{}") } else { ("404 Not Found", r#"{"errors":[]}"#) };
        return format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}", body.len()).into_bytes();
    };
    let content = content(*number, blobs.size_bytes);
    let length = content.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nContent-Type: application/octet-stream\r\nDocker-Content-Digest: {digest}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if method == "GET" {
        bytes.extend(content);
    }
    bytes
}

//! Asks for many paths over several connections and prints one line of JSON: rate, times, failures. Bodies are discarded in the kernel.
//!
//! `--way spin` asks from one thread that never sleeps (`bench::spin`); otherwise each connection has a thread that waits.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bench::client::{Body, Client};
use bench::options::Options;
use bench::percentile;
use bench::spin::{Done, spin};
use serde_json::json;

const USAGE: &str =
    "drain --address HOST:PORT --paths FILE [--connections 8] [--requests ONE_FOR_EACH_PATH] [--host NAME] [--way wait|spin]";
/// Failures that are told one by one.
const TOLD: usize = 3;

#[derive(Default)]
struct Tally {
    first_bytes: Vec<f64>,
    wholes: Vec<f64>,
    size_bytes: u64,
    failures: usize,
}

fn main() {
    let options = Options::from_command_line(USAGE, &["address", "paths", "connections", "requests", "host", "way"]);
    let address: String = options.required("address");
    let host = options.optional("host").unwrap_or_else(|| address.clone());
    let file: String = options.required("paths");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| stop(&format!("{file}: {error}")));
    let paths: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if paths.is_empty() {
        stop(&format!("{file}: no paths"));
    }
    let requests = options.optional("requests").unwrap_or(paths.len());
    let connections = options.optional("connections").unwrap_or(8).max(1);
    let started = Instant::now();
    let mut tally = match options.optional::<String>("way").as_deref() {
        None | Some("wait") => wait(&address, &host, &paths, connections, requests),
        Some("spin") => {
            Tally::of_all(&spin(&address, &host, &paths, connections, requests).unwrap_or_else(|error| stop(&error.to_string())))
        }
        Some(other) => stop(&format!("{other} is no way to ask")),
    };
    let seconds = started.elapsed().as_secs_f64();
    let answered = tally.wholes.len();
    let milliseconds = |values: &mut Vec<f64>, share| percentile(values, share) * 1e3;
    println!(
        "{}",
        json!({
            "answered": answered,
            "failures": tally.failures,
            "seconds": seconds,
            "per_second": answered as f64 / seconds,
            "bytes": tally.size_bytes,
            "first_byte_ms": { "p50": milliseconds(&mut tally.first_bytes, 0.5), "p99": milliseconds(&mut tally.first_bytes, 0.99) },
            "whole_ms": { "p50": milliseconds(&mut tally.wholes, 0.5), "p99": milliseconds(&mut tally.wholes, 0.99) },
        })
    );
    if tally.failures > 0 {
        std::process::exit(1);
    }
}

fn stop(fault: &str) -> ! {
    eprintln!("drain: {fault}");
    std::process::exit(1)
}

impl Tally {
    /// A spinning client stops at the first failure.
    fn of_all(done: &[Done]) -> Tally {
        Tally {
            first_bytes: done.iter().map(|each| each.first_byte.as_secs_f64()).collect(),
            wholes: done.iter().map(|each| each.whole.as_secs_f64()).collect(),
            size_bytes: done.iter().map(|each| each.size_bytes).sum(),
            failures: 0,
        }
    }
}

fn wait(address: &str, host: &str, paths: &[&str], connections: usize, requests: usize) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mine = drain(&mut Client::new(address, host), paths, requests, &next);
                let mut all = tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                all.first_bytes.extend(mine.first_bytes);
                all.wholes.extend(mine.wholes);
                all.size_bytes += mine.size_bytes;
                all.failures += mine.failures;
            });
        }
    });
    tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn drain(client: &mut Client, paths: &[&str], requests: usize, next: &AtomicUsize) -> Tally {
    let mut tally = Tally::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= requests {
            return tally;
        }
        match client.get(paths[number % paths.len()], Body::Discard) {
            Ok(answer) => {
                tally.first_bytes.push(answer.first_byte.as_secs_f64());
                tally.wholes.push(answer.whole.as_secs_f64());
                tally.size_bytes += answer.size_bytes;
            }
            Err(error) => {
                tally.failures += 1;
                if tally.failures <= TOLD {
                    eprintln!("drain: {error}");
                }
            }
        }
    }
}

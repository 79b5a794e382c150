//! What credentials cost: the same request with and without an Authorization header, in paired rounds, by the processor time that the
//! edge's process has used. Prints one line of JSON.
//!
//! Processor time is counted in hundredths of a second, so a round should be of many thousand requests.

use std::io;

use bench::client::Client;
use bench::options::Options;
use bench::percentile;
use serde_json::json;

const USAGE: &str = "credentials --address HOST:PORT --pid PID --path PATH --authorization VALUE [--requests 20000] [--rounds 10]";

fn main() {
    let options = Options::from_command_line(USAGE, &["address", "pid", "path", "authorization", "requests", "rounds"]);
    let (address, pid, path): (String, u32, String) = (options.required("address"), options.required("pid"), options.required("path"));
    let authorization = format!("Authorization: {}\r\n", options.required::<String>("authorization"));
    let (requests, rounds) = (options.optional("requests").unwrap_or(20_000_u32), options.optional("rounds").unwrap_or(10_u32));
    let mut ratios = Vec::new();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let cost = |fields: &str| {
            cost_us(&mut Client::new(&address, &address), (pid, &path), fields, requests).unwrap_or_else(|error| {
                eprintln!("credentials: {error}");
                std::process::exit(1)
            })
        };
        // Which is first changes, so that what drifts falls on both.
        let (one, other) = if round % 2 == 0 {
            let one = cost("");
            (one, cost(&authorization))
        } else {
            let other = cost(&authorization);
            (cost(""), other)
        };
        // The first round warms up.
        if round > 0 {
            without.push(one);
            with.push(other);
            ratios.push(other / one);
        }
    }
    println!(
        "{}",
        json!({
            "without_us": percentile(&mut without, 0.5), "with_us": percentile(&mut with, 0.5), "ratio": percentile(&mut ratios, 0.5),
            "least_ratio": percentile(&mut ratios, 0.0), "greatest_ratio": percentile(&mut ratios, 1.0), "requests": requests, "rounds": rounds
        })
    );
}

/// Processor time of one request, in microseconds.
fn cost_us(client: &mut Client, (pid, path): (u32, &str), fields: &str, requests: u32) -> io::Result<f64> {
    let before = processor_time_us(pid)?;
    for _ in 0..requests {
        let reply = client.send("GET", path, fields, 0, |_| Ok(()))?;
        if reply.status != 200 {
            return Err(io::Error::other(format!("{path}: {}", reply.status)));
        }
    }
    Ok((processor_time_us(pid)? - before) / f64::from(requests))
}

/// In user and kernel (proc_pid_stat(5)): the 12th and 13th field behind the name, which may contain anything.
fn processor_time_us(pid: u32) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * 10_000.0)
}

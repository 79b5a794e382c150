//! What credentials cost: the same request with and without an Authorization header, in paired rounds, by the processor time that the
//! edge's process has used. Prints one line of JSON.
//!
//! Within a round the two take turns every few hundred requests: what a machine does beside drifts within seconds, and falls on both.

use std::io;
use std::time::Duration;

use bench::client::Client;
use bench::options::Options;
use bench::percentile;
use bench::sys::processor_time;
use serde_json::json;

const USAGE: &str = "credentials --address HOST:PORT --pid PID --path PATH --authorization VALUE [--requests 20000] [--rounds 10]";

/// Requests of one side before it is the other's turn.
const TURN_REQUESTS: u32 = 500;

fn main() {
    let options = Options::from_command_line(USAGE, &["address", "pid", "path", "authorization", "requests", "rounds"]);
    let (address, pid, path): (String, u32, String) = (options.required("address"), options.required("pid"), options.required("path"));
    let authorization = format!("Authorization: {}\r\n", options.required::<String>("authorization"));
    let (requests, rounds) = (options.optional("requests").unwrap_or(20_000_u32), options.optional("rounds").unwrap_or(10_u32));
    let mut ratios = Vec::new();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut clients = [Client::new(&address, &address), Client::new(&address, &address)];
    for round in 0..=rounds {
        let mut used = [Duration::ZERO; 2];
        let turns = requests.div_ceil(TURN_REQUESTS);
        for turn in 0..turns {
            // Which is first changes, so that what one leaves to be done later falls on both.
            for side in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
                let fields = if side == 0 { "" } else { &authorization };
                used[side] += cost(&mut clients[side], (pid, &path), fields).unwrap_or_else(|error| {
                    eprintln!("credentials: {error}");
                    std::process::exit(1)
                });
            }
        }
        // The first round warms up.
        if round > 0 {
            let [one, other] = used.map(|used| used.as_secs_f64() * 1e6 / f64::from(turns * TURN_REQUESTS));
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

/// Processor time of one turn.
fn cost(client: &mut Client, (pid, path): (u32, &str), fields: &str) -> io::Result<Duration> {
    let before = processor_time(pid)?;
    for _ in 0..TURN_REQUESTS {
        let reply = client.send("GET", path, fields, 0, |_| Ok(()))?;
        if reply.status != 200 {
            return Err(io::Error::other(format!("{path}: {}", reply.status)));
        }
    }
    Ok(processor_time(pid)?.saturating_sub(before))
}

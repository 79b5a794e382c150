//! `outport offload`: what upstreams were spared.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::ask::Shown;
use super::columns::{age, columns, list, size, word};
use crate::clock::{Clock, Timestamp};

pub(super) fn run(config: Option<&Path>, arguments: &Shown) -> ExitCode {
    match arguments.edge.read(config, "/outport/v1/offload") {
        Ok(answer) if arguments.json => println!("{answer}"),
        Ok(answer) => print!("{}", shown(&answer, Clock::system().now())),
        Err(error) => {
            eprintln!("outport offload: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

fn shown(answer: &Value, now: Timestamp) -> String {
    let upstreams = list(&answer["upstreams"]);
    if upstreams.is_empty() {
        return "no upstreams\n".to_owned();
    }
    let since = |at: &Value| age(at, now).unwrap_or_else(|| "?".to_owned());
    let mut text = part(&format!("in the last {}", since(&answer["day_since_ms"])), upstreams, "last_day");
    if answer["day_since_ms"] != answer["started_ms"] {
        text.push_str(&part(&format!("\nsince it started {} ago", since(&answer["started_ms"])), upstreams, "since_start"));
    }
    text
}

fn part(head: &str, upstreams: &[Value], which: &str) -> String {
    let heads = ["UPSTREAM", "REQUESTS", "FROM HERE", "ASKED IT", "BYTES", "FETCHED", "SAVED"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(heads).chain(upstreams.iter().map(|upstream| row(upstream, &upstream[which]))).collect();
    format!("{head}\n{}", columns(&rows))
}

fn row(upstream: &Value, spared: &Value) -> [String; 7] {
    let number = |name: &str| spared[name].as_u64().unwrap_or_default();
    let ratio = spared["hit_ratio"].as_f64().map_or_else(|| "-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    [
        word(&upstream["upstream"]).to_owned(),
        number("requests").to_string(),
        ratio,
        number("upstream_requests").to_string(),
        size(number("bytes")),
        size(number("upstream_bytes")),
        size(number("saved_bytes")),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn upstreams_stand_in_a_table() {
        let spared = |requests: u64| {
            json!({
                "requests": requests, "bytes": 5_000_000, "upstream_requests": 10, "upstream_bytes": 1_000_000,
                "saved_requests": requests - 10, "saved_bytes": 4_000_000, "hit_ratio": 0.875,
            })
        };
        let unused = json!({"requests": 0, "bytes": 0, "upstream_requests": 0, "upstream_bytes": 0, "saved_requests": 0, "saved_bytes": 0});
        let upstreams = json!([
            {"upstream": "docker.io", "since_start": spared(400), "last_day": spared(80)},
            {"upstream": "ghcr.io", "since_start": unused, "last_day": unused},
        ]);
        let day = json!({"started_ms": 0, "day_since_ms": 100_000, "upstreams": upstreams});
        let text = shown(&day, Timestamp::from_ms(160_000));
        assert_eq!(
            text,
            "in the last 1m\n\
             UPSTREAM   REQUESTS  FROM HERE  ASKED IT  BYTES    FETCHED    SAVED\n\
             docker.io  80        87.5 %     10        4.7 MiB  976.5 KiB  3.8 MiB\n\
             ghcr.io    0         -          0         0 B      0 B        0 B\n\
             \n\
             since it started 160s ago\n\
             UPSTREAM   REQUESTS  FROM HERE  ASKED IT  BYTES    FETCHED    SAVED\n\
             docker.io  400       87.5 %     10        4.7 MiB  976.5 KiB  3.8 MiB\n\
             ghcr.io    0         -          0         0 B      0 B        0 B\n"
        );
        let young = json!({"started_ms": 0, "day_since_ms": 0, "upstreams": upstreams});
        assert_eq!(shown(&young, Timestamp::from_ms(60_000)).matches("UPSTREAM").count(), 1);
        assert_eq!(shown(&json!({"upstreams": []}), Timestamp::default()), "no upstreams\n");
    }
}

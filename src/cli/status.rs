//! `outport status`: an edge, the regions as it sees them, and what waits.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::ask::Shown;
use super::columns::{age, bar, columns, list, seconds, size, word};
use crate::clock::{Clock, Timestamp};

/// Whether there is somebody to look at bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Drawn,
    Plain,
}

pub(super) fn run(config: Option<&Path>, arguments: &Shown) -> ExitCode {
    let style = if std::io::stdout().is_terminal() { Style::Drawn } else { Style::Plain };
    match arguments.edge.read(config, "/outport/v1/status") {
        Ok(answer) if arguments.json => println!("{answer}"),
        Ok(answer) => print!("{}", shown(&answer, Clock::system().now(), style)),
        Err(error) => {
            eprintln!("outport status: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

fn shown(answer: &Value, now: Timestamp, style: Style) -> String {
    let mut text = format!("outport {} in region {}", word(&answer["version"]), word(&answer["region"]));
    let ledger = &answer["ledger"];
    match answer["closed"].as_str() {
        Some(why) => text.push_str(&format!(": {why}\n")),
        None => text.push_str(&format!(", at {}\n", word(&ledger["position"]))),
    }
    if let Some(why) = ledger["fenced"].as_str() {
        text.push_str(&format!("pushes are refused: {why}\n"));
    }
    for member in list(&ledger["members"]).iter().filter(|member| member["standing"] != "joined") {
        text.push_str(&format!("{} {} is {}\n", word(&member["region"]), word(&member["incarnation"]), word(&member["standing"])));
    }
    text.push_str(&peers(answer, now, style));
    text.push_str(&backlog(&answer["backlog"]));
    if let Some(count) = ledger["conflicts"].as_u64() {
        text.push_str(&format!("conflicts  {count}\n"));
    }
    text
}

fn peers(answer: &Value, now: Timestamp, style: Style) -> String {
    let peers = list(&answer["peers"]);
    if peers.is_empty() {
        return "no other regions\n".to_owned();
    }
    let own = answer["ledger"]["position"].as_str().and_then(|position| position.rsplit('@').next()).and_then(|seq| seq.parse().ok());
    let heads = ["REGION", "SEEN", "BEHIND IT", "", "IT HAS OF US", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(heads).chain(peers.iter().map(|peer| row(peer, own, now, style))).collect();
    columns(&rows)
}

fn row(peer: &Value, own: Option<u64>, now: Timestamp, style: Style) -> [String; 6] {
    let number = |name: &str| peer[name].as_u64().unwrap_or_default();
    let is_visible = peer["visible"] == true;
    let seen = match (is_visible, age(&peer["blind_since_ms"], now)) {
        (true, _) => "now".to_owned(),
        (false, since) => {
            let since = since.unwrap_or_else(|| "?".to_owned());
            peer["blind"].as_str().map_or_else(|| format!("not for {since}"), |why| format!("not for {since}: {why}"))
        }
    };
    let (events, time) = (number("behind_events"), seconds(number("behind_ms")));
    let behind = match (is_visible, events) {
        (true, 0) => "level".to_owned(),
        (true, events) => format!("{events} events, {time}"),
        // What is not seen may be more.
        (false, events) => format!("{events} events or more, {time}"),
    };
    let drawn = |done, all| if style == Style::Drawn { bar(done, all) } else { String::new() };
    let (theirs, ours) = (drawn(number("folded"), number("tail")), own.map(|own| drawn(number("seen_of_us"), own)));
    let has = own.map_or_else(String::new, |own| format!("{} of {own}", number("seen_of_us").min(own)));
    [word(&peer["region"]).to_owned(), seen, behind, theirs, has, ours.unwrap_or_default()]
}

fn backlog(backlog: &Value) -> String {
    let (contents, bytes) = (backlog["contents"].as_u64().unwrap_or_default(), backlog["bytes"].as_u64().unwrap_or_default());
    let mut text = match contents {
        0 => "backlog    nothing waits to be copied here\n".to_owned(),
        _ => format!("backlog    {contents} contents, {}, wait to be copied here\n", size(bytes)),
    };
    for (name, what) in [("oldest_unknown_ms", "is not known in all regions"), ("oldest_unheld_ms", "is not held by all who shall")] {
        if let Some(ms) = backlog[name].as_u64() {
            text.push_str(&format!("pushes     one of {} ago {what}\n", seconds(ms)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        let members = json!([
            {"region": "eu", "incarnation": "01B", "standing": "joined"},
            {"region": "us", "incarnation": "01A", "standing": "leaving"},
        ]);
        let peers = json!([
            {"region": "us", "visible": true, "behind_events": 0, "behind_ms": 0, "tail": 5, "folded": 5, "seen_of_us": 40},
            {"region": "ap", "visible": false, "blind_since_ms": 1_000, "blind": "no route", "behind_events": 2, "behind_ms": 12_000,
             "tail": 4, "folded": 2, "seen_of_us": 20},
        ]);
        let backlog = json!({"contents": 3, "bytes": 5_000_000, "oldest_unknown_ms": 12_000, "oldest_unheld_ms": null});
        let ledger = json!({"incarnation": "01B", "position": "eu.01B@40", "fenced": null, "members": members, "conflicts": 1});
        json!({"version": "0.1.0", "region": "eu", "ledger": ledger, "peers": peers, "backlog": backlog})
    }

    #[test]
    fn regions_stand_in_a_table() {
        let rest =
            "backlog    3 contents, 4.7 MiB, wait to be copied here\npushes     one of 12s ago is not known in all regions\nconflicts  1\n";
        let head = "outport 0.1.0 in region eu, at eu.01B@40\nus 01A is leaving\n";
        assert_eq!(
            shown(&answer(), Timestamp::from_ms(13_000), Style::Drawn),
            format!(
                "{head}REGION  SEEN                   BEHIND IT                          IT HAS OF US\n\
                 us      now                    level                  ██████████  40 of 40      ██████████\n\
                 ap      not for 12s: no route  2 events or more, 12s  █████░░░░░  20 of 40      █████░░░░░\n{rest}"
            )
        );
        let plain = shown(&answer(), Timestamp::from_ms(13_000), Style::Plain);
        assert!(plain.ends_with(rest) && !plain.contains('█'), "{plain}");
    }

    #[test]
    fn what_is_wrong_is_said_first() {
        let mut fenced = answer();
        fenced["ledger"]["fenced"] = json!("its bucket was set back");
        assert!(shown(&fenced, Timestamp::default(), Style::Plain).contains("\npushes are refused: its bucket was set back\n"));
        let closed = json!({"version": "0.1.0", "region": "eu", "ledger": null, "closed": "no route", "peers": [], "backlog": {}});
        assert_eq!(
            shown(&closed, Timestamp::default(), Style::Plain),
            "outport 0.1.0 in region eu: no route\nno other regions\nbacklog    nothing waits to be copied here\n"
        );
    }
}

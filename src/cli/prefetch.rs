//! `outport prefetch`: fetches images whole, ahead of everybody; and shows those that the configuration keeps here.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::Edge;
use super::columns::{age, columns, list, size, word};
use crate::clock::{Clock, Timestamp};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Images, each with its upstream's name in front
    #[arg(required_unless_present = "list")]
    images: Vec<String>,
    /// Show the images of [[prefetch]], which the edge keeps by itself, and how they stand
    #[arg(long, conflicts_with_all = ["images", "platform"])]
    list: bool,
    /// Of an image for several platforms only this one, as os/architecture
    #[arg(long)]
    platform: Option<String>,
    #[command(flatten)]
    edge: Edge,
    /// Print JSON, one line an image
    #[arg(long)]
    json: bool,
}

/// Goes on after a failure; the exit code is that of the first.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    if arguments.list {
        return show(config, arguments);
    }
    let mut code = None;
    for image in &arguments.images {
        let mut question = json!({ "image": image });
        if let Some(platform) = &arguments.platform {
            question["platform"] = json!(platform);
        }
        match arguments.edge.ask(config, "/outport/v1/prefetch", &question) {
            Ok(answer) if arguments.json => println!("{answer}"),
            Ok(answer) => println!("{image}: {} manifests, {} blobs, {} bytes", answer["manifests"], answer["blobs"], answer["bytes"]),
            Err(error) => {
                eprintln!("outport prefetch: {image}: {error}");
                code.get_or_insert(error.exit_code());
            }
        }
    }
    code.unwrap_or(ExitCode::SUCCESS)
}

fn show(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    match arguments.edge.read(config, "/outport/v1/prefetch") {
        Ok(answer) if arguments.json => println!("{answer}"),
        Ok(answer) => print!("{}", shown(list(&answer["images"]), Clock::system().now())),
        Err(error) => {
            eprintln!("outport prefetch: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

fn shown(images: &[Value], now: Timestamp) -> String {
    if images.is_empty() {
        return "no images are kept here\n".to_owned();
    }
    let heads = ["IMAGE", "PLATFORM", "WHOLE", "BLOBS", "SIZE", "LAST FAULT"].map(str::to_owned);
    let row = |image: &Value| {
        let held = |text: String| if image["held_ms"].is_null() { String::new() } else { text };
        let seen = age(&image["held_ms"], now).map_or_else(|| "not yet".to_owned(), |age| format!("{age} ago"));
        let fault = image["error"].as_str().unwrap_or_default().to_owned();
        let platform = image["platform"].as_str().unwrap_or("all").to_owned();
        let (blobs, bytes) = (image["blobs"].to_string(), size(image["bytes"].as_u64().unwrap_or_default()));
        [word(&image["image"]).to_owned(), platform, seen, held(blobs), held(bytes), fault]
    };
    columns(&std::iter::once(heads).chain(images.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_in_a_table() {
        let images = [
            json!({"image": "docker.io/library/alpine:3", "platform": "linux/amd64", "every_ms": 600_000, "held_ms": 1_000,
                "manifests": 2, "blobs": 2, "bytes": 3_500_000, "failures": 0}),
            json!({"image": "ghcr.io/o/r:1", "every_ms": 600_000, "failures": 2, "error": "manifest unknown"}),
        ];
        assert_eq!(
            shown(&images, Timestamp::from_ms(61_000)),
            "IMAGE                       PLATFORM     WHOLE    BLOBS  SIZE     LAST FAULT\n\
             docker.io/library/alpine:3  linux/amd64  1m ago   2      3.3 MiB\n\
             ghcr.io/o/r:1               all          not yet                  manifest unknown\n"
        );
        assert_eq!(shown(&[], Timestamp::default()), "no images are kept here\n");
    }
}

//! `outport prefetch`: fetches images whole, ahead of everybody.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::ask::Edge;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Images, each with its upstream's name in front
    #[arg(required = true)]
    images: Vec<String>,
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

//! `outport refresh`: asks the upstream now.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::ask::Edge;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The image, with its upstream's name in front
    image: String,
    #[command(flatten)]
    edge: Edge,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> ExitCode {
    match arguments.edge.ask(config, "/outport/v1/refresh", &json!({ "image": arguments.image })) {
        Ok(answer) if arguments.json => println!("{answer}"),
        Ok(answer) => println!("{} is {}", arguments.image, answer["digest"].as_str().unwrap_or("?")),
        Err(error) => {
            eprintln!("outport refresh: {}: {error}", arguments.image);
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

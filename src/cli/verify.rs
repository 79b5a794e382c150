//! `outport verify`: hashes every cached blob again.

use std::path::Path;
use std::process::ExitCode;

use super::{FAILED, UNAVAILABLE, USAGE};
use crate::clock::Clock;
use crate::config::{Config, process_environment};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError, VerifyReport};

/// Exit code 0 when every blob is good, 1 when some were not (they are quarantined), 69 when the cache cannot be opened: an edge
/// that runs has it.
pub(super) fn run(config: Option<&Path>, json: bool) -> ExitCode {
    let config = match Config::load(config, &process_environment) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(USAGE);
        }
    };
    let report = match verify(&config) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("outport verify: {error}");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    if json {
        println!("{}", serde_json::json!({ "blobs": report.blobs, "size_bytes": report.size_bytes, "quarantined": report.quarantined }));
    } else {
        println!("{} blobs, {} bytes: {} corrupt, moved out of the way", report.blobs, report.size_bytes, report.quarantined.len());
        for digest in &report.quarantined {
            println!("{digest}");
        }
    }
    if report.quarantined.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn verify(config: &Config) -> Result<VerifyReport, StoreError> {
    let runtime = tokio::runtime::Runtime::new().map_err(StoreError::Unwritable)?;
    runtime.block_on(async {
        let store = Store::open(crate::edge::store_settings(config), Clock::system(), Metrics::new()).await?;
        let report = store.verify().await;
        store.close().await;
        Ok(report)
    })
}

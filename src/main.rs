//! Arguments and exit codes.

use std::process::ExitCode;

use clap::Parser;
use outport::cli;

fn main() -> ExitCode {
    match cli::Arguments::try_parse() {
        Ok(arguments) => cli::run(arguments),
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let code = if error.use_stderr() { cli::USAGE } else { 0 };
            let _ = error.print();
            ExitCode::from(code)
        }
    }
}

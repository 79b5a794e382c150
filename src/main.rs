//! Arguments and exit codes.

use std::process::ExitCode;

use clap::Parser;
use outport::cli;

/// Bodies arrive in fresh blocks of some hundred KiB. glibc takes each from the kernel and gives it back, so that every page of every
/// body is touched for the first time; jemalloc hands the same ones out again (`tests/bench/near` has the difference).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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

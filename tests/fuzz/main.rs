//! Fuzzing of everything that reads what strangers wrote: names and routes, ranges, challenges, manifests, a load balancer's header,
//! the trace that a request belongs to.
//!
//! Mutations of a seeded generator on the toolchain that builds the product, without coverage feedback: the parsers are small, and
//! their dictionaries hold every word that they look for. A short run is part of `cargo test`; `tests/fuzz/run` makes it ten million.
//! Checks of overflow and of debug assertions are on.
//!
//! `OUTPORT_FUZZ_RUNS` is the number of inputs for each target, `OUTPORT_FUZZ_SEED` where the generator starts.

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use mutate::Mutator;

/// Inputs for each target in a plain `cargo test`.
const SHORT_RUN: u64 = 50_000;
const FIRST_SEED: u64 = 0x6f75_7470_6f72_7401;

/// A parser and what always holds for it.
struct Target {
    name: &'static str,
    /// Inputs that are well formed, to begin from.
    seeds: &'static [&'static str],
    /// Pieces that matter to the parser.
    dictionary: &'static [&'static str],
    /// Panics when something that must hold does not. Returns whether the input was accepted.
    check: fn(&[u8]) -> bool,
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => otherwise,
    }
}

fn fuzz(target: &Target) {
    let (runs, seed) = (from_environment("OUTPORT_FUZZ_RUNS", SHORT_RUN), from_environment("OUTPORT_FUZZ_SEED", FIRST_SEED));
    let mut mutator = Mutator::new(seed, target.seeds, target.dictionary);
    for input in target.seeds {
        assert!((target.check)(input.as_bytes()), "{}: a seed is refused: {input}", target.name);
    }
    let (started, mut accepted) = (Instant::now(), 0_u64);
    for run in 0..runs {
        let input = mutator.next();
        match catch_unwind(AssertUnwindSafe(|| (target.check)(input))) {
            Ok(was_accepted) => accepted += u64::from(was_accepted),
            Err(_) => panic!("{}: run {run} of seed {seed} fails on {:?}", target.name, String::from_utf8_lossy(input)),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{}: {runs} inputs, {accepted} accepted, {:.0} a second, seed {seed}", target.name, runs as f64 / seconds);
    assert!(runs < SHORT_RUN || accepted > runs / 1000, "{}: hardly anything is accepted, so little is tested", target.name);
}

#[test]
fn names_and_routes() {
    fuzz(&targets::NAMES);
    fuzz(&targets::ROUTES);
}

#[test]
fn ranges() {
    fuzz(&targets::RANGES);
}

#[test]
fn challenges() {
    fuzz(&targets::CHALLENGES);
}

#[test]
fn manifests() {
    fuzz(&targets::MANIFESTS);
}

#[test]
fn proxy_headers() {
    fuzz(&targets::PROXY_HEADERS);
}

#[test]
fn traces() {
    fuzz(&targets::TRACES);
}

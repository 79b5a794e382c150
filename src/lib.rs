//! **outport**: a registry pull-through proxy. One process is an *edge*: it answers image pulls from its own disk and memory, and
//! fetches from origin registries (*upstreams*) what it does not have, once, however many ask.
//!
//! # Map
//! A room imports only from lower floors, never upward and never sideways (`tests/integration/house.rs` holds this).
//! ```text
//! cli/        one file or folder for each command                            main.rs  arguments and exit codes
//! edge.rs     everything wired together: the only place that knows all rooms
//! 10 server/    accept loops, connection limits, TLS and its reload, drain
//!  9 http/      route (pure) -> authorize -> call -> respond; one error table; /v2, /acr/v1, /outport/v1, ops
//!  8 registry/  the use cases without HTTP: pull, push, discover, delete, lock identity/  who is asking; what owners change
//!    audit/     the record of who did what                                      journal/   the log: its last lines; those of all regions
//!  7 cache/     the one look-up order (memory, disk, bucket, upstream), single-flight fill, prefetch, freshness
//!    forward/   what was pushed here is passed on to the upstream that it belongs to
//!    replication/ other regions: followed, asked, copied from; how far behind they are
//!    webhooks/  receivers are told of pushes, deletions, conflicts, and images that are here whole
//!    records/   what happens, entry by entry: written here, kept in the bucket, searched across regions
//!    uploads/   sessions in which blobs arrive: hashed, to the bucket and the disk at once; the sweep of what they leave
//!  6 region/    the own region: its bucket and ledger once they are open; the others; how content is read from any of them
//!  5 ledger/    the region's ordered record: segments, append, the merge, this node's index of it
//!  4 store/     the node's disk: content-addressed blobs, the only writer, eviction
//!    upstream/  origin registries: client, challenge and tokens, health
//!    bucket/    the region's object store: keys, create-if-absent, streamed uploads, the start-up probe
//!    peers/     the other edges: of this region, where uploads have their owners, and of others, which are asked and ask
//!    otlp/      logs, traces and metrics on their way to a collector
//!  3 dial/      outgoing connections: resolver, address policy, TLS, proxies, pool
//!    traffic/   who asks how much: bounded summaries of clients, principals, repositories; what one client may take
//!  2 config/    the whole schema: load, validate, report every error with its key path
//!  1 access/    patterns, grants, the authorization value: pure decisions
//!    offload.rs what upstreams were spared
//!    trace/     which trace a piece of work belongs to, and its spans
//!  0 oci/ clock.rs metrics.rs crypto.rs (of TLS) inflow.rs (a request's body, block by block)
//! ```
//! A warm pull passes server -> http -> registry -> cache -> store and nothing else.
//!
//! # Invariants (each stands in one place, and a test holds it)
//! 1. Only `store/ingest` writes a cached blob's file (for a draft, too): temporary file, hash while writing, fsync, rename, fsync of the
//!    folder. No unverified byte is ever stored under a digest, and no client completes a blob that did not verify.
//! 2. Authorization is a value: use cases take an [`access::Access`] that only the authorizer can make. Repository first, digest second.
//! 3. One upstream transfer for a blob at a time in an edge, whoever waits; no client owns it.
//! 4. A body that cannot be completed is cut, never ended.
//! 5. 404 is confirmed absence; "cannot tell" is 503 within the deadline.
//! 6. An acknowledged push is durable in the region's bucket, bytes first, ledger last; `ledger/` has a list of its own.
//! 7. Every queue, body, cache, retry and wait has a bound from the configuration or a named constant. moka bounds size only:
//!    every expiry is a stored time judged by [`clock::Clock`].
//! 8. The disk cache is disposable: deleting it loses nothing but speed. A bucket on the local file system is not cache.
//! 9. A secret has a type that does not print.
//!
//! `unsafe` stands in one module, `store/resident`, which asks the kernel whether a part of a file is in memory.
//!
//! There is no `static` state and no global registry: several edges run in one test process. (The keys of the task-locals in `trace/` and
//! `otlp/` hold nothing themselves.)

#![deny(unsafe_code)]

pub mod access;
pub mod audit;
pub mod bucket;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod dial;
pub mod edge;
pub mod forward;
pub mod http;
pub mod identity;
pub mod inflow;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod oci;
pub mod offload;
pub mod otlp;
pub mod peers;
pub mod records;
pub mod region;
pub mod registry;
pub mod replication;
pub mod server;
pub mod store;
pub mod trace;
pub mod traffic;
pub mod uploads;
pub mod upstream;
pub mod webhooks;

pub use edge::Edge;

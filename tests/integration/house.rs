//! The house's rules, read from the sources: a room imports from lower floors only, and some crates stay in their rooms.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Crates (or parts of them) and the rooms that may name them outside of tests.
const CRATES: &[(&str, &[&str])] = &[
    ("hyper::server", &["server"]),
    ("hyper_util::server", &["server"]),
    ("hyper::service", &["server", "http"]),
    ("hyper::client", &["dial", "upstream"]),
    ("hyper_util::client", &["dial", "upstream"]),
    ("hyper", &["server", "http", "dial", "upstream"]),
    ("hyper_util", &["server", "http", "dial", "upstream"]),
    ("hickory_resolver", &["dial"]),
    ("rustls", &["crypto", "dial", "server"]),
    ("tokio_rustls", &["dial", "server"]),
    ("rustls_native_certs", &["dial"]),
    ("prometheus", &["metrics"]),
    ("redb", &["store", "ledger"]),
    ("aws_lc_rs::hmac", &["peers", "upstream", "identity", "webhooks"]),
    ("argon2", &["identity"]),
    ("object_store", &["bucket"]),
    ("jsonwebtoken", &["identity"]),
    ("opentelemetry_proto", &["otlp"]),
    ("prost", &["otlp"]),
];

/// Words that may stand in one file only.
const WORDS: &[(&str, &str)] = &[("SystemTime::now", "clock.rs")];

/// The floor of each room, and of each file that is a room by itself (without `.rs`).
type Floors = HashMap<String, u32>;

/// Above all floors: what may import everything.
const ROOF: u32 = u32::MAX;

/// Reads the map at the head of src/lib.rs: the number at a line's start is the floor, lines without one belong to the floor above
/// them, and those before the first number are the roof.
fn floors(lib: &str) -> Floors {
    let block = lib.split("//! ```text").nth(1).and_then(|rest| rest.split("//! ```").next()).expect("src/lib.rs has a map");
    let mut floors = Floors::from([("lib".to_owned(), ROOF)]);
    let mut floor = ROOF;
    for line in block.lines().filter_map(|line| line.strip_prefix("//! ")) {
        for word in line.split_whitespace() {
            if let Ok(number) = word.parse() {
                floor = number;
            }
            let room = word.strip_suffix('/').or_else(|| word.strip_suffix(".rs"));
            if let Some(room) = room.filter(|room| !room.is_empty() && room.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
                floors.insert(room.to_owned(), floor);
            }
        }
    }
    floors
}

/// A source file: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The room that it belongs to.
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many modules deep it lies below the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }
}

/// Everything that is wrong, one line each.
fn violations(floors: &Floors, sources: &[Source]) -> Vec<String> {
    let test_files = test_files(sources);
    let mut found = Vec::new();
    for source in sources {
        let code = without_comments(&source.text);
        let mut complain = |line: usize, what: String| found.push(format!("src/{}:{line}: {what}", source.path));
        let is_test_file = test_files.iter().any(|module| source.path.starts_with(module));
        // What stands below the tests' attribute may use any crate, but no higher room.
        let product = if is_test_file { "" } else { code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default() };
        check_imports(floors, source, &code, &mut complain);
        check_globs(product, &mut complain);
        check_crates(source.room(), product, &mut complain);
        check_words(&source.path, product, &mut complain);
    }
    found
}

fn check_imports(floors: &Floors, source: &Source, code: &str, complain: &mut impl FnMut(usize, String)) {
    let own = source.room();
    let Some(&floor) = floors.get(own) else {
        return complain(1, format!("the room {own} is not on the map in src/lib.rs"));
    };
    for (line, room) in crate_paths(code) {
        match floors.get(&room) {
            _ if room == own || floor == ROOF => {}
            Some(&other) if other < floor => {}
            Some(other) => complain(line, format!("{own} (floor {floor}) imports {room} (floor {other})")),
            None => complain(line, format!("{own} imports {room}, which is not on the map")),
        }
    }
    for (number, line) in code.lines().enumerate() {
        let Some(path) = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use ")) else { continue };
        if path.matches("super::").count() >= source.depth() {
            complain(number + 1, "leaves its room through `super`: write `crate::`".to_owned());
        }
    }
}

fn check_globs(code: &str, complain: &mut impl FnMut(usize, String)) {
    for (number, line) in code.lines().enumerate() {
        if line.trim_start().trim_start_matches("pub ").starts_with("use ") && line.trim_end().ends_with("::*;") {
            complain(number + 1, "a glob import".to_owned());
        }
    }
}

/// The first component of each path that begins with `crate::`, with its line; groups are taken apart.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            paths.push((line, identifier(rest)));
            continue;
        }
        let mut depth = 0;
        let mut is_start = false;
        for (offset, character) in rest.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if is_start && depth == 1 && character.is_alphabetic() {
                paths.push((line, identifier(&rest[offset..])));
            }
            is_start = depth == 1 && (matches!(character, '{' | ',') || is_start && character.is_whitespace());
        }
    }
    // Items of src/lib.rs itself are written in capitals: they are the roof's.
    paths.into_iter().map(|(line, room)| (line, if room.starts_with(char::is_uppercase) { "lib".into() } else { room })).collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn check_crates(room: &str, code: &str, complain: &mut impl FnMut(usize, String)) {
    for (number, line) in code.lines().enumerate() {
        for (name, rooms) in CRATES {
            let named = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                let before = &line[..at];
                // `crate::dial::rustls::x` or a longer word is something else.
                !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && (!before.ends_with("::") || before.ends_with(" ::"))
            });
            let imported = line.trim().strip_prefix("use ").is_some_and(|path| path.trim_end_matches(';') == *name);
            if (named || imported) && !rooms.contains(&room) {
                complain(number + 1, format!("{name} is named in {room}; it belongs to {}", rooms.join(" and ")));
            }
        }
    }
}

fn check_words(path: &str, code: &str, complain: &mut impl FnMut(usize, String)) {
    for (number, line) in code.lines().enumerate() {
        for (word, home) in WORDS {
            if line.contains(word) && path != *home {
                complain(number + 1, format!("{word} belongs to {home}"));
            }
        }
    }
}

/// The modules of tests only, `#[cfg(test)] mod name;`, as what their files' paths begin with.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for source in sources {
        let folder = match source.path.strip_suffix("mod.rs") {
            Some(folder) => folder.to_owned(),
            None => format!("{}/", source.path.trim_end_matches(".rs")),
        };
        for rest in source.text.split("#[cfg(test)]\n").skip(1) {
            let line = rest.lines().next().unwrap_or_default().trim();
            let declared = line.split_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            if let Some(name) = declared {
                files.extend([format!("{folder}{name}.rs"), format!("{folder}{name}/")]);
            }
        }
    }
    files
}

/// The text with its comments blanked, line for line.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or_default() }).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

fn read_sources(folder: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(folder).expect("it lies below").to_string_lossy().into_owned();
                sources.push(Source { path: below, text: std::fs::read_to_string(&path).expect("a text file") });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

#[test]
fn rooms_import_from_lower_floors_only() {
    let sources = read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let lib = sources.iter().find(|source| source.path == "lib.rs").expect("src/lib.rs");
    let found = violations(&floors(&lib.text), &sources);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_map_is_read_as_it_is_drawn() {
    let floors =
        floors("//! ```text\n//! cli/  one  main.rs  two\n//!  2 up/  text, /v2  side/  x\n//!    more/\n//!  0 low/ clock.rs\n//! ```");
    let mut read: Vec<_> = floors.iter().map(|(room, floor)| (room.as_str(), *floor)).collect();
    read.sort_unstable();
    assert_eq!(read, [("cli", ROOF), ("clock", 0), ("lib", ROOF), ("low", 0), ("main", ROOF), ("more", 2), ("side", 2), ("up", 2)]);
}

#[test]
fn a_planted_line_is_caught() {
    let floors = Floors::from([("lib".into(), ROOF), ("http".into(), 7), ("cache".into(), 5), ("store".into(), 4), ("upstream".into(), 4)]);
    let planted: &[(&str, &str, &str)] = &[
        ("store/x.rs", "use crate::cache::Answer;", "store (floor 4) imports cache (floor 5)"),
        ("store/x.rs", "use crate::upstream::Client;", "store (floor 4) imports upstream (floor 4)"),
        ("store/mod.rs", "fn f() { crate::http::serve() }", "store (floor 4) imports http (floor 7)"),
        ("cache/x.rs", "use crate::{store::Blob,\n    http::{Route, upstream}};", "cache (floor 5) imports http (floor 7)"),
        ("cache/x.rs", "use crate::Edge;", "cache (floor 5) imports lib"),
        ("cache/x.rs", "use crate::cellar::Wine;", "cache imports cellar, which is not on the map"),
        ("cellar/mod.rs", "", "the room cellar is not on the map"),
        ("store/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::http::x;\n}", "store (floor 4) imports http (floor 7)"),
        ("store/x.rs", "use super::super::http::x;", "leaves its room through `super`"),
        ("store/mod.rs", "use super::http::x;", "leaves its room through `super`"),
        ("store/x.rs", "use crate::store::*;", "a glob import"),
        ("cache/x.rs", "use redb::Database;", "redb is named in cache"),
        ("cache/x.rs", "fn f(_: &rustls::ClientConfig) {}", "rustls is named in cache"),
        ("cache/x.rs", "use object_store::path::Path;", "object_store is named in cache"),
        ("http/x.rs", "use hyper_util::server::conn::auto;", "hyper_util::server is named in http"),
        ("store/x.rs", "use hyper;", "hyper is named in store"),
        ("store/x.rs", "fn f() { SystemTime::now(); }", "SystemTime::now belongs to clock.rs"),
    ];
    for (path, text, complaint) in planted {
        let found = violations(&floors, &[Source { path: (*path).to_owned(), text: (*text).to_owned() }]);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(complaint), "{path}: {text}: {found:?}");
    }
}

#[test]
fn a_proper_line_is_not_caught() {
    let floors = Floors::from([("lib".into(), ROOF), ("main".into(), ROOF), ("cache".into(), 5), ("store".into(), 4), ("oci".into(), 0)]);
    let proper: &[(&str, &str)] = &[
        ("cache/x.rs", "use crate::{cache::Answer, oci::{Digest, Tag}, store::Content};\nuse super::Fill;"),
        ("cache/x.rs", "//! See [`crate::http`].\n/// and redb::Database\nfn f() {} // crate::http::x"),
        ("cache/x.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n    use rustls::ServerConfig;\n}"),
        ("store/x.rs", "use redb::Database;\nuse crate::store::redb_table::X;"),
        ("lib.rs", "use crate::cache::Cache;"),
        ("main.rs", "use outport::cache::Cache;"),
    ];
    for (path, text) in proper {
        let found = violations(&floors, &[Source { path: (*path).to_owned(), text: (*text).to_owned() }]);
        assert!(found.is_empty(), "{found:?}");
    }
    let module = Source { path: "cache/mod.rs".into(), text: "#[cfg(test)]\nmod faulty;\n".into() };
    let faulty = Source { path: "cache/faulty.rs".into(), text: "use rustls::ServerConfig;".into() };
    let below = Source { path: "cache/faulty/more.rs".into(), text: "use super::*;".into() };
    assert_eq!(violations(&floors, &[module, faulty, below]), Vec::<String>::new());
}

//! The parsers, and what always holds for them.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use outport::http::route::{Acr, Action, Begin, MAX_TAGS, Push, Question, Wanted, route};
use outport::http::{Governing, Item};
use outport::oci::{
    ByteRange, Chunk, Digest, Manifest, PushedManifest, RangeOutcome, RangeParts, ReceivedRange, Reference, RepositoryName, SessionRef, Tag,
};
use outport::registry::{Page, Told};
use outport::server::proxy_protocol::{self, Found};
use outport::trace::{Context, TRACEPARENT, TRACESTATE};
use outport::upstream::challenge::{self, Challenge};

use crate::Target;

const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;
const MAX_PAGE: usize = 10_000;

pub const NAMES: Target = Target {
    name: "names",
    seeds: &[
        "library/alpine",
        "a/b__c/d.e-f---g/h_i",
        "docker.io/library/debian",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "v1.2.3-rc.1_x86",
        "_under",
        "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
    ],
    dictionary: &[
        "/", "..", "//", "__", "___", "--", "-", ".", ":", "@", "%2f", "\0", "\u{e9}", "A", "sha256:", "sha512:", "sha384:", " ", "\n",
    ],
    check: names,
};

fn names(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let mut accepted = false;
    if let Ok(name) = text.parse::<RepositoryName>() {
        accepted = true;
        good_name(&name);
        assert_eq!(name.as_str(), text);
        if let Some(rest) = name.without_components(1) {
            good_name(&rest);
        }
    }
    if let Ok(tag) = text.parse::<Tag>() {
        accepted = true;
        good_tag(&tag);
        assert_eq!(tag.as_str(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        accepted = true;
        good_digest(&digest);
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert!(accepted, "a reference is a tag or a digest");
        assert_eq!(reference.to_string(), text);
    }
    accepted
}

/// The grammar of the distribution specification, written differently from the product: what is left out cannot walk paths.
fn good_name(name: &RepositoryName) {
    let text = name.as_str();
    assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
    for component in text.split('/') {
        assert!(component.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)));
        let is_word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        assert!(is_word(component.bytes().next()) && is_word(component.bytes().last()));
        assert!(!["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| component.contains(pair)));
    }
    assert_eq!(text.parse::<RepositoryName>().as_ref(), Ok(name));
}

fn good_tag(tag: &Tag) {
    let text = tag.as_str();
    assert!((1..=MAX_TAG_BYTES).contains(&text.len()));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
    assert!(!text.starts_with(['.', '-']));
}

fn good_digest(digest: &Digest) {
    assert_eq!(digest.hex().len(), digest.algorithm().hash_bytes() * 2);
    assert_eq!(digest.to_string().parse::<Digest>().as_ref(), Ok(digest));
    assert_eq!(Digest::from_parts(digest.algorithm(), digest.as_bytes()).as_ref(), Some(digest));
}

pub const ROUTES: Target = Target {
    name: "routes",
    seeds: &[
        "GET /v2/",
        "GET /v2/library/alpine/manifests/latest?ns=docker.io",
        "HEAD /v2/a/b/manifests/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "GET /v2/docker.io/library/debian/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "GET /v2/a/tags/list?n=10&last=v1%2e0",
        "GET /v2/a/referrers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?artifactType=application/vnd.x%2Bjson",
        "GET /v2/_catalog?n=100&last=a/b",
        "GET /readyz",
        "POST /outport/v1/refresh",
        "POST /outport/v1/prefetch",
        "POST /outport/v1/webhooks/ci/ping",
        "GET /v2/manifests/blobs/manifests/tags",
        "POST /v2/a/b/blobs/uploads/",
        "POST /v2/a/blobs/uploads/?digest-algorithm=sha512",
        "POST /v2/a/blobs/uploads/?digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "POST /v2/a/blobs/uploads/?mount=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855&from=b/c",
        "GET /v2/a/blobs/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV?_state=a.b-c_d==",
        "PATCH /v2/a/blobs/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV?_state=abc",
        "PUT /v2/a/blobs/uploads/x?_state=abc&digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "DELETE /v2/a/blobs/uploads/x",
        "PUT /v2/a/manifests/v1",
        "PUT /v2/a/manifests/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855?tag=v1&tag=v2",
        "DELETE /v2/a/manifests/v1",
        "DELETE /v2/a/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
    dictionary: &[
        "/",
        "//",
        "..",
        "/../",
        ".",
        "%2f",
        "%2F",
        "%2e%2e",
        "%25",
        "%00",
        "%",
        "%zz",
        "?",
        "&",
        "=",
        "#",
        ";",
        "\\",
        "\0",
        "\u{e9}",
        "+",
        "v2",
        "/v2/",
        "manifests",
        "/manifests/",
        "blobs",
        "/blobs/",
        "uploads",
        "tags",
        "list",
        "/tags/list",
        "referrers",
        "_catalog",
        "ns=",
        "n=",
        "last=",
        "artifactType=",
        "digest=",
        "digest-algorithm=",
        "mount=",
        "from=",
        "_state=",
        "/outport/v1/principals/",
        "/outport/v1/admin/passwords/1",
        "/outport/v1/roles/",
        "/outport/v1/rules?n=",
        "/secrets/2",
        "/outport/v1/ledger/",
        "/outport/v1/resolve?",
        "/outport/v1/content/",
        "/outport/v1/replication/",
        "/outport/v1/wait?image=",
        "/outport/v1/conflicts?last=",
        "/acr/v1/",
        "/_tags/v1",
        "/_manifests/",
        "/oauth2/token?scope=",
        "/oauth2/exchange",
        "after=",
        "wait=",
        "repository=",
        "reference=",
        "blob=",
        "tag=",
        "&tag=v3",
        "/blobs/uploads/",
        "sha256:",
        "@",
        "HEAD ",
        "PUT ",
        "PATCH ",
        "POST ",
        "DELETE ",
        "OPTIONS ",
        "TRACE ",
        "a",
        "A",
        "127.0.0.1",
    ],
    check: routes,
};

fn routes(input: &[u8]) -> bool {
    let Some((method, target)) = split(input, b' ') else { return false };
    let (path, query) = split(target, b'?').unwrap_or((target, b""));
    let (Ok(method), Ok(query)) = (Method::from_bytes(method), std::str::from_utf8(query)) else { return false };
    let Ok(action) = route(&method, path, query) else { return false };
    let reads = method == Method::GET || method == Method::HEAD;
    match action {
        Action::Version
        | Action::Ready
        | Action::Forwards
        | Action::Overview
        | Action::SignIns
        | Action::Audit(_)
        | Action::Webhooks
        | Action::Offload
        | Action::Watched
        | Action::Top(_) => {
            assert!(reads);
        }
        Action::Logs(excerpt) => {
            assert!(reads);
            assert!((1..=1_000).contains(&excerpt.lines));
        }
        Action::SearchLogs(query) => {
            assert!(reads);
            assert!((1..=1_000).contains(&query.limit));
        }
        Action::Wait(wait) => {
            assert!(reads);
            assert!(wait.within <= Duration::from_secs(600));
        }
        Action::Catalog(page) | Action::AcrCatalog(page) | Action::Conflicts(page) => {
            assert!(reads);
            good_page(&page);
        }
        Action::Read { name, wanted, .. } => {
            assert!(reads);
            good_name(&name);
            match wanted {
                Wanted::Manifest(Reference::Tag(tag)) | Wanted::Receipt(Reference::Tag(tag)) => good_tag(&tag),
                Wanted::Manifest(Reference::Digest(digest)) | Wanted::Receipt(Reference::Digest(digest)) | Wanted::Blob(digest) => {
                    good_digest(&digest);
                }
                Wanted::Referrers { subject, .. } => good_digest(&subject),
                Wanted::Tags(page) => good_page(&page),
            }
        }
        Action::Write { name, wanted, .. } => {
            good_name(&name);
            good_push(&method, &wanted);
        }
        Action::Command(_) | Action::Exchange | Action::TokenForm | Action::Ping(_) => assert!(method == Method::POST),
        Action::Acr { name, wanted, .. } => {
            good_name(&name);
            good_attributes(&method, &wanted);
        }
        Action::Govern(governing) => good_governing(&method, &governing),
        Action::Token(request) => {
            assert!(reads);
            assert!(request.scopes.len() <= 100);
        }
        Action::Peer(question) => {
            assert!(reads);
            good_question(&question);
        }
    }
    true
}

fn good_attributes(method: &Method, wanted: &Acr) {
    let reads = method == Method::GET || method == Method::HEAD;
    match wanted {
        Acr::Repository | Acr::Tags { .. } | Acr::Manifests(_) => assert!(reads),
        Acr::Tag(tag) => {
            assert!(reads);
            good_tag(tag);
        }
        Acr::Manifest(digest) => {
            assert!(reads);
            good_digest(digest);
        }
        Acr::ChangeRepository => assert!(method == Method::PATCH),
        Acr::ChangeTag(tag) => {
            assert!(method == Method::PATCH);
            good_tag(tag);
        }
        Acr::ChangeManifest(digest) => {
            assert!(method == Method::PATCH);
            good_digest(digest);
        }
        Acr::DeleteRepository => assert!(method == Method::DELETE),
        Acr::DeleteTag(tag) => {
            assert!(method == Method::DELETE);
            good_tag(tag);
        }
    }
}

fn good_governing(method: &Method, governing: &Governing) {
    let reads = method == Method::GET || method == Method::HEAD;
    let good_text = |text: &str| assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{text:?}");
    let good_item = |item: &Item| match item {
        Item::Principal(text) | Item::Secret(text, _) | Item::Role(text) | Item::Rule(text) => good_text(text),
    };
    match governing {
        Governing::List(_, page) => {
            assert!(reads);
            good_page(page);
        }
        Governing::Show(item) => {
            assert!(reads);
            good_item(item);
        }
        Governing::Remove(item) => {
            assert!(method == Method::DELETE);
            good_item(item);
        }
        Governing::Create(_) => assert!(method == Method::POST),
        Governing::Switch(name) => {
            assert!(method == Method::PATCH);
            good_text(name);
        }
        Governing::Regenerate(name, _) => {
            assert!(method == Method::POST);
            good_text(name);
        }
    }
}

fn good_question(question: &Question) {
    match question {
        Question::Status | Question::Audit(_) => {}
        Question::Logs(query) => assert!((1..=1_000).contains(&query.limit)),
        Question::Segments { origin, wait, .. } => {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            assert!(origin.to_string().bytes().all(good) && *wait <= Duration::from_secs(30));
        }
        Question::Snapshots(origin) | Question::SnapshotPart { origin, .. } => {
            assert!(origin.to_string().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)));
        }
        Question::Resolve { repository, wanted } => {
            good_name(repository);
            match wanted {
                Told::Manifest(reference) => good_reference(reference),
                Told::Blob(digest) => good_digest(digest),
            }
        }
        Question::Content(digest) => good_digest(digest),
    }
}

fn good_push(method: &Method, push: &Push) {
    match push {
        Push::Begin(begin) => {
            assert!(method == Method::POST);
            match begin {
                Begin::Session(_) => {}
                Begin::Whole(digest) => good_digest(digest),
                Begin::Mount { digest, from } => {
                    good_digest(digest);
                    from.iter().for_each(good_name);
                }
            }
        }
        Push::Status(session) => good_session(session, method == Method::GET || method == Method::HEAD),
        Push::Chunk(session) => good_session(session, method == Method::PATCH),
        Push::Cancel(session) => good_session(session, method == Method::DELETE),
        Push::Finish { session, digest } => {
            good_session(session, method == Method::PUT);
            good_digest(digest);
        }
        Push::Manifest { reference, tags } => {
            assert!(method == Method::PUT);
            good_reference(reference);
            tags.iter().for_each(good_tag);
            assert!(tags.len() <= MAX_TAGS && (tags.is_empty() || matches!(reference, Reference::Digest(_))));
            assert!(tags.iter().enumerate().all(|(at, tag)| !tags[..at].contains(tag)), "each tag once");
        }
        Push::DeleteManifest(reference) => {
            assert!(method == Method::DELETE);
            good_reference(reference);
        }
        Push::DeleteBlob(digest) => {
            assert!(method == Method::DELETE);
            good_digest(digest);
        }
    }
}

fn good_reference(reference: &Reference) {
    match reference {
        Reference::Tag(tag) => good_tag(tag),
        Reference::Digest(digest) => good_digest(digest),
    }
}

/// What stands in a Location can stand in a log line, a file's name and a header.
fn good_session(session: &SessionRef, good_method: bool) {
    assert!(good_method);
    let good =
        |text: &str, others: &[u8]| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    assert!(good(session.id.as_str(), b"-_.=") && session.id.as_str().len() <= 64);
    assert!(session.state.as_ref().is_none_or(|state| good(state.as_str(), b"-_.=~")));
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

fn good_page(page: &Page) {
    assert!(page.limit <= MAX_PAGE);
    assert!(page.last.as_ref().is_none_or(|last| !last.is_empty()));
}

pub const RANGES: Target = Target {
    name: "ranges",
    seeds: &["bytes=0-", "bytes=0-0", "bytes=5-1023", "bytes=-1", "bytes=-18446744073709551615", "BYTES = 7-9", "0-0", "512-1023"],
    dictionary: &["bytes", "=", "-", ",", " ", "\t", "+", "0x", "0-1,", "items", "*/", "00"],
    check: ranges,
};

fn ranges(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    if chunks(text) {
        return true;
    }
    let Some(range) = ByteRange::parse(text) else { return false };
    for size_bytes in [0, 1, 2, 7, 1024, u64::MAX - 1, u64::MAX] {
        match range.resolve(size_bytes) {
            RangeOutcome::Part(part) => {
                assert!(part.start < part.end && part.end <= size_bytes);
                let shown = RangeParts { range: part.clone(), size_bytes }.to_string();
                assert_eq!(shown, format!("bytes {}-{}/{size_bytes}", part.start, part.end - 1));
                match range {
                    ByteRange::From { first, last } => assert!(part.start == first && last.is_none_or(|last| part.end - 1 <= last)),
                    ByteRange::Suffix { length } => assert!(part.end == size_bytes && part.end - part.start <= length),
                }
            }
            RangeOutcome::Unsatisfiable => match range {
                ByteRange::From { first, .. } => assert!(first >= size_bytes),
                ByteRange::Suffix { length } => assert!(length == 0 || size_bytes == 0),
            },
            RangeOutcome::Whole => panic!("a range that was read is not ignored"),
        }
    }
    true
}

/// The Content-Range of a chunk: `^[0-9]+-[0-9]+$` and nothing else.
fn chunks(text: &str) -> bool {
    let Ok(chunk) = Chunk::parse(Some(text), None) else { return false };
    assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') && text.matches('-').count() == 1);
    let (Some(first), Some(size_bytes)) = (chunk.first, chunk.size_bytes) else { panic!("a range says both") };
    assert!(size_bytes > 0 && chunk.follows(first) && !chunk.follows(first.wrapping_add(1)));
    assert_eq!(Chunk::parse(Some(text), Some(size_bytes)), Ok(chunk));
    assert!(Chunk::parse(Some(text), Some(size_bytes - 1)).is_err());
    if let Some(received_bytes) = first.checked_add(size_bytes) {
        let last: u64 = text.split('-').next_back().and_then(|last| last.parse().ok()).expect("digits");
        assert_eq!(ReceivedRange { received_bytes }.to_string(), format!("0-{last}"));
    }
    true
}

pub const CHALLENGES: Target = Target {
    name: "challenges",
    seeds: &[
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
        r#"Basic realm="Registry", Bearer realm="https://a.test/token""#,
        r#"Negotiate dGVzdA==, basic realm=x"#,
        r#"bearer realm = "a\"b\\c" , error="insufficient_scope""#,
        "Basic",
    ],
    dictionary: &[
        "Bearer ",
        "Basic ",
        "Negotiate ",
        "realm=",
        "service=",
        "scope=",
        "error=",
        "\"",
        "\\\"",
        "\\",
        ",",
        " ",
        "\t",
        "=",
        "==",
        ", ,",
        "\u{e9}",
        "\0",
        "\r\n",
        "token68==",
        "realm=\"\"",
        "x=",
    ],
    check: challenges,
};

fn challenges(input: &[u8]) -> bool {
    let Ok(header) = std::str::from_utf8(input) else { return false };
    let found = challenge::parse(header);
    assert!(found.len() <= 16);
    for each in &found {
        match each {
            Challenge::Basic => assert!(header.to_ascii_lowercase().contains("basic")),
            Challenge::Bearer { realm, service, scope } => {
                assert!(header.to_ascii_lowercase().contains("bearer"));
                let texts = realm.len() + service.as_ref().map_or(0, String::len) + scope.as_ref().map_or(0, String::len);
                assert!(texts <= header.len(), "nothing is made up");
            }
        }
    }
    assert_eq!(challenge::parse(header), found);
    !found.is_empty()
}

pub const PROXY_HEADERS: Target = Target {
    name: "proxy headers",
    seeds: &[
        "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n",
        "PROXY TCP6 2001:db8::9 ::ffff:10.0.0.1 1 65535\r\nGET",
        "PROXY UNKNOWN\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0cabcdefghijkl",
        "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x26abcdefghijklmnopabcdefghijklmnopabcdef",
        "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ],
    dictionary: &[
        "PROXY ",
        "TCP4",
        "TCP6",
        "UNKNOWN",
        " ",
        "  ",
        "\r\n",
        "\r",
        "\n",
        "\0",
        "::",
        ":",
        ".",
        "0",
        "65536",
        "255.255.255.255",
        "\r\n\r\n\0\r\nQUIT\n",
        "\x20",
        "\x21",
        "\x22",
        "\x11",
        "\x12",
        "\x7f\x7f",
        "::ffff:1.2.3.4",
        "%eth0",
    ],
    check: proxy_headers,
};

/// As the server reads: never more than was asked for.
fn proxy_headers(input: &[u8]) -> bool {
    const MOST_BYTES: usize = 16 + 4096;
    let mut here = 0;
    loop {
        match proxy_protocol::judge(&input[..here]) {
            Found::Partial(missing) => {
                assert!(missing > 0 && here + missing <= MOST_BYTES);
                here += missing;
                if here > input.len() {
                    return false;
                }
            }
            Found::Malformed => return false,
            Found::Header(None) => return true,
            Found::Header(Some(client)) => {
                assert_eq!(client, client.to_canonical());
                let text = String::from_utf8_lossy(&input[..here]);
                let is_line = text.starts_with("PROXY ");
                assert!(!is_line || (text.ends_with("\r\n") && text.matches('\n').count() == 1 && here <= 107));
                assert!(is_line || text.starts_with("\r\n\r\n\0\r\nQUIT\n"));
                return true;
            }
        }
    }
}

pub const TRACES: Target = Target {
    name: "traces",
    seeds: &[
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\nvendor=1,rojo=00f067aa0ba902b7",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-more\na@b=1\n, ,c=2",
    ],
    dictionary: &[
        "-",
        "--",
        "00",
        "ff",
        "01",
        "0",
        "A",
        "\n",
        ",",
        ", ",
        "=",
        "\t",
        " ",
        "\u{e9}",
        "0000000000000000",
        "00000000000000000000000000000000",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00f067aa0ba902b7",
        "a=1,",
        "\n\n",
    ],
    check: traces,
};

/// The first line is a `traceparent`, each further one a `tracestate`. What is passed on says the same, and is bounded.
fn traces(input: &[u8]) -> bool {
    const MAX_STATE_BYTES: usize = 512;
    let mut lines = input.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let Some(Ok(parent)) = lines.next() else { return false };
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, parent.clone());
    for state in lines.flatten() {
        headers.append(TRACESTATE, state);
    }
    let Some(context) = Context::of(&headers) else {
        assert_eq!(Context::parse(parent.as_bytes()), None);
        return false;
    };
    let text = parent.as_bytes();
    assert_eq!(&text[3..52], format!("{}-{}", context.trace_id, context.span_id).as_bytes());
    assert!(text.len() == 55 || !text.starts_with(b"00"));
    assert!(context.trace_id.to_bytes() != [0; 16] && context.span_id.to_bytes() != [0; 8]);
    let mut passed_on = headers.clone();
    context.put_on(&mut passed_on);
    assert_eq!(Context::of(&passed_on).as_ref(), Some(&context));
    assert_eq!(&passed_on[TRACEPARENT].as_bytes()[2..], &text[2..55]);
    if let Some(state) = &context.state {
        let came: Vec<&[u8]> = headers.get_all(TRACESTATE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).collect();
        assert!(state.len() <= MAX_STATE_BYTES);
        for member in state.as_bytes().split(|byte| *byte == b',') {
            assert!(came.iter().any(|came| came.trim_ascii() == member), "nothing is made up");
        }
    }
    let child = context.child();
    assert!(child.trace_id == context.trace_id && child.span_id != context.span_id && child.is_sampled() == context.is_sampled());
    true
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub const MANIFESTS: Target = Target {
    name: "manifests",
    seeds: &[
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":18446744073709551615,"urls":["https://a.test/x"],"annotations":{"a":"b"}}],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},"annotations":{"k":"v"}}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}"#,
        r#"{"layers":[],"x":[[[[{"y":null}]]]]}"#,
        "{}",
    ],
    dictionary: &[
        "{",
        "}",
        "[",
        "]",
        "[[[[[[[[",
        "{\"a\":",
        ":",
        ",",
        "null",
        "true",
        "\"\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"layers\":",
        "\"manifests\":[]",
        "\"config\":{}",
        "\"digest\":\"sha256:00\"",
        "\"size\":-1",
        "\"size\":1.5",
        "\"urls\":[\"x\"],",
        "\"mediaType\":\"x\",",
        "\"schemaVersion\":1,",
        "\u{feff}",
        "\0",
        " ",
    ],
    check: manifests,
};

fn manifests(input: &[u8]) -> bool {
    let mut accepted = false;
    for media_type in [IMAGE, INDEX, "application/vnd.oci.image.index.v1+json; charset=utf-8"] {
        let Ok(manifest) = Manifest::parse(input, media_type) else { continue };
        accepted = true;
        for blob in manifest.blobs() {
            assert!(blob.urls.is_empty(), "a foreign layer is never fetched");
            good_digest(&blob.digest);
        }
        match &manifest {
            Manifest::Image(image) => {
                assert!(media_type == IMAGE);
                assert!(manifest.blobs().count() <= image.layers.len() + 1);
            }
            Manifest::Index(index) => {
                assert!(media_type != IMAGE && manifest.blobs().next().is_none());
                // An answer that is made of what an index lists is an index again, and lists the same.
                let answer = outport::oci::referrers_index(&index.manifests);
                let Ok(Manifest::Index(again)) = Manifest::parse(&answer, INDEX) else { panic!("a referrers answer is an index") };
                assert_eq!(again.manifests, index.manifests);
            }
        }
    }
    assert!(Manifest::parse(input, "text/html").is_err());
    pushed_manifest(input) || accepted
}

/// What is accepted of those who push can be read by those who pull, and says the same.
fn pushed_manifest(input: &[u8]) -> bool {
    let mut accepted = false;
    for content_type in [Some(IMAGE), Some(INDEX), None] {
        let Ok(pushed) = PushedManifest::parse(input, content_type) else { continue };
        accepted = true;
        let Ok(read) = Manifest::parse(input, pushed.media_type) else { panic!("what was accepted is not readable") };
        let needed: std::collections::HashSet<_> = pushed.blobs.iter().map(|blob| blob.digest).collect();
        assert_eq!(needed.len(), pushed.blobs.len(), "each digest once");
        for reference in pushed.references() {
            good_digest(&reference.digest);
            assert!(reference.size <= i64::MAX as u64);
        }
        match read {
            Manifest::Image(image) => {
                let mut own = image.layers.iter().filter(|layer| layer.urls.is_empty() && !layer.media_type.contains("nondistributable"));
                assert!(own.all(|layer| needed.contains(&layer.digest) || layer.media_type.contains("foreign")));
                assert!(pushed.manifests.is_empty());
                assert_eq!((image.subject, image.artifact_type), (pushed.subject.clone(), pushed.artifact_type.clone()));
            }
            Manifest::Index(index) => {
                assert!(pushed.foreign.is_empty() && pushed.references().count() <= index.manifests.len());
                assert_eq!(index.subject, pushed.subject);
            }
        }
        let digest = Digest::sha256(input);
        assert_eq!(pushed.descriptor(digest).size, input.len() as u64);
    }
    accepted
}

//! Stands between an HTTP/1 client's bytes and hyper: passes whole heads that were judged, and bodies up to their end. Pure.
//!
//! A head that is refused never reaches hyper. In its place hyper gets a small well-formed request, which the doorway knows by its
//! number and answers with the refusal. So answers keep their order on a connection with pipelined requests, and hyper does all the
//! writing.

use super::chunks::{Chunks, Step};
use super::head::{self, Found, Framing, Scan};
use super::refusal::Refusal;

/// What hyper gets in place of a refused head.
const STAND_IN: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

#[derive(Debug, Default)]
pub struct Screen {
    place: Place,
    /// The beginning of a head.
    held: Vec<u8>,
    /// Bytes that may pass but did not fit yet, and how many of them have passed.
    queue: Vec<u8>,
    passed: usize,
    /// Heads passed so far.
    heads: u64,
}

#[derive(Debug)]
enum Place {
    Head(Scan),
    Length(u64),
    Chunked(Chunks),
    /// A head was refused: nothing more passes.
    Refused(Refusal),
    /// A body is malformed: reading it fails.
    Broken,
}

impl Default for Place {
    fn default() -> Place {
        Place::Head(Scan::default())
    }
}

impl From<Framing> for Place {
    fn from(framing: Framing) -> Place {
        match framing {
            Framing::Length(0) => Place::default(),
            Framing::Length(size) => Place::Length(size),
            Framing::Chunked => Place::Chunked(Chunks::default()),
        }
    }
}

/// What the reader may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Read on, between requests or in a head.
    Head,
    /// Read on, in a body.
    Body,
    /// Read and drop.
    Refused,
    /// Fail.
    Broken,
}

impl Screen {
    pub fn standing(&self) -> Standing {
        match self.place {
            Place::Head(_) => Standing::Head,
            Place::Length(_) | Place::Chunked(_) => Standing::Body,
            Place::Refused(_) => Standing::Refused,
            Place::Broken => Standing::Broken,
        }
    }

    /// Whether a part of a head is here.
    pub fn holds_head(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many heads passed, without a stand-in.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// The request to refuse, by its number on this connection from 0.
    pub fn refusal(&self) -> Option<(u64, Refusal)> {
        match self.place {
            Place::Refused(refusal) => Some((self.heads, refusal)),
            Place::Broken => Some((self.heads.saturating_sub(1), Refusal::Malformed)),
            _ => None,
        }
    }

    /// Takes bytes that arrived, and says how many of them pass at once. The others are kept here or dropped.
    pub fn arrive(&mut self, fresh: &[u8]) -> usize {
        if matches!(self.place, Place::Refused(_) | Place::Broken) {
            return 0;
        }
        let at_once = if self.held.is_empty() {
            let passing = self.follow(fresh);
            self.hold(fresh.get(passing..).unwrap_or_default());
            passing
        } else {
            self.held.extend_from_slice(fresh);
            let held = std::mem::take(&mut self.held);
            let passing = self.follow(&held);
            self.queue.extend_from_slice(held.get(..passing).unwrap_or_default());
            self.hold(held.get(passing..).unwrap_or_default());
            0
        };
        if matches!(self.place, Place::Refused(_)) {
            self.queue.extend_from_slice(STAND_IN);
        }
        at_once
    }

    /// Bytes that pass before any that arrive later, at most `limit`.
    pub fn queued(&mut self, limit: usize) -> &[u8] {
        if self.passed == self.queue.len() {
            self.queue = Vec::new();
            self.passed = 0;
        }
        let from = self.passed;
        self.passed = self.queue.len().min(from.saturating_add(limit));
        self.queue.get(from..self.passed).unwrap_or_default()
    }

    fn hold(&mut self, rest: &[u8]) {
        if matches!(self.place, Place::Head(_)) {
            self.held = rest.to_vec();
        }
    }

    /// Follows requests through `bytes`; returns how many of them belong to what may pass.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (used, place) = match &mut self.place {
                Place::Head(scan) => match scan.advance(rest) {
                    Found::Partial => break,
                    Found::Refused(refusal) => (0, Some(Place::Refused(refusal))),
                    Found::End(end) => match head::judge(rest.get(..end).unwrap_or_default()) {
                        Err(refusal) => (0, Some(Place::Refused(refusal))),
                        Ok(framing) => {
                            self.heads += 1;
                            (end, Some(framing.into()))
                        }
                    },
                },
                Place::Length(left) => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= used as u64;
                    (used, (*left == 0).then(Place::default))
                }
                Place::Chunked(chunks) => match chunks.advance(rest) {
                    Ok(Step::Inside) => (rest.len(), None),
                    Ok(Step::Ended(end)) => (end, Some(Place::default())),
                    Err(_) => (0, Some(Place::Broken)),
                },
                Place::Refused(_) | Place::Broken => break,
            };
            at += used;
            if let Some(place) = place {
                self.place = place;
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper sees when `bytes` arrive in pieces of `size`.
    fn seen(bytes: &[u8], size: usize) -> (String, Screen) {
        let mut screen = Screen::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            let passing = screen.arrive(piece);
            seen.extend_from_slice(&piece[..passing]);
            loop {
                let queued = screen.queued(7);
                if queued.is_empty() {
                    break;
                }
                seen.extend_from_slice(queued);
            }
        }
        (String::from_utf8(seen).unwrap(), screen)
    }

    #[test]
    fn good_requests_pass_untouched() {
        let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\nPUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nab\nPATCH /a HTTP/1.1\r\n\
                        Transfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\n\r\nGET /last HTTP/1.1\r\n\r\n";
        for size in 1..requests.len() {
            let (seen, screen) = seen(requests.as_bytes(), size);
            assert_eq!(seen, requests, "{size}");
            assert_eq!((screen.heads(), screen.standing(), screen.refusal()), (4, Standing::Head, None), "{size}");
            assert!(!screen.holds_head());
        }
    }

    #[test]
    fn a_refused_head_never_passes() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let requests = format!("{good}GET /smuggled HTTP/1.1\nHost: a\r\n\r\nGET /more HTTP/1.1\r\n\r\n");
        for size in 1..requests.len() {
            let (seen, screen) = seen(requests.as_bytes(), size);
            assert_eq!(seen, format!("{good}{}", std::str::from_utf8(STAND_IN).unwrap()), "{size}");
            assert_eq!(screen.refusal(), Some((1, Refusal::Malformed)), "{size}");
        }
    }

    #[test]
    fn a_broken_body_is_cut() {
        let head = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let (_, screen) = seen(format!("{head}zz\r\nGET /smuggled HTTP/1.1\r\n\r\n").as_bytes(), 1000);
        assert_eq!(screen.standing(), Standing::Broken);
        assert_eq!(screen.refusal(), Some((0, Refusal::Malformed)));
    }
}

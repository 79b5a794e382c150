//! Walks from frame to frame through one side of an HTTP/2 connection (RFC 9113 section 4.1), looking only at their heads.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The client's preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// A WINDOW_UPDATE frame's payload is looked at too.
const WORD_BYTES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub size_bytes: u32,
    /// A WINDOW_UPDATE frame's increment, else 0.
    pub word: u32,
}

impl FrameHead {
    /// Whether it is a part of a header block.
    pub fn begins_head(&self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
    }

    /// Whether it is the last part of one.
    pub fn ends_head(&self) -> bool {
        self.begins_head() && self.flags & END_HEADERS != 0
    }
}

#[derive(Debug)]
pub struct Walk {
    preface_left: usize,
    head: [u8; HEAD_BYTES + WORD_BYTES],
    head_len: usize,
    payload_left: usize,
}

impl Walk {
    /// The client's side, which begins with the preface.
    pub fn client() -> Walk {
        Walk { preface_left: PREFACE_BYTES, ..Walk::server() }
    }

    pub fn server() -> Walk {
        Walk { preface_left: 0, head: [0; HEAD_BYTES + WORD_BYTES], head_len: 0, payload_left: 0 }
    }

    /// The next frame whose head ends in `bytes`, which are used up to there; `None` when all are used up.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        *bytes = skip(bytes, &mut self.preface_left);
        *bytes = skip(bytes, &mut self.payload_left);
        while let [byte, rest @ ..] = *bytes {
            *bytes = rest;
            *self.head.get_mut(self.head_len)? = *byte;
            self.head_len += 1;
            if self.head_len == self.wanted() {
                return Some(self.frame());
            }
        }
        None
    }

    /// Whether the bytes ended inside of the preface or of a frame's head.
    pub fn inside_head(&self) -> bool {
        self.head_len > 0 || !self.preface_left.is_multiple_of(PREFACE_BYTES)
    }

    pub fn inside_payload(&self) -> bool {
        self.payload_left > 0
    }

    fn size_bytes(&self) -> u32 {
        let [high, middle, low, ..] = self.head;
        u32::from_be_bytes([0, high, middle, low])
    }

    fn wanted(&self) -> usize {
        let word = self.head_len >= HEAD_BYTES && self.head[3] == WINDOW_UPDATE && self.size_bytes() == 4;
        if word { HEAD_BYTES + WORD_BYTES } else { HEAD_BYTES }
    }

    fn frame(&mut self) -> FrameHead {
        let [_, _, _, kind, flags, s0, s1, s2, s3, w0, w1, w2, w3] = self.head;
        let size_bytes = self.size_bytes();
        let (word, seen) = match self.head_len {
            HEAD_BYTES => (0, 0),
            _ => (u32::from_be_bytes([w0, w1, w2, w3]) & (u32::MAX >> 1), WORD_BYTES),
        };
        self.head_len = 0;
        self.payload_left = usize::try_from(size_bytes).unwrap_or(usize::MAX).saturating_sub(seen);
        FrameHead { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & (u32::MAX >> 1), size_bytes, word }
    }
}

/// Drops up to `left` bytes from the front, and counts them down.
fn skip<'a>(bytes: &'a [u8], left: &mut usize) -> &'a [u8] {
    let count = bytes.len().min(*left);
    *left -= count;
    bytes.get(count..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_arrive() {
        let mut bytes = vec![b'x'; PREFACE_BYTES];
        bytes.extend([0, 0, 3, HEADERS, END_STREAM, 0, 0, 0, 1, b'a', b'b', b'c']);
        bytes.extend([0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0x80, 0, 1, 2]);
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let expected = [
            FrameHead { kind: HEADERS, flags: END_STREAM, stream: 1, size_bytes: 3, word: 0 },
            FrameHead { kind: WINDOW_UPDATE, flags: 0, stream: 0, size_bytes: 4, word: 258 },
            FrameHead { kind: 4, flags: 0, stream: 0, size_bytes: 0, word: 0 },
        ];
        for size in 1..=bytes.len() {
            let mut walk = Walk::client();
            let mut found = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(frame) = walk.next(&mut piece) {
                    found.push(frame);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(found, expected, "{size}");
            assert!(!walk.inside_head() && !walk.inside_payload());
        }
    }
}

//! How a file of the record lies in a bucket: as gzip, which every tool reads.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// The most that a file is unpacked to: as long as one may be, and its last line.
const MAX_FILE_BYTES: u64 = 33 << 20;

pub(super) fn pack(lines: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 8), Compression::default());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(lines);
    encoder.finish().unwrap_or_default()
}

/// `None` for what is no such file, or too long.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut lines = Vec::new();
    GzDecoder::new(packed).take(MAX_FILE_BYTES + 1).read_to_end(&mut lines).ok()?;
    (lines.len() as u64 <= MAX_FILE_BYTES).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_unpacks_to_what_it_was_and_a_bomb_does_not() {
        for lines in [&b""[..], b"{}\n", &b"{\"a\":1}\n".repeat(10_000)] {
            assert_eq!(unpack(&pack(lines)).as_deref(), Some(lines));
        }
        assert_eq!(unpack(b"not gzip"), None);
        assert_eq!(unpack(&pack(&vec![b' '; 34 << 20])), None);
    }
}

//! A database file that is only read: what redb writes, to recover it, stays in memory. So records can be read from a disk that
//! takes no writes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use redb::StorageBackend;

use super::super::lock;

const BLOCK_BYTES: u64 = 4_096;

#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    file_bytes: u64,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// By number; few, since only a recovery writes.
    blocks: HashMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub fn open(path: &Path) -> io::Result<Overlay> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        Ok(Overlay { file, file_bytes, written: Mutex::new(Written { length: file_bytes, blocks: HashMap::new() }) })
    }

    /// A block as the file has it, with zeros beyond its end.
    fn block(&self, number: u64) -> io::Result<Box<[u8]>> {
        let mut block = vec![0; BLOCK_BYTES as usize].into_boxed_slice();
        let start = number * BLOCK_BYTES;
        let there = self.file_bytes.saturating_sub(start).min(BLOCK_BYTES) as usize;
        self.file.read_exact_at(&mut block[..there], start)?;
        Ok(block)
    }
}

/// The parts of `length` bytes at `offset`, by block: its number, and where the part begins and ends in it.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + length as u64;
    (offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).map(move |number| {
        let start = number * BLOCK_BYTES;
        (number, (offset.max(start) - start) as usize, (end.min(start + BLOCK_BYTES) - start) as usize)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.written).length)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let written = lock(&self.written);
        if offset.saturating_add(out.len() as u64) > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, from, to) in parts(offset, out.len()) {
            let (part, rest) = std::mem::take(&mut out).split_at_mut(to - from);
            match written.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[from..to]),
                None => part.copy_from_slice(&self.block(number)?[from..to]),
            }
            out = rest;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        lock(&self.written).length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        written.length = written.length.max(offset + bytes.len() as u64);
        for (number, from, to) in parts(offset, bytes.len()) {
            let (part, rest) = bytes.split_at(to - from);
            let block = match written.blocks.remove(&number) {
                Some(block) => block,
                None => self.block(number)?,
            };
            written.blocks.entry(number).or_insert(block)[from..to].copy_from_slice(part);
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_seen_and_the_file_is_as_it_was() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let before: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        std::fs::write(named.path(), &before).unwrap();
        let overlay = Overlay::open(named.path()).unwrap();
        let mut model = before.clone();
        model.resize(20_000, 0);
        overlay.set_len(20_000).unwrap();
        for (offset, length) in [(0, 1), (4_095, 2), (100, 9_000), (9_990, 20), (19_999, 1), (8_192, 4_096)] {
            overlay.write(offset as u64, &vec![7; length]).unwrap();
            model[offset..offset + length].fill(7);
        }
        let mut read = vec![0; 20_000];
        overlay.read(0, &mut read).unwrap();
        assert!(read == model);
        overlay.read(4_000, &mut read[..9_000]).unwrap();
        assert!(read[..9_000] == model[4_000..13_000]);
        assert!(overlay.read(19_999, &mut read[..2]).is_err());
        assert_eq!(std::fs::read(named.path()).unwrap(), before);
    }
}

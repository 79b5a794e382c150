//! The codec of a snapshot's shards.
//!
//! ```text
//! byte 0    the version of this layout, 1
//! the rest  zlib of rows: u8 length and the table's name; u32 length and the key; u32 length and the value (big-endian)
//! ```
//! Rows are in order, of tables and of keys, within a shard and over all of them.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::ledger::index::{IndexError, Rows, Table, Walk};

const LAYOUT: u8 = 1;
/// A shard is full with so many bytes of rows.
const FULL_BYTES: usize = 4 << 20;
/// Bytes of a shard, and of its rows, at most: a row is far smaller than a shard.
pub const MAX_SHARD_BYTES: u64 = 2 * FULL_BYTES as u64;

/// A shard as it is stored.
#[derive(Debug)]
pub struct Packed {
    pub bytes: Bytes,
    pub rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

struct Packer {
    encoder: ZlibEncoder<Vec<u8>>,
    rows: u64,
    row_bytes: usize,
}

impl Packer {
    fn new() -> Packer {
        Packer { encoder: ZlibEncoder::new(vec![LAYOUT], Compression::fast()), rows: 0, row_bytes: 0 }
    }

    fn push(&mut self, table: Table, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        let name = table.name().as_bytes();
        self.encoder.write_all(&[u8::try_from(name.len()).unwrap_or(u8::MAX)])?;
        self.encoder.write_all(name)?;
        for part in [key, value] {
            self.encoder.write_all(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes())?;
            self.encoder.write_all(part)?;
        }
        self.rows += 1;
        self.row_bytes += 9 + name.len() + key.len() + value.len();
        Ok(())
    }

    fn finish(self) -> std::io::Result<Packed> {
        Ok(Packed { bytes: self.encoder.finish()?.into(), rows: self.rows })
    }
}

fn memory(why: std::io::Error) -> IndexError {
    IndexError::Disk(why.to_string())
}

/// Packs all rows but the index's own name, shard by shard, as long as they are taken.
pub fn pack(rows: &dyn Rows, full_bytes: Option<usize>, take: &mut dyn FnMut(Packed) -> Walk) -> Result<(), IndexError> {
    let (full_bytes, mut walk) = (full_bytes.unwrap_or(FULL_BYTES), Walk::On);
    let mut packer = Packer::new();
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Identity) {
        rows.scan(table, &[], None, &mut |key, value| {
            packer.push(table, key, value).map_err(memory)?;
            if packer.row_bytes >= full_bytes {
                walk = take(std::mem::replace(&mut packer, Packer::new()).finish().map_err(memory)?);
            }
            Ok(walk)
        })?;
        if walk == Walk::Stop {
            return Ok(());
        }
    }
    if packer.rows > 0 {
        take(packer.finish().map_err(memory)?);
    }
    Ok(())
}

/// The rows of a shard, if it is one.
pub fn unpack(object: &[u8]) -> Option<Vec<Row>> {
    let (&LAYOUT, packed) = object.split_first()? else { return None };
    let mut unpacked = Vec::new();
    ZlibDecoder::new(packed).take(MAX_SHARD_BYTES + 1).read_to_end(&mut unpacked).ok()?;
    if unpacked.len() as u64 > MAX_SHARD_BYTES {
        return None;
    }
    let (mut rest, mut rows) = (unpacked.as_slice(), Vec::<Row>::new());
    while !rest.is_empty() {
        let row = row(&mut rest)?;
        let order = |row: &Row| (row.table as usize, row.key.clone());
        if rows.last().is_some_and(|last| order(last) >= order(&row)) {
            return None;
        }
        rows.push(row);
    }
    Some(rows)
}

fn row(rest: &mut &[u8]) -> Option<Row> {
    let length = rest.try_get_u8().ok()?.into();
    let name = part(rest, length)?;
    let table = Table::ALL.into_iter().find(|table| *table != Table::Identity && table.name().as_bytes() == name)?;
    let length = rest.try_get_u32().ok()? as usize;
    let key = part(rest, length)?.to_vec();
    let length = rest.try_get_u32().ok()? as usize;
    Some(Row { table, key, value: part(rest, length)?.to_vec() })
}

fn part<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (part, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(part)
}

/// A shard that reads as one, and lacks a row.
#[cfg(test)]
pub fn without_last_row(object: &[u8]) -> Bytes {
    let mut rows = unpack(object).unwrap();
    rows.pop();
    let mut packer = Packer::new();
    rows.iter().for_each(|row| packer.push(row.table, &row.key, &row.value).unwrap());
    packer.finish().unwrap().bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::ledger::index::{Changes, Memory};

    fn memory_of(rows: &[(usize, Vec<u8>, Vec<u8>)]) -> Memory {
        let (memory, mut changes) = (Memory::default(), Changes::default());
        for (table, key, value) in rows {
            changes.put(Table::ALL[table % Table::ALL.len()], key.clone(), value.clone());
        }
        memory.commit(changes);
        memory
    }

    fn shards(memory: &Memory, full_bytes: usize) -> Vec<Packed> {
        let mut shards = Vec::new();
        pack(&memory.snapshot(), Some(full_bytes), &mut |shard| {
            shards.push(shard);
            Walk::On
        })
        .unwrap();
        shards
    }

    proptest! {
        #[test]
        fn rows_read_back_as_packed(
            rows in proptest::collection::vec((any::<usize>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..40),
            full_bytes in 1..600_usize,
        ) {
            let memory = memory_of(&rows);
            let shards = shards(&memory, full_bytes);
            let mut changes = Changes::default();
            for shard in &shards {
                let rows = unpack(&shard.bytes).unwrap();
                prop_assert_eq!(rows.len() as u64, shard.rows);
                for row in rows {
                    prop_assert!(row.table != Table::Identity, "a node's own name");
                    changes.put(row.table, row.key, row.value);
                }
            }
            let copy = Memory::default();
            copy.commit(changes);
            for table in Table::ALL.into_iter().filter(|table| *table != Table::Identity) {
                let all = |memory: &Memory| {
                    let mut all = Vec::new();
                    memory.snapshot().scan(table, &[], None, &mut |key, value| {
                        all.push((key.to_vec(), value.to_vec()));
                        Ok(Walk::On)
                    }).unwrap();
                    all
                };
                prop_assert_eq!(all(&copy), all(&memory));
            }
        }

        #[test]
        fn any_bytes_and_any_cut_are_refused_without_harm(mut bytes: Vec<u8>, at: usize) {
            if let Some(first) = bytes.first_mut() {
                *first = LAYOUT;
            }
            prop_assert!(unpack(&bytes).is_none());
            let shard = &shards(&memory_of(&[(3, b"key".to_vec(), b"value".to_vec())]), 1)[0];
            prop_assert!(unpack(&shard.bytes[..at % shard.bytes.len()]).is_none());
        }
    }

    #[test]
    fn rows_out_of_order_and_bombs_are_refused() {
        let packed = |rows: &[(Table, &[u8])]| {
            let mut packer = Packer::new();
            rows.iter().for_each(|(table, key)| packer.push(*table, key, b"v").unwrap());
            packer.finish().unwrap().bytes
        };
        assert!(unpack(&packed(&[(Table::Tags, b"a"), (Table::Tags, b"b"), (Table::Links, b"a")])).is_some());
        for rows in [[(Table::Tags, b"b"), (Table::Tags, b"a")], [(Table::Tags, b"a"), (Table::Tags, b"a")]] {
            assert_eq!(unpack(&packed(&rows.map(|(table, key)| (table, key.as_slice())))), None);
        }
        assert_eq!(unpack(&packed(&[(Table::Links, b"a"), (Table::Tags, b"a")])), None);
        assert_eq!(unpack(&packed(&[(Table::Identity, b"")])), None);
        let mut bomb = Packer::new();
        bomb.push(Table::Inline, b"k", &vec![0; MAX_SHARD_BYTES as usize]).unwrap();
        assert_eq!(unpack(&bomb.finish().unwrap().bytes), None);
    }
}

//! How a record is kept: the keys that `[audit]` and `[log]` have in common.

use std::time::Duration;

use super::ByteSize;
use super::reader::Section;
use super::schema::{DAY, HOUR, mebibytes, seconds};

/// Where entries are until the bucket has them, and how long it keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// A file is closed, and sent to the bucket, when it has this size,
    pub file_size: ByteSize,
    /// or when its first entry is so old.
    pub ship_after: Duration,
    /// Bytes of files that wait for the bucket, at most.
    pub disk: ByteSize,
    /// How long entries are kept in the bucket.
    pub keep: Duration,
}

/// `disk` and `days` to keep are the defaults.
pub(super) fn read(section: &mut Section<'_, '_, '_>, disk: ByteSize, days: u64) -> Keeping {
    let keeping = Keeping {
        file_size: section.bounded("file_size", mebibytes(8), ByteSize(64 << 10)..=mebibytes(32)),
        ship_after: section.bounded("ship_after", seconds(60), seconds(1)..=seconds(HOUR)),
        disk: section.bounded("disk", disk, mebibytes(1)..=mebibytes(1 << 20)),
        keep: section.bounded("keep", seconds(days * DAY), seconds(DAY)..=seconds(3650 * DAY)),
    };
    if keeping.file_size > keeping.disk {
        section.fault("file_size", format!("is larger than {}.disk, in which files wait", section.path()));
    }
    keeping
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{faults, parse};

    #[test]
    fn each_record_is_kept_in_its_own_way() {
        let config = parse("[audit]\nkeep = \"365d\"\n[log]\ndisk = \"1GiB\"").unwrap();
        let (audit, log) = (config.audit.keeping, config.log.keeping);
        assert_eq!((audit.keep.as_secs() / 86_400, log.keep.as_secs() / 86_400), (365, 30));
        assert_eq!((audit.disk.0, log.disk.0), (512 << 20, 1 << 30));
    }

    #[test]
    fn a_file_fits_on_the_disk() {
        for table in ["audit", "log"] {
            let found = faults(&format!("[{table}]\ndisk = \"1MiB\""));
            assert_eq!(found, [format!("1: {table}.file_size: is larger than {table}.disk, in which files wait")]);
        }
    }
}

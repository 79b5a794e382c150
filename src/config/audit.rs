//! `[audit]`: the record of who did what.

use std::time::Duration;

use super::ByteSize;
use super::reader::Section;
use super::schema::{DAY, HOUR, mebibytes, seconds};

/// How the audit record is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether anything is recorded.
    pub enabled: bool,
    /// Whether pulls and lists that were allowed are recorded too; those that were denied always are.
    pub pulls: bool,
    /// A file is closed, and sent to the bucket, when it has this size,
    pub file_size: ByteSize,
    /// or when its first entry is so old.
    pub ship_after: Duration,
    /// Bytes of files that wait for the bucket, at most.
    pub disk: ByteSize,
    /// How long entries are kept in the bucket.
    pub keep: Duration,
}

pub(super) fn read(mut section: Section<'_, '_, '_>) -> Audit {
    let audit = Audit {
        enabled: section.or("enabled", true),
        pulls: section.or("pulls", true),
        file_size: section.bounded("file_size", mebibytes(8), ByteSize(64 << 10)..=mebibytes(32)),
        ship_after: section.bounded("ship_after", seconds(60), seconds(1)..=seconds(HOUR)),
        disk: section.bounded("disk", mebibytes(512), mebibytes(1)..=mebibytes(1 << 20)),
        keep: section.bounded("keep", seconds(90 * DAY), seconds(DAY)..=seconds(3650 * DAY)),
    };
    if audit.file_size > audit.disk {
        section.fault("file_size", "is larger than audit.disk, in which files wait");
    }
    section.finish();
    audit
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{faults, parse};

    #[test]
    fn the_audit_record_is_kept_unless_somebody_says_otherwise() {
        let audit = parse("").unwrap().audit;
        assert!(audit.enabled && audit.pulls);
        let audit = parse("[audit]\nenabled = false\nkeep = \"365d\"").unwrap().audit;
        assert_eq!((audit.enabled, audit.keep.as_secs()), (false, 365 * 86_400));
    }

    #[test]
    fn a_file_fits_on_the_disk() {
        let found = faults("[audit]\ndisk = \"1MiB\"");
        assert_eq!(found, ["1: audit.file_size: is larger than audit.disk, in which files wait"]);
    }
}

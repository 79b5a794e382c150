//! Whether the page cache has a part of a file, so that sending it to a socket does not wait for the disk: `cachestat(2)`, Linux 6.5
//! and later. The only `unsafe` of the crate.

#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

const PAGE_BYTES: u64 = 4096;
/// The same on every architecture but alpha.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct PartOfFile {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of linux/mman.h.
#[repr(C)]
#[derive(Default)]
struct Pages {
    cached: u64,
    dirty: u64,
    under_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// True when every page of the part is in memory; false also where the kernel cannot tell.
pub(super) fn is_resident(file: &File, part: &Range<u64>) -> bool {
    let (first, end) = (part.start / PAGE_BYTES, part.end.div_ceil(PAGE_BYTES));
    let asked = PartOfFile { offset: part.start, length: part.end - part.start };
    let mut pages = Pages::default();
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the kernel reads `asked` and writes `pages` only, both have
    // the layout of its header and live until the call returns, and it keeps neither.
    let outcome = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut pages, NO_FLAGS) };
    outcome == 0 && pages.cached >= end - first
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pages_are_told_as_they_come_and_go() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(is_resident(&file, &(0..0)) || !can_tell());
        file.write_all(&[1; 50_000]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(is_resident(&file, &(0..50_000)), can_tell());
        assert_eq!(is_resident(&file, &(4_095..4_097)), can_tell());
        assert!(!is_resident(&file, &(40_000..60_000)), "the file ends before");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(!is_resident(&file, &(0..50_000)));
        let mut one = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut one, 49_999).unwrap();
        assert!(!is_resident(&std::fs::File::open("/dev/null").unwrap(), &(0..1)));
    }

    /// Linux 6.5 or later.
    fn can_tell() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(6), Some(5))
    }
}

//! Whether the page cache has a part of a file, so that sending it to a socket does not wait for the disk (`cachestat(2)`, Linux 6.5
//! and later), and bringing it there. The only `unsafe` of the crate.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::io::{Errno, ReadWriteFlags};

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

/// Whether every page of the part is in memory, and read; `None` where the kernel cannot tell.
pub(super) fn is_resident(file: &File, part: &Range<u64>) -> Option<bool> {
    let (first, end) = (part.start / PAGE_BYTES, part.end.div_ceil(PAGE_BYTES));
    Some(cached_pages(file, part)? >= end - first && is_read(file, part))
}

/// The pages of the part that have a place in memory, also those that are still on their way from the disk.
fn cached_pages(file: &File, part: &Range<u64>) -> Option<u64> {
    let asked = PartOfFile { offset: part.start, length: part.end - part.start };
    let mut pages = Pages::default();
    const NO_FLAGS: libc::c_uint = 0;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the kernel reads `asked` and writes `pages` only, both have
    // the layout of its header and live until the call returns, and it keeps neither.
    let outcome = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut pages, NO_FLAGS) };
    (outcome == 0).then_some(pages.cached)
}

/// Whether the last byte can be had at once (`preadv2(2)`, `RWF_NOWAIT`): pages come from the disk in order, as good as always. A file
/// system that cannot tell is believed to have what has a place.
fn is_read(file: &File, part: &Range<u64>) -> bool {
    let Some(last) = part.end.checked_sub(1) else { return true };
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut [0])], last, ReadWriteFlags::NOWAIT) {
        Ok(count) => count == 1,
        Err(error) => error != Errno::AGAIN,
    }
}

/// Waits until the page cache has the part. Not for an executor thread.
///
/// # Errors
/// The disk's, or that of a machine without `/dev/null`.
pub(super) fn bring_in(file: &File, part: Range<u64>) -> io::Result<()> {
    // What is sent to nobody is brought in by the same steps as what is sent to a client, and takes no memory of this process: a
    // seventh of the time of reading it. The kernel reads ahead meanwhile, which it does not where it is advised to bring in one part
    // after the other: that halves what one reader gets of a disk, at four times the processor time.
    let nowhere = File::options().write(true).open("/dev/null")?;
    let mut offset = part.start;
    while offset < part.end {
        let left = usize::try_from(part.end - offset).unwrap_or(usize::MAX);
        if rustix::fs::sendfile(&nowhere, file, Some(&mut offset), left)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pages_are_told_as_they_come_and_go() {
        let told = |resident| can_tell().then_some(resident);
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(is_resident(&file, &(0..0)), told(true));
        file.write_all(&[1; 50_000]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(is_resident(&file, &(0..50_000)), told(true));
        assert_eq!(is_resident(&file, &(4_095..4_097)), told(true));
        assert_eq!(is_resident(&file, &(40_000..60_000)), told(false), "the file ends before");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(is_resident(&file, &(0..50_000)), told(false));
        bring_in(&file, 4_096..50_000).unwrap();
        assert_eq!(is_resident(&file, &(4_096..50_000)), told(true));
        assert_ne!(is_resident(&File::open("/dev/null").unwrap(), &(0..1)), Some(true));
    }

    #[test]
    fn what_is_not_there_cannot_be_brought_in() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10_000).unwrap();
        bring_in(&file, 0..10_000).unwrap();
        assert_eq!(bring_in(&file, 0..10_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Linux 6.5 or later.
    fn can_tell() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(6), Some(5))
    }
}

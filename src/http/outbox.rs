//! Parts of files that a connection hands to the kernel (`sendfile(2)`), so that their bytes are never copied through this process.
//!
//! hyper knows bodies of bytes only. For a part of a file the body hands it a *stand-in*: as many bytes of one block of memory that
//! nobody ever reads or writes. hyper passes them on, uncopied and in order, to the connection's `poll_write_vectored`, where the socket
//! recognises their addresses and sends the part of the file in their place.
//!
//! Architecture invariant: what stands in never leaves. The socket asks the outbox before each write; where parts wait and no stand-in
//! is among the bytes, somebody has copied one, and the connection breaks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::FilePart;

/// The longest part. As much address space is taken once for each process, and no memory: it stays as the kernel gave it.
const STAND_IN_BYTES: usize = 1 << 20;

/// The memory that stands in for parts of files. Clones share it.
#[derive(Clone, Debug)]
pub struct StandIn(Bytes);

/// The parts of one connection that are on their way, in the order of their bytes.
#[derive(Clone, Debug)]
pub struct Outbox {
    stand_in: StandIn,
    parts: Arc<Mutex<VecDeque<FilePart>>>,
}

/// What the first of some slices is for.
#[derive(Clone, Debug)]
pub enum Next {
    /// So many slices are bytes to be written as they are.
    Bytes { slices: usize, then_a_part: Then },
    /// This part is to be sent, at most so many bytes of it.
    Part(FilePart, usize),
    /// A part waits whose stand-in is gone: nothing more may be written.
    Lost,
}

/// Whether a part of a file follows the bytes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Part,
    Nothing,
}

impl Default for StandIn {
    fn default() -> StandIn {
        // Zeroed memory of this size comes from the kernel as it is, and a page that nobody touches takes no memory.
        StandIn(Bytes::from(vec![0; STAND_IN_BYTES]))
    }
}

impl StandIn {
    fn covers(&self, slice: &[u8]) -> bool {
        let (start, at) = (self.0.as_ptr().addr(), slice.as_ptr().addr());
        !slice.is_empty() && at >= start && at - start < self.0.len()
    }
}

impl Outbox {
    pub fn new(stand_in: &StandIn) -> Outbox {
        Outbox { stand_in: stand_in.clone(), parts: Arc::default() }
    }

    /// Takes in a part and returns what stands in for it; `None` for one that is too long.
    pub fn put(&self, part: FilePart) -> Option<Bytes> {
        let length = usize::try_from(part.range.end - part.range.start).ok().filter(|length| *length <= STAND_IN_BYTES)?;
        self.parts().push_back(part);
        Some(self.stand_in.0.slice(..length))
    }

    /// What is to be done with these slices, of which the first is not empty.
    pub fn next<'a>(&self, slices: impl IntoIterator<Item = &'a [u8]>) -> Next {
        let parts = self.parts();
        let Some(part) = parts.front() else { return Next::Bytes { slices: usize::MAX, then_a_part: Then::Nothing } };
        let mut slices = slices.into_iter().enumerate();
        match slices.find(|(_, slice)| self.stand_in.covers(slice)) {
            Some((0, slice)) => Next::Part(part.clone(), slice.len()),
            Some((before, _)) => Next::Bytes { slices: before, then_a_part: Then::Part },
            None => Next::Lost,
        }
    }

    /// So many bytes of the first part have been sent.
    pub fn sent(&self, count: u64) {
        let mut parts = self.parts();
        if let Some(part) = parts.front_mut() {
            part.range.start = part.range.end.min(part.range.start.saturating_add(count));
            if part.range.is_empty() {
                parts.pop_front();
            }
        }
    }

    /// No step under the lock leaves the queue half changed.
    fn parts(&self) -> MutexGuard<'_, VecDeque<FilePart>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(range: std::ops::Range<u64>) -> FilePart {
        FilePart { file: Arc::new(tempfile::tempfile().unwrap()), range }
    }

    #[test]
    fn a_part_is_found_by_what_stands_in_for_it() {
        let outbox = Outbox::new(&StandIn::default());
        let head: &[u8] = b"HTTP/1.1 200 OK";
        assert!(matches!(outbox.next([head]), Next::Bytes { slices: usize::MAX, then_a_part: Then::Nothing }));
        let stand_in = outbox.put(part(100..150)).unwrap();
        assert_eq!(stand_in.len(), 50);
        assert!(matches!(outbox.next([head, &stand_in]), Next::Bytes { slices: 1, then_a_part: Then::Part }));
        assert!(matches!(outbox.next([&stand_in[..], head]), Next::Part(part, 50) if part.range == (100..150)));
        outbox.sent(20);
        assert!(matches!(outbox.next([&stand_in[20..]]), Next::Part(part, 30) if part.range == (120..150)));
        outbox.sent(30);
        assert!(matches!(outbox.next([head]), Next::Bytes { .. }));
    }

    #[test]
    fn a_stand_in_that_was_copied_stops_everything() {
        let outbox = Outbox::new(&StandIn::default());
        let copied = outbox.put(part(0..5)).unwrap().to_vec();
        assert!(matches!(outbox.next([&copied[..]]), Next::Lost));
        assert!(matches!(outbox.next([]), Next::Lost));
    }

    #[test]
    fn what_is_too_long_is_not_taken() {
        let outbox = Outbox::new(&StandIn::default());
        assert!(outbox.put(part(0..STAND_IN_BYTES as u64 + 1)).is_none());
        assert!(matches!(outbox.next([&b"x"[..]]), Next::Bytes { .. }));
    }
}

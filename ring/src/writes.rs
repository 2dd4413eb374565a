//! The log writes that are in flight, whichever way: what each was, so that its completion finds its token and a write that did
//! not happen can be submitted again as it was.
//!
//! Called by: the reactors. Touches no memory but its own: the addresses in it are for the kernel only.

use crate::settings::WRITES_MAX;
use crate::{FILE_SLOTS, FileSlot, IoError};
use std::time::Duration;

/// How long closing a reactor waits for log writes to end. A disk that takes longer is broken; the process must be able to go.
pub const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Submissions of one write before EAGAIN or EINTR is reported like any other error.
const SUBMITS_MAX: u32 = 100;

/// How a write goes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Ring,
    Thread,
}

/// One write, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) file: FileSlot,
    pub(crate) offset: u64,
    pub(crate) address: *const u8,
    pub(crate) len: u32,
    pub(crate) token: u64,
    pub(crate) route: Route,
    /// When it was asked for, where its time is wanted.
    pub(crate) timed_from_ns: Option<u64>,
}

/// What a completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is over; this is for the shard.
    Written { token: u64, result: Result<usize, i32> },
    /// Nothing happened; it stands in line to be submitted again.
    Again,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    write: Write,
    submits: u32,
}

pub(crate) struct Writes {
    table: [Option<InFlight>; WRITES_MAX],
    /// Free places of the table.
    free: Vec<u8>,
    /// Places whose write is to be submitted again.
    again: Vec<u8>,
    per_file: [u8; FILE_SLOTS as usize],
}

const _: () = assert!(WRITES_MAX <= u8::MAX as usize);

impl Writes {
    pub(crate) fn new() -> Writes {
        Writes {
            table: [None; WRITES_MAX],
            free: (0..WRITES_MAX as u8).rev().collect(),
            again: Vec::with_capacity(WRITES_MAX),
            per_file: [0; FILE_SLOTS as usize],
        }
    }

    /// Notes a write; its number goes with the submission.
    ///
    /// # Panics
    /// If [`WRITES_MAX`] are in flight.
    pub(crate) fn begin(&mut self, write: Write) -> u8 {
        let place = self.free.pop().expect("more than WRITES_MAX log writes in flight");
        self.per_file[usize::from(write.file.0)] += 1;
        self.table[usize::from(place)] = Some(InFlight { write, submits: 1 });
        place
    }

    /// Takes the kernel's answer to the write with this number.
    pub(crate) fn end(&mut self, place: u8, result: i32) -> Ended {
        let entry = self.table[usize::from(place)].as_mut().expect("a completion of no write");
        let nothing_happened = result == -libc::EAGAIN || result == -libc::EINTR;
        if nothing_happened && entry.submits < SUBMITS_MAX {
            entry.submits += 1;
            self.again.push(place);
            return Ended::Again;
        }
        let write = entry.write;
        self.table[usize::from(place)] = None;
        self.free.push(place);
        self.per_file[usize::from(write.file.0)] -= 1;
        let result = usize::try_from(result).map_err(|_| -result);
        Ended::Written { token: write.token, result }
    }

    /// The next write to submit again.
    pub(crate) fn next_again(&mut self) -> Option<(u8, Write)> {
        let place = self.again.pop()?;
        let entry = self.table[usize::from(place)].as_ref().expect("a retry of no write");
        Some((place, entry.write))
    }

    /// Whether writes stand in line to be submitted again.
    pub(crate) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// The write with this number.
    pub(crate) fn get(&self, place: u8) -> Write {
        self.table[usize::from(place)].as_ref().expect("a completion of no write").write
    }

    /// Writes that the kernel, or the log-writer thread, has.
    pub(crate) fn running(&self) -> usize {
        WRITES_MAX - self.free.len() - self.again.len()
    }

    /// Whether a file has writes that did not end.
    pub(crate) fn uses(&self, file: FileSlot) -> bool {
        self.per_file[usize::from(file.0)] > 0
    }
}

/// Writes that a reactor which is to end waited for in vain.
pub(crate) fn did_not_end(writes: &Writes) -> IoError {
    let text = format!("{} log writes did not end in {CLOSE_WAIT:?}", writes.running());
    let source = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
    IoError::System { call: "closing the reactor", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: u8, token: u64) -> Write {
        let (route, timed_from_ns) = (Route::Ring, None);
        Write { file: FileSlot(file), offset: 4096, address: std::ptr::null(), len: 512, token, route, timed_from_ns }
    }

    #[test]
    fn an_error_is_final_and_frees_its_place() {
        let mut writes = Writes::new();
        let place = writes.begin(write(1, 77));
        assert!(writes.uses(FileSlot(1)) && !writes.uses(FileSlot(0)));
        assert_eq!(writes.end(place, -libc::EIO), Ended::Written { token: 77, result: Err(libc::EIO) });
        assert!(!writes.uses(FileSlot(1)));
        assert_eq!(writes.running(), 0);
        assert!(writes.next_again().is_none());
    }

    #[test]
    fn what_did_not_happen_is_submitted_again_as_it_was_but_not_for_ever() {
        for errno in [libc::EAGAIN, libc::EINTR] {
            let mut writes = Writes::new();
            let place = writes.begin(write(2, 5));
            for _ in 1..SUBMITS_MAX {
                assert_eq!(writes.end(place, -errno), Ended::Again);
                assert_eq!(writes.running(), 0);
                let (again, same) = writes.next_again().unwrap();
                assert_eq!((again, same.file, same.offset, same.len), (place, FileSlot(2), 4096, 512));
                assert_eq!(writes.running(), 1);
            }
            assert_eq!(writes.end(place, -errno), Ended::Written { token: 5, result: Err(errno) });
        }
    }

    #[test]
    fn all_places_are_usable_and_come_back() {
        let mut writes = Writes::new();
        for round in 0..3 {
            let places: Vec<u8> = (0..WRITES_MAX as u64).map(|token| writes.begin(write(0, token + round))).collect();
            assert_eq!(writes.running(), WRITES_MAX);
            for (token, place) in places.into_iter().enumerate() {
                let token = token as u64 + round;
                assert_eq!(writes.end(place, 512), Ended::Written { token, result: Ok(512) });
            }
            assert_eq!(writes.running(), 0);
        }
    }

    #[test]
    #[should_panic(expected = "WRITES_MAX")]
    fn one_more_is_a_bug() {
        let mut writes = Writes::new();
        for token in 0..=WRITES_MAX as u64 {
            writes.begin(write(0, token));
        }
    }
}

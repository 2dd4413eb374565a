//! The log writes that are in flight, whichever way: what each was, so that its completion finds its token and a write that did
//! not happen can be submitted again as it was.
//!
//! Called by: the reactor. Touches no memory but its own: the addresses in it are for the kernel only.

use super::choice::Route;
use crate::settings::WRITES_MAX;
use crate::{FILE_SLOTS, FileSlot};

/// Submissions of one write before EAGAIN or EINTR is reported like any other error.
const SUBMITS_MAX: u32 = 100;

/// One write, as it was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) file: FileSlot,
    pub(super) offset: u64,
    pub(super) address: *const u8,
    pub(super) len: u32,
    pub(super) token: u64,
    pub(super) route: Route,
    /// When it was asked for, where its time is wanted.
    pub(super) timed_from_ns: Option<u64>,
}

/// What a completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
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

pub(super) struct Writes {
    table: [Option<InFlight>; WRITES_MAX],
    /// Free places of the table.
    free: Vec<u8>,
    /// Places whose write is to be submitted again.
    again: Vec<u8>,
    per_file: [u8; FILE_SLOTS as usize],
}

const _: () = assert!(WRITES_MAX <= u8::MAX as usize);

impl Writes {
    pub(super) fn new() -> Writes {
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
    pub(super) fn begin(&mut self, write: Write) -> u8 {
        let place = self.free.pop().expect("more than WRITES_MAX log writes in flight");
        self.per_file[usize::from(write.file.0)] += 1;
        self.table[usize::from(place)] = Some(InFlight { write, submits: 1 });
        place
    }

    /// Takes the kernel's answer to the write with this number.
    pub(super) fn end(&mut self, place: u8, result: i32) -> Ended {
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
    pub(super) fn next_again(&mut self) -> Option<(u8, Write)> {
        let place = self.again.pop()?;
        let entry = self.table[usize::from(place)].as_ref().expect("a retry of no write");
        Some((place, entry.write))
    }

    /// The write with this number.
    pub(super) fn get(&self, place: u8) -> Write {
        self.table[usize::from(place)].as_ref().expect("a completion of no write").write
    }

    /// Writes that the kernel, or the log-writer thread, has.
    pub(super) fn running(&self) -> usize {
        WRITES_MAX - self.free.len() - self.again.len()
    }

    /// Whether a file has writes that did not end.
    pub(super) fn uses(&self, file: FileSlot) -> bool {
        self.per_file[usize::from(file.0)] > 0
    }
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

//! The file `events` in a group's directory: the last records of its cores, over all lives of the node. Mapped by the one thread that
//! writes; never synced, as the kernel keeps what a killed process wrote. After a power cut any part of it may be old.
//!
//! | bytes | what |
//! |---|---|
//! | 0..64 | `SYNODEVT`, version (u32), bytes of a record (u32), places (u64), node (u8), group (u8), zeros, CRC-32C of the 60 before it |
//! | 64.. | places of 64 bytes: record number n (from 1) at (n - 1) modulo the places; zeros: none yet |
//!
//! A record is its number and the seven words of [`Record`], little-endian; the upper half of the third word is the CRC-32C of all
//! others. A record that was torn, or is being written, fails it: at the place where the next one goes that is what a crash leaves,
//! elsewhere it is damage, which is told. Nothing but the words of an operator rests on this file.

use crate::shard::{EVENT_WORDS, Record};
use memmap2::{MmapMut, MmapOptions};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use synod_wire::frame::checksum;
use synod_wire::{GroupId, NodeId};

/// Its name.
pub const EVENTS_FILE: &str = "events";
const MAGIC: &[u8; 8] = b"SYNODEVT";
const VERSION: u32 = 1;
const RECORD_BYTES: usize = 64;
/// Bytes of the file.
pub const FILE_BYTES: usize = 64 << 10;
/// Records that are kept.
const PLACES: u64 = (FILE_BYTES / RECORD_BYTES - 1) as u64;
/// Where a record's checksum lies.
const CRC: std::ops::Range<usize> = 28..32;
const _: () = assert!(8 * (1 + EVENT_WORDS) == RECORD_BYTES);

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The kernel says so.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Of which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none of these files, or its head is damaged.
    #[error(
        "{} is no file of events that this version reads, or is damaged: {reason}. The log of the group does not depend on it: remove it, \
         and the node begins another when it starts",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EventsError {
    move |source| EventsError::Io { action, path: path.to_owned(), source }
}

/// A record, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// One more than that of the record before it.
    pub number: u64,
    /// What happened.
    pub record: Record,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Whose it is.
    pub node: NodeId,
    /// Of which group.
    pub group: GroupId,
    /// The oldest first.
    pub records: Vec<Kept>,
    /// The last record was torn, or is being written.
    pub torn: bool,
    /// Places that hold no whole record, beside that one.
    pub damaged: usize,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
    u64::from_le_bytes(word)
}

fn encode(Kept { number, record }: &Kept) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip([*number].into_iter().chain(record.words())) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let crc = checksum(&bytes);
    bytes[CRC].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Kept> {
    let words = std::array::from_fn(|at| word(bytes, 1 + at));
    let kept = Kept { number: word(bytes, 0), record: Record::of_words(words) };
    (kept.number > 0 && encode(&kept) == bytes).then_some(kept)
}

fn head(node: NodeId, group: GroupId) -> [u8; RECORD_BYTES] {
    let mut head = [0; RECORD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
    head[16..24].copy_from_slice(&PLACES.to_le_bytes());
    (head[24], head[25]) = (node.0, group.0);
    let crc = checksum(&head[..60]);
    head[60..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Reads a file as it lies there: of a node that runs, or that has ended in whatever way.
pub fn read(path: &Path) -> Result<Read, EventsError> {
    // Read, not mapped: a page that the disk does not give is an error here, and no signal.
    parse(path, &std::fs::read(path).map_err(io_error("read", path))?)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Read, EventsError> {
    let damaged = |reason| EventsError::Damaged { path: path.to_owned(), reason };
    if bytes.len() != FILE_BYTES {
        return Err(damaged("its length is another"));
    }
    let (front, places) = bytes.split_at(RECORD_BYTES);
    let (node, group) = (NodeId(front[24]), GroupId(front[25]));
    if front != head(node, group) {
        return Err(damaged("its head is another"));
    }
    let places: Vec<&[u8]> = places.chunks_exact(RECORD_BYTES).collect();
    let belongs = |(place, kept): (usize, Kept)| ((kept.number - 1) % PLACES == place as u64).then_some(kept);
    let whole = places.iter().map(|bytes| decode(bytes)).enumerate();
    let mut records: Vec<Kept> = whole.filter_map(|(place, kept)| belongs((place, kept?))).collect();
    records.sort_unstable_by_key(|kept| kept.number);
    let last = records.last().map_or(0, |kept| kept.number);
    let next = (last % PLACES) as usize;
    let is_bad = |place: &usize| {
        let bytes = places[*place];
        bytes.iter().any(|byte| *byte != 0) && decode(bytes).and_then(|kept| belongs((*place, kept))).is_none()
    };
    let bad: Vec<usize> = (0..places.len()).filter(is_bad).collect();
    let torn = bad.contains(&next);
    Ok(Read { node, group, records, torn, damaged: bad.len() - usize::from(torn) })
}

/// The file of a group, mapped to be written.
#[derive(Debug)]
pub(super) struct EventFile {
    map: MmapMut,
    next: u64,
}

impl EventFile {
    /// Goes on behind what it holds, or begins anew.
    pub(super) fn open(path: &Path, node: NodeId, group: GroupId) -> Result<EventFile, EventsError> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(io_error("open", path))?;
        let next = match read(path) {
            Ok(read) if (read.node, read.group) == (node, group) => {
                read.records.last().map_or(1, |kept| kept.number + 1)
            }
            found => {
                let len = file.metadata().map_err(io_error("look at", path))?.len();
                if let (1.., Err(error)) = (len, &found) {
                    tracing::warn!(group = group.0, %error, "the file of events begins anew");
                }
                begin(&file, node, group).map_err(io_error("prepare", path))?;
                1
            }
        };
        // SAFETY: the one mapping of this file in this process, and the group's directory is locked to it. Whoever cuts the file off
        // by hand ends the process with SIGBUS, as with every mapping. All its blocks were written: none is missing on a full disk.
        let map = unsafe { MmapOptions::new().len(FILE_BYTES).populate().map_mut(&file) };
        Ok(EventFile { map: map.map_err(io_error("map", path))?, next })
    }

    pub(super) fn append(&mut self, record: &Record) {
        let place = RECORD_BYTES * (1 + ((self.next - 1) % PLACES) as usize);
        self.map[place..place + RECORD_BYTES].copy_from_slice(&encode(&Kept { number: self.next, record: *record }));
        self.next += 1;
    }
}

/// Writes all of it, so that it has its blocks.
fn begin(file: &File, node: NodeId, group: GroupId) -> io::Result<()> {
    let mut bytes = vec![0; FILE_BYTES];
    bytes[..RECORD_BYTES].copy_from_slice(&head(node, group));
    file.set_len(FILE_BYTES as u64)?;
    file.write_all_at(&bytes, 0)?;
    // Not for the records' sake: until it is on disk, a disk that fills up could take its blocks away.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::EventKind;

    fn record(at: u64) -> Record {
        let kind = EventKind::Mode as u8;
        Record { wall_ns: at, monotonic_ns: at, kind, from: 1, to: 2, reason: 3, figures: [at, 0, u64::MAX, 5] }
    }

    fn written(count: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(EVENTS_FILE);
        let mut file = EventFile::open(&path, NodeId(1), GroupId(2)).expect("a new file");
        (0..count).for_each(|at| file.append(&record(at)));
        (dir, path)
    }

    fn change(path: &Path, at: usize, byte: u8) {
        let mut bytes = std::fs::read(path).expect("the file");
        bytes[at] ^= byte;
        std::fs::write(path, bytes).expect("write");
    }

    #[test]
    fn records_are_read_as_they_were_written_over_several_lives() {
        let (_dir, path) = written(3);
        EventFile::open(&path, NodeId(1), GroupId(2)).expect("it goes on").append(&record(3));
        let found = read(&path).expect("whole");
        assert_eq!((found.node, found.group, found.torn, found.damaged), (NodeId(1), GroupId(2), false, 0));
        let all: Vec<(u64, u64)> = found.records.iter().map(|kept| (kept.number, kept.record.wall_ns)).collect();
        assert_eq!(all, [(1, 0), (2, 1), (3, 2), (4, 3)]);
        assert_eq!(found.records[2].record, record(2));
    }

    #[test]
    fn the_oldest_make_room() {
        let (_dir, path) = written(PLACES + 5);
        let found = read(&path).expect("whole");
        assert_eq!((found.records.len() as u64, found.records[0].number), (PLACES, 6));
    }

    #[test]
    fn a_torn_last_record_is_told_from_damage() {
        let (_dir, path) = written(3);
        change(&path, RECORD_BYTES * 4 + 40, 0x10);
        let found = read(&path).expect("the rest");
        assert_eq!((found.records.len(), found.torn, found.damaged), (3, true, 0), "half of a fourth");
        change(&path, RECORD_BYTES * 2 + 5, 0x10);
        let found = read(&path).expect("the rest");
        assert_eq!((found.records.len(), found.torn, found.damaged), (2, true, 1), "the second is damaged");
    }

    #[test]
    fn another_file_or_a_damaged_head_is_an_error_and_is_begun_anew() {
        let (_dir, path) = written(3);
        change(&path, 3, 1);
        assert!(read(&path).unwrap_err().to_string().contains("its head is another"));
        std::fs::write(&path, b"short").expect("write");
        assert!(read(&path).unwrap_err().to_string().contains("its length is another"));
        EventFile::open(&path, NodeId(1), GroupId(2)).expect("anew").append(&record(9));
        assert_eq!(read(&path).expect("whole").records, [Kept { number: 1, record: record(9) }]);
    }
}

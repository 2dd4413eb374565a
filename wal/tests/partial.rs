//! A state on its way here: what a restart finds of it is what came whole, in order, and of this state.

mod common;

use common::*;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use synod_wal::LogError;
use synod_wal::partial::{
    BLOCK_BYTES, DATA_BYTES, HEAD_BYTES, MAX_BLOCKS, Whole, begun, read, remove_upto, resume, store,
};
use synod_wire::Slot;
use synod_wire::frame::checksum;

const GROUP_BYTES: usize = MAX_BLOCKS * DATA_BYTES;

fn whole_of(slot: u64, state: &[u8]) -> Whole {
    Whole { slot: Slot(slot), bytes: state.len() as u64, crc: checksum(state) }
}

fn path(dir: &Path, whole: &Whole) -> PathBuf {
    dir.join(format!("{:016x}-{:08x}.part", whole.slot.0, whole.crc))
}

fn parts(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut parts: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == "part")).collect();
    parts.sort();
    parts
}

/// What a receiver does that starts: finds out what is there, and stores the rest; how much was there.
fn fetch(dir: &Path, whole: &Whole, state: &[u8]) -> usize {
    let there = resume(dir, whole).unwrap() as usize;
    assert_eq!(read(dir, whole).unwrap(), state[..there]);
    for (number, group) in state[there..].chunks(GROUP_BYTES).enumerate() {
        store(dir, whole, (there + number * GROUP_BYTES) as u64, group).unwrap();
    }
    assert!(read(dir, whole).unwrap() == state);
    there
}

/// A directory in which all of a state is.
fn with_all_of(whole: &Whole, state: &[u8]) -> tempfile::TempDir {
    let dir = tempdir();
    assert_eq!(fetch(dir.path(), whole, state), 0);
    dir
}

fn change(path: &Path, offset: usize, change: impl FnOnce(&mut [u8])) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut sector = [0; SECTOR_BYTES];
    file.read_exact_at(&mut sector, offset as u64).unwrap();
    let before = sector;
    change(&mut sector);
    assert_ne!(sector, before, "the test changes something");
    file.write_all_at(&sector, offset as u64).unwrap();
}

#[test]
fn a_restart_goes_on_behind_the_groups_that_are_there() {
    let dir = tempdir();
    let state = payload(7, 2 * GROUP_BYTES + DATA_BYTES + 5);
    let whole = whole_of(7, &state);
    assert_eq!(begun(dir.path()).unwrap(), None);
    assert_eq!(resume(dir.path(), &whole).unwrap(), 0);
    assert_eq!(begun(dir.path()).unwrap(), None, "nothing of it came");
    store(dir.path(), &whole, 0, &state[..GROUP_BYTES]).unwrap();
    assert_eq!(begun(dir.path()).unwrap(), Some(whole));
    assert_eq!(resume(dir.path(), &whole).unwrap(), GROUP_BYTES as u64);
    assert_eq!(fetch(dir.path(), &whole, &state), GROUP_BYTES);
    assert_eq!(fetch(dir.path(), &whole, &state), state.len(), "nothing is missing");
    assert_eq!(checksum(&read(dir.path(), &whole).unwrap()), whole.crc);
}

#[test]
fn states_of_any_size_come_back() {
    for (slot, bytes) in (1..).zip([1, DATA_BYTES - 1, DATA_BYTES, DATA_BYTES + 1, GROUP_BYTES, GROUP_BYTES + 1]) {
        let state = payload(slot, bytes);
        let whole = whole_of(slot, &state);
        let dir = with_all_of(&whole, &state);
        let blocks = bytes.div_ceil(DATA_BYTES);
        assert_eq!(path(dir.path(), &whole).metadata().unwrap().len(), (blocks * BLOCK_BYTES) as u64);
    }
}

#[test]
fn a_torn_block_ends_what_is_there_and_comes_again() {
    let state = payload(3, GROUP_BYTES + 2 * DATA_BYTES + 100);
    let whole = whole_of(3, &state);
    let blocks = state.len().div_ceil(DATA_BYTES);
    // The last block and one before it, each without one sector that the medium did not get: the head, data, and the end's fill.
    for (block, at) in [(blocks - 1, 0), (blocks - 1, HEAD_BYTES), (blocks - 2, BLOCK_BYTES - SECTOR_BYTES)] {
        let dir = with_all_of(&whole, &state);
        change(&path(dir.path(), &whole), block * BLOCK_BYTES + at, |sector| sector.fill(0));
        assert_eq!(fetch(dir.path(), &whole, &state), block * DATA_BYTES, "block {block}, offset {at}");
    }
    // The file ends within a block.
    let dir = with_all_of(&whole, &state);
    let file = std::fs::File::options().write(true).open(path(dir.path(), &whole)).unwrap();
    file.set_len(((blocks - 1) * BLOCK_BYTES + SECTOR_BYTES) as u64).unwrap();
    assert_eq!(fetch(dir.path(), &whole, &state), (blocks - 1) * DATA_BYTES);
}

#[test]
fn a_block_in_the_middle_whose_checksum_fails_takes_all_behind_it_along() {
    let state = payload(5, 2 * GROUP_BYTES);
    let whole = whole_of(5, &state);
    let dir = with_all_of(&whole, &state);
    change(&path(dir.path(), &whole), 3 * BLOCK_BYTES + HEAD_BYTES + SECTOR_BYTES, |sector| sector[17] ^= 4);
    // It begins a group of its own, whose blocks lie over those that are there.
    assert_eq!(fetch(dir.path(), &whole, &state), 3 * DATA_BYTES);
}

#[test]
fn blocks_of_another_place_or_another_state_do_not_count() {
    let state = payload(9, 4 * DATA_BYTES);
    let whole = whole_of(9, &state);
    let dir = with_all_of(&whole, &state);
    let good = std::fs::read(path(dir.path(), &whole)).unwrap();
    let swapped = [&good[..BLOCK_BYTES], &good[2 * BLOCK_BYTES..3 * BLOCK_BYTES], &good[2 * BLOCK_BYTES..]].concat();
    std::fs::write(path(dir.path(), &whole), swapped).unwrap();
    assert_eq!(resume(dir.path(), &whole).unwrap(), DATA_BYTES as u64, "block 2 in the place of block 1");

    // The same slot with another content, of another slot, of another length: whole blocks, each.
    let other = payload(10, 4 * DATA_BYTES);
    for other in [whole_of(9, &other), Whole { slot: Slot(8), ..whole }, Whole { bytes: whole.bytes - 1, ..whole }] {
        let dir = tempdir();
        resume(dir.path(), &other).unwrap();
        store(dir.path(), &other, 0, &state[..other.bytes as usize]).unwrap();
        assert_eq!(resume(dir.path(), &other).unwrap(), other.bytes);
        let bytes = std::fs::read(path(dir.path(), &other)).unwrap();
        std::fs::write(path(dir.path(), &whole), bytes).unwrap();
        // Of two, the name of the one is not what it has, and the other's is.
        assert_eq!(begun(dir.path()).unwrap(), Some(other));
        assert_eq!(resume(dir.path(), &whole).unwrap(), 0, "{other:?}");
        // The length alone is not in the name.
        let is_its_name = path(dir.path(), &whole) == path(dir.path(), &other);
        assert_eq!(begun(dir.path()).unwrap(), Some(other).filter(|_| is_its_name), "{other:?}");
    }
}

#[test]
fn there_is_one_at_a_time_and_those_that_are_overtaken_go() {
    let dir = tempdir();
    let state = payload(2, 1_000);
    let (first, second) = (whole_of(4, &state), whole_of(6, &state));
    fetch(dir.path(), &first, &state);
    assert_eq!(resume(dir.path(), &second).unwrap(), 0, "what came of another is not of this");
    assert_eq!(parts(dir.path()), [path(dir.path(), &second)]);
    fetch(dir.path(), &second, &state);
    remove_upto(dir.path(), Slot(5)).unwrap();
    assert_eq!(parts(dir.path()), [path(dir.path(), &second)]);
    remove_upto(dir.path(), Slot(6)).unwrap();
    assert_eq!(parts(dir.path()), [] as [PathBuf; 0]);
    let error = read(dir.path(), &second).unwrap_err();
    assert!(matches!(error, LogError::File { .. }), "{error}");
}

#[test]
fn a_state_that_is_not_what_it_was_said_to_be_shows_in_the_wholes_checksum() {
    // Blocks tell that they came to the disk whole, and nothing of what a sender, or the way here, put into them.
    let dir = tempdir();
    let state = payload(1, 3 * DATA_BYTES);
    let whole = whole_of(1, &state);
    let mut sent = state.clone();
    sent[DATA_BYTES + 9] ^= 1;
    resume(dir.path(), &whole).unwrap();
    store(dir.path(), &whole, 0, &sent).unwrap();
    assert_eq!(resume(dir.path(), &whole).unwrap(), whole.bytes);
    let came = read(dir.path(), &whole).unwrap();
    assert!(came == sent && checksum(&came) != whole.crc);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the file, what a restart finds is the front of the state.
    #[test]
    fn what_is_found_is_the_front_of_the_state_whatever_happened_to_the_file(
        bytes in 1..6 * DATA_BYTES,
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let state = payload(11, bytes);
        let whole = whole_of(11, &state);
        let dir = with_all_of(&whole, &state);
        let path = path(dir.path(), &whole);
        let mut file = std::fs::read(&path).unwrap();
        for (at, bits) in damages {
            let at = at.index(file.len());
            file[at] ^= bits;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        std::fs::write(&path, file).unwrap();
        fetch(dir.path(), &whole, &state);
    }
}

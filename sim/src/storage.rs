//! Directories and files in memory: what the production recovery, segment preparation and readers see of a simulated disk.
//! Whatever is written here has reached the medium; what a log write of the shard goes through before is `disk.rs`. A
//! [`Medium`] says what does not go well: pages that cannot be read, and a process that dies at an operation.

use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use synod_ring::{BlockFile, Haste, View};
use synod_wal::{Dir, Directory, Lock, Opening};

/// Files whose memory is kept for the next of the same size.
const MAX_SPARE: usize = 256;

thread_local! {
    /// Zeroed memory of files that are gone: fresh memory costs a page fault each 4 KiB, which is most of what a run would do.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What the sectors of a torn write are.
const SECTOR_BYTES: usize = crate::disk::SECTOR_BYTES;
/// The unit of what cannot be read.
const PAGE_BYTES: u64 = 4_096;
/// EIO: a page cannot be read.
pub(crate) const EIO: i32 = 5;
/// What every operation of a dead process gives; no code of the product makes anything of it.
const ENODEV: i32 = 19;

/// What a disk does to whoever works on it, shared by its directory and its files.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    state: Mutex<MediumState>,
}

#[derive(Debug, Default)]
struct MediumState {
    /// The process that works on it dies at an operation: after so many more.
    dies_after: Option<u64>,
    dead: bool,
    /// Decides what the last write leaves.
    rng: Option<Rng>,
    tally: Tally,
}

/// What was done, as far as it tells which way a recovery went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Preparations of segments that were never finished, removed.
    pub(crate) leftovers: u64,
    /// Segments that got their name.
    pub(crate) named: u64,
    /// Bytes written, or ranges zeroed.
    pub(crate) writes: u64,
}

impl Medium {
    /// The process dies at the operation after the next `operations`; a write is torn there.
    pub(crate) fn dies_after(&self, operations: u64, rng: Rng) {
        let mut state = lock(&self.state);
        (state.dies_after, state.rng) = (Some(operations), Some(rng));
    }

    /// Nobody dies any more; whether somebody had.
    pub(crate) fn revive(&self) -> bool {
        let mut state = lock(&self.state);
        state.dies_after = None;
        std::mem::take(&mut state.dead)
    }

    /// What was done since this was asked last.
    pub(crate) fn tally(&self) -> Tally {
        std::mem::take(&mut lock(&self.state).tally)
    }

    /// The dead read nothing.
    fn alive(&self) -> io::Result<()> {
        if lock(&self.state).dead { Err(gone()) } else { Ok(()) }
    }

    /// One operation; an error is the end of the process.
    fn operation(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.dead {
            return Err(gone());
        }
        match &mut state.dies_after {
            Some(0) => {
                state.dead = true;
                Err(gone())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Which sectors of the write at which the process died are on disk.
    fn torn(&self, sectors: usize) -> Vec<bool> {
        let mut state = lock(&self.state);
        let rng = state.rng.as_mut();
        rng.map_or_else(Vec::new, |rng| (0..sectors).map(|_| rng.percent(50)).collect())
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(ENODEV)
}

/// A directory. It cannot be full: `NoSpace` is a matter of housekeeping's jobs.
#[derive(Debug)]
pub(crate) struct MemoryDir {
    path: PathBuf,
    files: Arc<Files>,
    locked: Arc<AtomicBool>,
    medium: Arc<Medium>,
}

type Files = Mutex<Names>;

#[derive(Debug, Default)]
struct Names {
    files: BTreeMap<String, Arc<MemoryFile>>,
    /// What was done to the names since the directory was synced last, the oldest first.
    unsynced: Vec<Change>,
}

/// How a change of names is undone.
#[derive(Debug)]
enum Change {
    /// A file was made; what had its name before.
    Created(String, Option<Arc<MemoryFile>>),
    Renamed {
        from: String,
        to: String,
    },
    Removed(String, Arc<MemoryFile>),
}

impl Names {
    fn undo(&mut self, change: Change) {
        match change {
            Change::Created(name, None) => drop(self.files.remove(&name)),
            Change::Created(name, Some(file)) | Change::Removed(name, file) => drop(self.files.insert(name, file)),
            Change::Renamed { from, to } => {
                let file = self.files.remove(&to).expect("a name that was given last is still there");
                self.files.insert(from, file);
            }
        }
    }
}

/// The simulator's own hand on a directory.
#[derive(Debug, Default)]
pub(crate) struct Store {
    files: Arc<Files>,
    pub(crate) medium: Arc<Medium>,
}

impl Store {
    /// The power fails: the last of the names that were not synced are as they were before, in the order of a journal. How many.
    pub(crate) fn lose_names(&self, rng: &mut Rng) -> usize {
        let mut names = lock(&self.files);
        if names.unsynced.is_empty() {
            return 0;
        }
        let kept = rng.below(names.unsynced.len() as u64 + 1) as usize;
        let lost = names.unsynced.split_off(kept);
        names.unsynced.clear();
        let count = lost.len();
        lost.into_iter().rev().for_each(|change| names.undo(change));
        count
    }

    /// The page that holds this byte of a file cannot be read any more, until it is written.
    pub(crate) fn spoil(&self, name: &str, offset: u64) {
        let file = lock(&self.files).files.get(name).cloned().expect("a file that the log wrote to");
        lock(&file.contents).unreadable.insert(offset / PAGE_BYTES * PAGE_BYTES);
    }
}

/// See [`Directory::lock`].
#[derive(Debug)]
struct Held(Arc<AtomicBool>);

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl MemoryDir {
    /// An empty directory; `path` is what messages call it.
    pub(crate) fn dir(path: PathBuf) -> (Dir, Store) {
        let store = Store::default();
        let (files, medium) = (store.files.clone(), store.medium.clone());
        (Dir::new(MemoryDir { path, files, locked: Arc::default(), medium }), store)
    }

    fn file(&self, name: &str) -> io::Result<Arc<MemoryFile>> {
        lock(&self.files).files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A panic elsewhere leaves bytes as they are: there is nothing to be protected from.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory for MemoryDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn exists(&self) -> bool {
        true
    }

    fn create(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        if self.locked.swap(true, Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Held(self.locked.clone())))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.medium.alive()?;
        Ok(lock(&self.files).files.keys().cloned().collect())
    }

    fn open(&self, name: &str, opening: Opening) -> io::Result<Arc<dyn BlockFile>> {
        self.medium.alive()?;
        if opening == Opening::Create {
            self.medium.operation()?;
            let mut names = lock(&self.files);
            let before = names.files.insert(name.to_owned(), Arc::new(MemoryFile::new(self.medium.clone())));
            names.unsynced.push(Change::Created(name.to_owned(), before));
        }
        Ok(self.file(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium.operation()?;
        lock(&self.medium.state).tally.named += u64::from(to.ends_with(".seg"));
        let mut names = lock(&self.files);
        if names.files.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = names.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.files.insert(to.to_owned(), file);
        names.unsynced.push(Change::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.medium.operation()?;
        lock(&self.medium.state).tally.leftovers += u64::from(name.ends_with(".seg.tmp"));
        let mut names = lock(&self.files);
        let file = names.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        names.unsynced.push(Change::Removed(name.to_owned(), file));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.operation()?;
        lock(&self.files).unsynced.clear();
        Ok(())
    }

    fn sync_parent(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// A file: shared with its views, and copied only if one lives while it is written.
#[derive(Debug, Default)]
pub(crate) struct MemoryFile {
    contents: Mutex<Contents>,
    medium: Arc<Medium>,
}

impl MemoryFile {
    fn new(medium: Arc<Medium>) -> MemoryFile {
        MemoryFile { contents: Mutex::default(), medium }
    }
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Arc<Vec<u8>>,
    /// Nothing but zeros lies behind this.
    high: usize,
    /// The starts of the pages that cannot be read; a write mends them.
    unreadable: BTreeSet<u64>,
}

impl Contents {
    fn resize(&mut self, bytes: usize) {
        if self.bytes.is_empty() {
            let spare = SPARE.with_borrow_mut(|spare| {
                let found = spare.iter().rposition(|spare| spare.len() == bytes)?;
                Some(spare.swap_remove(found))
            });
            self.bytes = Arc::new(spare.unwrap_or_else(|| vec![0; bytes]));
            return;
        }
        if bytes != self.bytes.len() {
            Arc::make_mut(&mut self.bytes).resize(bytes, 0);
            self.high = self.high.min(bytes);
        }
    }

    /// Whether a page between these offsets cannot be read.
    fn is_unreadable(&self, from: u64, to: u64) -> bool {
        self.unreadable.range(from / PAGE_BYTES * PAGE_BYTES..to).next().is_some()
    }

    /// What was written can be read again.
    fn mend(&mut self, from: u64, to: u64) {
        self.unreadable.retain(|page| page + PAGE_BYTES <= from || *page >= to);
    }

    fn put(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset as usize + bytes.len();
        if end > self.bytes.len() {
            self.resize(end);
        }
        let range = self.range(offset, bytes.len())?;
        self.high = self.high.max(end);
        Arc::make_mut(&mut self.bytes)[range].copy_from_slice(bytes);
        self.mend(offset, end as u64);
        Ok(())
    }

    fn range(&self, offset: u64, bytes: usize) -> io::Result<std::ops::Range<usize>> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        match from.checked_add(bytes).filter(|end| *end <= self.bytes.len()) {
            Some(end) => Ok(from..end),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let Some(bytes) = Arc::get_mut(&mut self.bytes).map(std::mem::take).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let mut bytes = bytes;
        bytes[..self.high].fill(0);
        // While the thread ends there is no place to keep it, and no need.
        let _kept = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(bytes);
            }
        });
    }
}

impl BlockFile for MemoryFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).bytes.len() as u64)
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        self.medium.operation()?;
        lock(&self.contents).resize(bytes as usize);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.medium.operation()?;
        let mut contents = lock(&self.contents);
        let bytes = (bytes as usize).max(contents.bytes.len());
        contents.resize(bytes);
        Ok(())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.alive()?;
        let contents = lock(&self.contents);
        if contents.is_unreadable(offset, offset + out.len() as u64) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let range = contents.range(offset, out.len())?;
        out.copy_from_slice(&contents.bytes[range]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        lock(&self.medium.state).tally.writes += 1;
        let was_alive = self.medium.alive().is_ok();
        let Err(end) = self.medium.operation() else { return contents.put(bytes, offset) };
        if was_alive {
            let reached = self.medium.torn(bytes.len().div_ceil(SECTOR_BYTES));
            for ((at, sector), _) in bytes.chunks(SECTOR_BYTES).enumerate().zip(reached).filter(|(_, reached)| *reached)
            {
                contents.put(sector, offset + (at * SECTOR_BYTES) as u64)?;
            }
        }
        Err(end)
    }

    fn zero(&self, from: u64, to: u64, _haste: &Haste) -> io::Result<()> {
        self.medium.operation()?;
        let mut contents = lock(&self.contents);
        contents.mend(from, to);
        if to as usize > contents.bytes.len() {
            contents.resize(to as usize);
        }
        let range = from as usize..contents.high.min(to as usize);
        if !range.is_empty() {
            Arc::make_mut(&mut contents.bytes)[range].fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.operation()
    }

    fn view(&self, offset: u64, bytes: usize) -> io::Result<View> {
        self.medium.alive()?;
        let contents = lock(&self.contents);
        let range = contents.range(offset, bytes)?;
        let end = offset + bytes as u64;
        let pages = contents.unreadable.range(offset / PAGE_BYTES * PAGE_BYTES..end);
        let within =
            |page: &u64| page.saturating_sub(offset) as usize..((page + PAGE_BYTES).min(end) - offset) as usize;
        let unreadable: Vec<_> = pages.map(within).collect();
        let last_unreadable = unreadable.last().map_or(0, |page| page.end);
        let zeros = contents.high.saturating_sub(offset as usize).max(last_unreadable);
        Ok(View::shared(contents.bytes.clone(), range, unreadable).with_zeros(zeros))
    }

    fn never_read_ahead(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget(&self) -> io::Result<()> {
        Ok(())
    }

    fn direct_bytes(&self) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wal::{Expect, Identity, LogError};
    use synod_wire::{ClusterId, GroupId, NodeId, Slot};

    #[test]
    fn a_view_keeps_what_it_showed() {
        let file = MemoryFile::default();
        file.allocate(8_192).unwrap();
        file.write_at(&[7; 512], 4_096).unwrap();
        let view = file.view(4_096, 4_096).unwrap();
        file.zero(0, 8_192, &Haste::at_once()).unwrap();
        assert_eq!(view.get(0..512), Some(&[7; 512][..]));
        let mut now = [1; 512];
        file.read_at(&mut now, 4_096).unwrap();
        assert_eq!(now, [0; 512]);
        assert_eq!(file.read_at(&mut now, 8_000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn memory_that_is_used_again_is_zero() {
        let file = MemoryFile::default();
        file.allocate(4_096).unwrap();
        file.write_at(&[9; 100], 3_000).unwrap();
        drop(file);
        let file = MemoryFile::default();
        file.allocate(4_096).unwrap();
        let view = file.view(0, 4_096).unwrap();
        assert_eq!(view.get(0..4_096), Some(&[0; 4_096][..]));
    }

    #[test]
    fn a_spoilt_page_cannot_be_read_until_it_is_written() {
        let (dir, store) = MemoryDir::dir("disk".into());
        let file = dir.open("a", Opening::Create).unwrap();
        file.allocate(16_384).unwrap();
        store.spoil("a", 5_000);
        let mut bytes = [0; 512];
        assert_eq!(file.read_at(&mut bytes, 8_000).unwrap_err().raw_os_error(), Some(EIO));
        file.read_at(&mut bytes, 8_192).unwrap();
        let view = file.view(4_096, 8_192).unwrap();
        assert_eq!((view.get(0..1), view.get(4_096..4_097)), (None, Some(&[0][..])));
        file.write_at(&[1; 4_096], 4_096).unwrap();
        file.read_at(&mut bytes, 8_000 - 512).unwrap();
    }

    #[test]
    fn a_process_dies_at_an_operation_and_leaves_a_torn_write() {
        let (dir, store) = MemoryDir::dir("disk".into());
        let file = dir.open("a", Opening::Create).unwrap();
        file.allocate(8_192).unwrap();
        store.medium.dies_after(1, Rng::new(1, "death"));
        file.write_at(&[1; 4_096], 0).unwrap();
        assert_eq!(file.write_at(&[2; 4_096], 4_096).unwrap_err().raw_os_error(), Some(ENODEV));
        assert!(dir.sync().is_err() && file.read_at(&mut [0], 0).is_err(), "the dead do nothing more");
        assert!(store.medium.revive() && !store.medium.revive());
        let mut bytes = [0; 4_096];
        file.read_at(&mut bytes, 4_096).unwrap();
        let reached = bytes.chunks(SECTOR_BYTES).filter(|sector| sector[0] == 2).count();
        assert!((1..8).contains(&reached), "{reached} of 8 sectors");
    }

    fn snapshots(dir: &Dir) -> Vec<u64> {
        synod_wal::snapshot::list(dir).unwrap().into_iter().map(|slot| slot.0).collect()
    }

    const IDENTITY: Identity = Identity { cluster: ClusterId(1), group: GroupId(0), node: NodeId(2), incarnation: 3 };
    const EXPECT: Expect = Expect { cluster: ClusterId(1), group: GroupId(0), node: NodeId(2) };

    #[test]
    fn names_that_were_not_synced_are_lost_from_the_last_one_back() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..40 {
            let (dir, store) = MemoryDir::dir("disk".into());
            for name in ["a", "b", "c"] {
                dir.open(name, Opening::Create).unwrap();
            }
            dir.sync().unwrap();
            assert_eq!(store.lose_names(&mut Rng::new(seed, "power")), 0, "synced names stay");
            dir.remove("a").unwrap();
            dir.rename("b", "d").unwrap();
            dir.open("e", Opening::Create).unwrap();
            store.lose_names(&mut Rng::new(seed, "power"));
            outcomes.insert(dir.names().unwrap().concat());
        }
        assert_eq!(outcomes.iter().collect::<Vec<_>>(), ["abc", "bc", "cd", "cde"]);
    }

    #[test]
    fn snapshots_survive_a_death_or_a_power_cut_at_any_operation() {
        // Three pieces: with the header's block, the sync, the name and the directory's sync, fewer operations than are tried.
        let (old, new) = (vec![1; 30_000], vec![2; 2 * synod_wal::snapshot::PIECE_BYTES + 10_000]);
        let mut whole = 0;
        for operations in 0..9 {
            for seed in 0..8 {
                let (dir, store) = MemoryDir::dir("disk".into());
                let write =
                    |slot, body: &[u8]| synod_wal::snapshot::write(&dir, &IDENTITY, Slot(slot), body, &mut || {});
                write(1, &old).unwrap();
                store.medium.dies_after(operations, Rng::new(seed, "death"));
                let written = write(2, &new).is_ok();
                store.medium.revive();
                store.lose_names(&mut Rng::new(seed, "power"));
                let read = |slot| synod_wal::snapshot::read(&dir, &EXPECT, Slot(slot)).unwrap().body;
                assert_eq!(read(1), old, "{operations}");
                if snapshots(&dir) == [1, 2] {
                    assert_eq!(read(2), new, "{operations}");
                    whole += 1;
                } else {
                    assert!(!written && snapshots(&dir) == [1], "{operations}");
                }
            }
        }
        assert!((9..64).contains(&whole), "{whole} of 72 were named");
    }

    #[test]
    fn a_page_of_a_snapshot_that_cannot_be_read_is_told() {
        let (dir, store) = MemoryDir::dir("disk".into());
        synod_wal::snapshot::write(&dir, &IDENTITY, Slot(7), &[9; 50_000], &mut || {}).unwrap();
        store.spoil("0000000000000007.snap", 40_000);
        let error = synod_wal::snapshot::read(&dir, &EXPECT, Slot(7)).unwrap_err();
        assert!(matches!(error, LogError::BadSnapshot { .. }), "{error}");
    }

    #[test]
    fn a_name_that_is_taken_is_not_replaced_and_a_lock_has_one_holder() {
        let (dir, _) = MemoryDir::dir("disk".into());
        dir.open("a", Opening::Create).unwrap();
        dir.open("b", Opening::Create).unwrap();
        assert_eq!(dir.rename("a", "b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.open("c", Opening::Direct).unwrap_err().kind(), io::ErrorKind::NotFound);
        let held = dir.lock().unwrap();
        assert_eq!(dir.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        dir.lock().unwrap();
    }
}

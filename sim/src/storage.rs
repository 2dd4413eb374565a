//! Directories and files in memory: what the production recovery, segment preparation and readers see of a simulated disk.
//! Whatever is written here has reached the medium; what a log write of the shard goes through before is `disk.rs`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use synod_ring::{BlockFile, Reading, View};
use synod_wal::{Dir, Directory, Lock, Opening};

/// Files whose memory is kept for the next of the same size.
const MAX_SPARE: usize = 256;

thread_local! {
    /// Zeroed memory of files that are gone: fresh memory costs a page fault each 4 KiB, which is most of what a run would do.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A directory. It cannot be full: `NoSpace` is a matter of housekeeping's jobs.
#[derive(Debug)]
pub(crate) struct MemoryDir {
    path: PathBuf,
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
    locked: Arc<AtomicBool>,
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
    pub(crate) fn dir(path: PathBuf) -> Dir {
        Dir::new(MemoryDir { path, files: Mutex::default(), locked: Arc::default() })
    }

    fn file(&self, name: &str) -> io::Result<Arc<MemoryFile>> {
        lock(&self.files).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
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
        Ok(lock(&self.files).keys().cloned().collect())
    }

    fn open(&self, name: &str, opening: Opening) -> io::Result<Arc<dyn BlockFile>> {
        if opening == Opening::Create {
            lock(&self.files).insert(name.to_owned(), Arc::default());
        }
        Ok(self.file(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        if files.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.files).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
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
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Arc<Vec<u8>>,
    /// Nothing but zeros lies behind this.
    high: usize,
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
        lock(&self.contents).resize(bytes as usize);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        let bytes = (bytes as usize).max(contents.bytes.len());
        contents.resize(bytes);
        Ok(())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let contents = lock(&self.contents);
        let range = contents.range(offset, out.len())?;
        out.copy_from_slice(&contents.bytes[range]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        let end = offset as usize + bytes.len();
        if end > contents.bytes.len() {
            contents.resize(end);
        }
        let range = contents.range(offset, bytes.len())?;
        contents.high = contents.high.max(end);
        Arc::make_mut(&mut contents.bytes)[range].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        let mut contents = lock(&self.contents);
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
        Ok(())
    }

    fn view(&self, offset: u64, bytes: usize, _: Reading) -> io::Result<View> {
        let contents = lock(&self.contents);
        let range = contents.range(offset, bytes)?;
        Ok(View::shared(contents.bytes.clone(), range, Vec::new()))
    }

    fn expect(&self, _: Reading) -> io::Result<()> {
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

    #[test]
    fn a_view_keeps_what_it_showed() {
        let file = MemoryFile::default();
        file.allocate(8_192).unwrap();
        file.write_at(&[7; 512], 4_096).unwrap();
        let view = file.view(4_096, 4_096, Reading::Whole).unwrap();
        file.zero(0, 8_192).unwrap();
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
        let view = file.view(0, 4_096, Reading::Whole).unwrap();
        assert_eq!(view.get(0..4_096), Some(&[0; 4_096][..]));
    }

    #[test]
    fn a_name_that_is_taken_is_not_replaced_and_a_lock_has_one_holder() {
        let dir = MemoryDir::dir("disk".into());
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

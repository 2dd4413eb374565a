//! A directory whose process dies at an operation: what it wrote before is on the disk, the last write in part.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use synod_ring::{BlockFile, Haste, View};
use synod_wal::{Dir, Directory, Lock, Opening};

/// See the module.
#[derive(Debug)]
struct Dying {
    dir: Dir,
    left: Arc<AtomicUsize>,
}

/// The directory at `path`, of a process that dies at the operation after the next `operations`.
pub fn dying(path: &Path, operations: usize) -> Dir {
    Dir::new(Dying { dir: Dir::from(path), left: Arc::new(AtomicUsize::new(operations)) })
}

#[derive(Debug)]
struct DyingFile {
    file: Arc<dyn BlockFile>,
    left: Arc<AtomicUsize>,
}

fn operation(left: &AtomicUsize) -> io::Result<()> {
    let alive = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    alive.map(drop).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

impl Directory for Dying {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn exists(&self) -> bool {
        self.dir.exists()
    }

    fn create(&self) -> io::Result<()> {
        self.dir.create()
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.dir.lock()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.dir.names()
    }

    fn open(&self, name: &str, opening: Opening) -> io::Result<Arc<dyn BlockFile>> {
        operation(&self.left)?;
        Ok(Arc::new(DyingFile { file: self.dir.open(name, opening)?, left: self.left.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        operation(&self.left)?;
        self.dir.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        operation(&self.left)?;
        self.dir.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        operation(&self.left)
    }

    fn sync_parent(&self) -> io::Result<()> {
        operation(&self.left)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.dir.free_bytes()
    }
}

impl BlockFile for DyingFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        operation(&self.left)?;
        self.file.set_len_bytes(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        operation(&self.left)?;
        self.file.allocate(bytes)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(end) = operation(&self.left) {
            // The last write reaches the disk in part.
            let part = bytes.len() / 2 / 4_096 * 4_096;
            self.file.write_at(&bytes[..part], offset)?;
            return Err(end);
        }
        self.file.write_at(bytes, offset)
    }

    fn zero(&self, from: u64, to: u64, haste: &Haste) -> io::Result<()> {
        operation(&self.left)?;
        self.file.zero(from, to, haste)
    }

    fn sync(&self) -> io::Result<()> {
        operation(&self.left)
    }

    fn view(&self, offset: u64, bytes: usize) -> io::Result<View> {
        self.file.view(offset, bytes)
    }

    fn never_read_ahead(&self) -> io::Result<()> {
        self.file.never_read_ahead()
    }

    fn forget(&self) -> io::Result<()> {
        self.file.forget()
    }

    fn direct_bytes(&self) -> io::Result<Option<u32>> {
        self.file.direct_bytes()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}

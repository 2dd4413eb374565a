//! The directory of a log: its lock, its files' names, and how its device wants to be written. Called on start and by
//! housekeeping; blocking.

use crate::{LogError, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES};
use rustix::fs::{CWD, RenameFlags};
use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_ring::BlockFile;

/// The name of the file whose lock is the directory's.
const LOCK: &str = "lock";

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// To be read, through the page cache.
    Read,
    /// To be read directly, or through the page cache where the file system refuses the other.
    ReadDirect,
    /// To be read and written directly, or through the page cache where the file system refuses the other.
    Direct,
    /// As [`Opening::Direct`], made anew and empty.
    Create,
}

/// A directory in which a log lies: of a file system, or of a simulator. Files are named by their names in it.
pub trait Directory: Debug + Send + Sync {
    /// What it is called, for messages.
    fn path(&self) -> &Path;
    /// Whether it is there.
    fn exists(&self) -> bool;
    /// Makes it, if it is not there.
    fn create(&self) -> io::Result<()>;
    /// Takes the exclusive right to it, until the value is dropped (or the process ends). [`io::ErrorKind::WouldBlock`]: somebody has it.
    fn lock(&self) -> io::Result<Box<dyn Lock>>;
    /// The names of its files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, name: &str, opening: Opening) -> io::Result<Arc<dyn BlockFile>>;
    /// Gives a file another name, which must not be taken.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes its names durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes its own name durable.
    fn sync_parent(&self) -> io::Result<()>;
    /// The space that is left, bytes.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Something that is held.
pub trait Lock: Debug + Send {}

/// A locked file. It is unlocked before it is closed: to close it is not enough while a child of this process has a copy of
/// the descriptor, as each has between its fork and its exec.
#[derive(Debug)]
struct LockedFile(File);

impl LockedFile {
    fn open(path: &Path) -> io::Result<LockedFile> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(LockedFile(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }
}

impl Lock for LockedFile {}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Where the system refuses, closing the file does it, a little later at worst.
        let _later = self.0.unlock();
    }
}

/// Where a log lies: a [`Directory`] that is shared. A path stands for a directory of the file system.
#[derive(Clone, Debug)]
pub struct Dir(Arc<dyn Directory>);

impl Dir {
    /// A directory of any kind.
    pub fn new(directory: impl Directory + 'static) -> Dir {
        Dir(Arc::new(directory))
    }
}

impl Deref for Dir {
    type Target = dyn Directory;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl From<&Dir> for Dir {
    fn from(dir: &Dir) -> Dir {
        dir.clone()
    }
}

impl From<&Path> for Dir {
    fn from(path: &Path) -> Dir {
        Dir::new(Folder { path: path.to_path_buf() })
    }
}

impl From<&PathBuf> for Dir {
    fn from(path: &PathBuf) -> Dir {
        Dir::from(path.as_path())
    }
}

/// A directory of the file system.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Directory for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn exists(&self) -> bool {
        self.path.is_dir()
    }

    fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.path)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        Ok(Box::new(LockedFile::open(&self.path.join(LOCK))?))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // No file of a log has a name that is no text.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str, opening: Opening) -> io::Result<Arc<dyn BlockFile>> {
        let path = self.path.join(name);
        if opening == Opening::Read {
            return Ok(Arc::new(File::open(path)?));
        }
        let (create, write) = (opening == Opening::Create, opening != Opening::ReadDirect);
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(write).custom_flags(flags).create(create).truncate(create).open(&path)
        };
        match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            // Some take the flag, and say of the file that it has no direct reads and writes.
            Ok(file) if matches!(file.direct_bytes(), Ok(Some(0))) => {}
            opened => return Ok(Arc::new(opened?)),
        }
        Ok(Arc::new(open(0)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, self.path.join(from), CWD, self.path.join(to), RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        synod_ring::remove_file(&self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn sync_parent(&self) -> io::Result<()> {
        match self.path.canonicalize()?.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.path)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Takes the lock of `dir`, which must exist.
pub(crate) fn take_lock(dir: &Dir) -> Result<Box<dyn Lock>, LogError> {
    dir.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked { dir: dir.path().to_path_buf() },
        _ => LogError::file("lock", &dir.path().join(LOCK))(error),
    })
}

/// The files of a log.
pub(crate) struct Listing {
    /// The segments' numbers, in order.
    pub(crate) segments: Vec<u64>,
    /// The snapshots' slots, in order.
    pub(crate) snapshots: Vec<u64>,
    /// The names that interrupted preparations of either left.
    pub(crate) leftovers: Vec<String>,
}

/// The name of segment `index`.
pub(crate) fn segment_name(index: u64) -> String {
    format!("{index:016x}.seg")
}

/// Its name while it is prepared.
pub(crate) fn preparation_name(index: u64) -> String {
    format!("{index:016x}.seg.tmp")
}

/// The path of segment `index`, for messages.
pub(crate) fn segment_path(dir: &Dir, index: u64) -> PathBuf {
    dir.path().join(segment_name(index))
}

/// The name of the snapshot at `slot`.
pub(crate) fn snapshot_name(slot: u64) -> String {
    format!("{slot:016x}.snap")
}

/// The name of the file that gathers the state of a slot from another node.
pub(crate) fn partial_name(slot: u64, crc: u32) -> String {
    format!("{slot:016x}-{crc:08x}.part")
}

/// The names of such files in `dir`, in order.
pub(crate) fn list_partials(dir: &Dir) -> Result<Vec<String>, LogError> {
    let spelt = |name: &str| {
        let (slot, crc) = name.strip_suffix(".part")?.split_once('-')?;
        Some(partial_name(u64::from_str_radix(slot, 16).ok()?, u32::from_str_radix(crc, 16).ok()?))
    };
    let mut names = dir.names().map_err(LogError::file("list", dir.path()))?;
    names.retain(|name| spelt(name).is_some_and(|spelt| spelt == *name));
    names.sort_unstable();
    Ok(names)
}

fn segment_index(name: &str) -> Option<u64> {
    number(name, ".seg", segment_name)
}

fn snapshot_slot(name: &str) -> Option<u64> {
    number(name, ".snap", snapshot_name)
}

/// The number in a file's name. Only the one spelling that `spelt` gives: two files must not be the same.
fn number(name: &str, suffix: &str, spelt: fn(u64) -> String) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(suffix)?, 16).ok()?;
    (name == spelt(number)).then_some(number)
}

/// Lists the log's files in `dir`; others are not looked at.
pub(crate) fn list(dir: &Dir) -> Result<Listing, LogError> {
    let mut listing = Listing { segments: Vec::new(), snapshots: Vec::new(), leftovers: Vec::new() };
    for name in dir.names().map_err(LogError::file("list", dir.path()))? {
        if let Some(index) = segment_index(&name) {
            listing.segments.push(index);
        } else if let Some(slot) = snapshot_slot(&name) {
            listing.snapshots.push(slot);
        } else if name.strip_suffix(".tmp").is_some_and(|name| segment_index(name).or(snapshot_slot(name)).is_some()) {
            listing.leftovers.push(name);
        }
    }
    listing.snapshots.sort_unstable();
    listing.segments.sort_unstable();
    Ok(listing)
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Dir) -> Result<(), LogError> {
    dir.sync().map_err(LogError::file("sync the directory", dir.path()))
}

/// Opens a file to be read.
pub(crate) fn open_read(dir: &Dir, name: &str) -> Result<Arc<dyn BlockFile>, LogError> {
    dir.open(name, Opening::Read).map_err(LogError::file("open", &dir.path().join(name)))
}

/// Opens a segment for direct reads, as far as the file system takes them.
pub(crate) fn open_to_read_directly(dir: &Dir, segment: u64) -> Result<Arc<dyn BlockFile>, LogError> {
    let name = segment_name(segment);
    dir.open(&name, Opening::ReadDirect).map_err(LogError::file("open", &dir.path().join(name)))
}

/// Opens a file for direct writes (and reads), as far as the file system takes them.
pub(crate) fn open_direct(dir: &Dir, name: &str, create: bool) -> Result<Arc<dyn BlockFile>, LogError> {
    let opening = if create { Opening::Create } else { Opening::Direct };
    dir.open(name, opening).map_err(LogError::file("open", &dir.path().join(name)))
}

/// The unit of writes that the device below `file` asks for, at least [`MIN_BLOCK_BYTES`].
pub(crate) fn block_bytes(file: &dyn BlockFile, path: &Path) -> Result<u32, LogError> {
    match file.direct_bytes().map_err(LogError::file("statx", path))? {
        // The file system does not say (tmpfs, for one), or has no direct writes; a page suits whatever takes them at all, and the
        // page cache.
        None | Some(0) => Ok(MIN_BLOCK_BYTES),
        Some(align) if align > MAX_BLOCK_BYTES || !align.is_power_of_two() => {
            let reason = format!("it asks for blocks of {align} bytes, {MAX_BLOCK_BYTES} is the most");
            Err(LogError::NoDirectIo { path: path.to_path_buf(), reason })
        }
        Some(align) => Ok(align.max(MIN_BLOCK_BYTES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_is_a_segment() {
        assert_eq!(segment_index("000000000000001f.seg"), Some(31));
        for name in
            ["1f.seg", "000000000000001F.seg", "+00000000000001f.seg", "000000000000001f.seg.tmp", "lock", ".seg"]
        {
            assert_eq!(segment_index(name), None, "{name}");
        }
    }

    #[test]
    fn a_second_owner_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let log = Dir::from(dir.path());
        let held = take_lock(&log).unwrap();
        let error = take_lock(&log).unwrap_err();
        assert!(matches!(&error, LogError::Locked { dir: named } if named == dir.path()), "{error}");
        drop(held);
        drop(take_lock(&log).unwrap());
    }

    #[test]
    fn a_child_of_the_owner_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let held = LockedFile::open(&path).unwrap();
        let of_child = held.0.try_clone().unwrap();
        drop(held);
        drop(LockedFile::open(&path).unwrap());
        drop(of_child);
    }
}

//! The directory of a log: its lock, its files' names, and how its device wants to be written. Called on start and by
//! housekeeping; blocking.

use crate::{LogError, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES};
use rustix::fs::{AtFlags, StatxFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The exclusive right to a log's directory, until dropped (or until the process ends: the kernel gives it back).
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock of `dir`, which must exist.
    pub(crate) fn take(dir: &Path) -> Result<DirLock, LogError> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(LogError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LogError::Locked { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(source)) => Err(LogError::file("lock", &path)(source)),
        }
    }
}

/// The files of a log.
pub(crate) struct Listing {
    /// The segments, by number.
    pub(crate) segments: Vec<(u64, PathBuf)>,
    /// What interrupted preparations left.
    pub(crate) leftovers: Vec<PathBuf>,
}

/// The file of segment `index`.
pub(crate) fn segment_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:016x}.seg"))
}

/// The file of segment `index` while it is prepared.
pub(crate) fn preparation_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:016x}.seg.tmp"))
}

fn segment_index(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let index = u64::from_str_radix(digits, 16).ok()?;
    // Only the one spelling that `segment_path` gives: two files must not be the same segment.
    (name == format!("{index:016x}.seg")).then_some(index)
}

/// Lists the log's files in `dir`; others are not looked at.
pub(crate) fn list(dir: &Path) -> Result<Listing, LogError> {
    let mut listing = Listing { segments: Vec::new(), leftovers: Vec::new() };
    let entries = std::fs::read_dir(dir).map_err(LogError::file("list", dir))?;
    for entry in entries {
        let path = entry.map_err(LogError::file("list", dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(index) = segment_index(name) {
            listing.segments.push((index, path));
        } else if name.strip_suffix(".tmp").and_then(segment_index).is_some() {
            listing.leftovers.push(path);
        }
    }
    listing.segments.sort();
    Ok(listing)
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(LogError::file("sync the directory", dir))
}

/// Opens `path` for direct writes (and reads).
pub(crate) fn open_direct(path: &Path, create: bool) -> Result<File, LogError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT).create(create).truncate(create);
    options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => LogError::NoDirectIo { path: path.to_path_buf(), reason: source.to_string() },
        _ => LogError::file("open", path)(source),
    })
}

/// The unit of writes that the device below `file` asks for, at least [`MIN_BLOCK_BYTES`].
pub(crate) fn block_bytes(file: &File, path: &Path) -> Result<u32, LogError> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let stat = stat.map_err(|errno| LogError::file("statx", path)(errno.into()))?;
    if !StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) {
        // The file system does not say (tmpfs, for one); a page suits whatever takes O_DIRECT at all.
        return Ok(MIN_BLOCK_BYTES);
    }
    let refuse = |reason: String| Err(LogError::NoDirectIo { path: path.to_path_buf(), reason });
    match stat.stx_dio_offset_align {
        0 => refuse("statx reports no direct I/O".into()),
        align if align > MAX_BLOCK_BYTES || !align.is_power_of_two() => {
            refuse(format!("it asks for blocks of {align} bytes, {MAX_BLOCK_BYTES} is the most"))
        }
        align => Ok(align.max(MIN_BLOCK_BYTES)),
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
        let held = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err();
        assert!(matches!(&error, LogError::Locked { dir: named } if named == dir.path()), "{error}");
        drop(held);
        DirLock::take(dir.path()).unwrap();
    }
}

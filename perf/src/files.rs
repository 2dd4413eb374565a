//! Directories and files on a real disk, as the product's log has them: preallocated, written once, synced.

use anyhow::{Context, bail};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes of a log file of the skeleton: a segment of the product.
pub(crate) const LOG_BYTES: u64 = 64 << 20;
/// Writes are multiples of this: no common disk has larger blocks.
pub(crate) const BLOCK_BYTES: usize = 4_096;

/// A new directory below `parent`, or where the logs of the product's demo go. It is removed when dropped.
pub(crate) fn directory(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let parent = parent.map_or_else(default_parent, Path::to_path_buf);
    if lies_in_memory(&parent)? {
        bail!(
            "{} lies in memory: its figures would say nothing. Name a directory on a disk with --dir",
            parent.display()
        );
    }
    let dir = tempfile::Builder::new().prefix("synod-perf-").tempdir_in(&parent);
    dir.with_context(|| format!("cannot make a directory in {}; name another with --dir", parent.display()))
}

/// Where directories are made if none is named.
pub(crate) fn default_parent() -> PathBuf {
    std::env::var_os("TMPDIR").map_or("/var/tmp".into(), PathBuf::from)
}

fn lies_in_memory(path: &Path) -> anyhow::Result<bool> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
    // SAFETY: all bytes zero is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: reads a NUL-terminated string and writes into a live local.
    let result = unsafe { libc::statfs(name.as_ptr(), &mut stat) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot look at {}", path.display()));
    }
    Ok(stat.f_type == libc::TMPFS_MAGIC || stat.f_type == RAMFS_MAGIC)
}

/// From `linux/magic.h`.
const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6_u32 as libc::__fsword_t;

/// Makes a log file: every block allocated and written once, so that a later write changes no metadata.
pub(crate) fn prepare_log(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..LOG_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}

/// Opens it as the reactor writes it.
pub(crate) fn open_log(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    file.with_context(|| format!("cannot open {} for direct writes", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_disk() {
        if Path::new("/dev/shm").is_dir() {
            assert!(lies_in_memory(Path::new("/dev/shm")).unwrap());
            let error = directory(Some(Path::new("/dev/shm"))).unwrap_err();
            assert!(error.to_string().contains("--dir"), "{error}");
        }
        assert!(!lies_in_memory(Path::new("/proc")).unwrap());
        assert!(directory(Some(Path::new("/no/such/place"))).is_err());
    }
}

//! Directories and files on a real disk, as the product's log has them: preallocated, written once, synced.

use anyhow::{Context, bail};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes of a log file of the skeleton: a segment of the product.
pub const LOG_BYTES: u64 = 64 << 20;
/// Writes are multiples of this: no common disk has larger blocks.
pub const BLOCK_BYTES: usize = 4_096;

/// A new directory below `parent`, or where the logs of the product's demo go. It is removed when dropped.
pub fn directory(parent: Option<&Path>) -> anyhow::Result<TempDir> {
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
pub fn default_parent() -> PathBuf {
    std::env::var_os("TMPDIR").map_or("/var/tmp".into(), PathBuf::from)
}

/// Whether what lies there is not on a disk.
pub fn lies_in_memory(path: &Path) -> anyhow::Result<bool> {
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
pub fn prepare_log(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    zero(&file).with_context(|| format!("cannot prepare {}", path.display()))
}

/// Writes zeros over the first [`LOG_BYTES`] of a file, and syncs them.
pub fn zero(file: &File) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for offset in (0..LOG_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()
}

/// A file in `dir` without a name: it goes with the process, however that ends.
pub fn nameless(dir: &Path) -> anyhow::Result<File> {
    tempfile::tempfile_in(dir).with_context(|| format!("cannot make a file in {}", dir.display()))
}

/// Opens such a file once more; `direct`: for writes past the page cache.
pub fn open_again(file: &File, direct: bool) -> std::io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Opens it as the reactor writes it.
pub fn open_log(path: &Path) -> anyhow::Result<File> {
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

    #[test]
    fn a_nameless_file_is_in_no_directory_and_opens_again() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = nameless(dir.path()).unwrap();
        file.write_all_at(b"here", 0).unwrap();
        let mut bytes = [0; 4];
        open_again(&file, false).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, std::fs::read_dir(dir.path()).unwrap().count()), (b"here", 0));
    }
}

//! The disk below a directory. Reads /proc/self/mountinfo and /sys/dev/block.

use super::text;
use anyhow::Context;
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// Where its file system is mounted.
    pub(crate) mounted_at: Option<String>,
    /// The file system.
    pub(crate) file_system: Option<String>,
    /// How it is mounted.
    pub(crate) mount_options: Option<String>,
    /// The block device; unknown for file systems on several or none.
    pub(crate) device: Option<String>,
    /// What the device says it is.
    pub(crate) model: Option<String>,
    /// Its size.
    pub(crate) bytes: Option<u64>,
    /// What orders its requests.
    pub(crate) scheduler: Option<String>,
    /// "write back": a sync costs a flush of the device's cache.
    pub(crate) write_cache: Option<String>,
    /// 1: it can write through its cache.
    pub(crate) forced_unit_access: Option<String>,
    /// 1: it turns.
    pub(crate) rotational: Option<String>,
    /// The smallest write.
    pub(crate) logical_block_bytes: Option<String>,
    /// The smallest write that needs no read.
    pub(crate) physical_block_bytes: Option<String>,
    /// Requests that it takes at once.
    pub(crate) queue_requests: Option<String>,
    /// 1: completions are polled for.
    pub(crate) io_poll: Option<String>,
}

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    device: &'a str,
    at: &'a str,
    options: String,
    kind: &'a str,
}

impl Disk {
    /// Below `directory`, which exists.
    pub(crate) fn below(directory: &Path) -> anyhow::Result<Disk> {
        let found = directory.canonicalize().with_context(|| format!("cannot find {}", directory.display()))?;
        let device = found.metadata().with_context(|| format!("cannot look at {}", found.display()))?.dev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        let table = text("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_of(&table, &number, &found);
        let block = block_device(&number);
        let queue = |name: &str| text(block.as_ref()?.join("queue").join(name).to_str()?);
        let about = |name: &str| text(block.as_ref()?.join(name).to_str()?);
        Ok(Disk {
            mounted_at: mount.as_ref().map(|mount| mount.at.to_owned()),
            file_system: mount.as_ref().map(|mount| mount.kind.to_owned()),
            mount_options: mount.map(|mount| mount.options),
            device: block.as_ref().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            model: about("device/model"),
            // /sys counts sectors of 512 bytes, whatever the device has.
            bytes: about("size").and_then(|sectors| sectors.parse::<u64>().ok()).map(|sectors| sectors * 512),
            scheduler: queue("scheduler"),
            write_cache: queue("write_cache"),
            forced_unit_access: queue("fua"),
            rotational: queue("rotational"),
            logical_block_bytes: queue("logical_block_size"),
            physical_block_bytes: queue("physical_block_size"),
            queue_requests: queue("nr_requests"),
            io_poll: queue("io_poll"),
            directory: found,
        })
    }
}

/// Fields: id, parent, device, root, mount point, options, optional ones, "-", kind, source, options of the file system.
fn parse(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (device, at, mounted) = (left.next()?, left.nth(1)?, left.next()?);
    let mut right = right.split(' ');
    let (kind, own) = (right.next()?, right.nth(1)?);
    Some(Mount { device, at, options: format!("{mounted},{own}"), kind })
}

/// The last mount of the device above the path: later ones lie over earlier ones. Some file systems show another device
/// number to those who ask for files (btrfs): then the longest mount point above the path is the one.
fn mount_of<'a>(table: &'a str, device: &str, path: &Path) -> Option<Mount<'a>> {
    let above = || table.lines().filter_map(parse).filter(|mount| path.starts_with(mount.at));
    let deepest = |mounts: &mut dyn Iterator<Item = Mount<'a>>| mounts.max_by_key(|mount| mount.at.len());
    deepest(&mut above().filter(|mount| mount.device == device)).or_else(|| deepest(&mut above()))
}

/// The disk of a block device's number: of a partition, the whole disk, which has the queue.
fn block_device(number: &str) -> Option<PathBuf> {
    let device = Path::new("/sys/dev/block").join(number).canonicalize().ok()?;
    if device.join("partition").exists() { device.parent().map(Path::to_path_buf) } else { Some(device) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
                         30 22 0:25 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=64k\n\
                         31 22 254:16 /sub /data rw - xfs /dev/vdb1 rw,noquota";

    #[test]
    fn the_deepest_mount_of_the_device_is_the_one() {
        let mount = mount_of(TABLE, "254:16", Path::new("/data/logs")).unwrap();
        assert_eq!((mount.at, mount.kind, mount.options.as_str()), ("/data", "xfs", "rw,rw,noquota"));
        assert_eq!(mount_of(TABLE, "254:0", Path::new("/var/tmp")).unwrap().kind, "ext4");
        assert_eq!(mount_of(TABLE, "0:99", Path::new("/dev/shm/x")).unwrap().kind, "tmpfs", "an unknown number");
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(Disk::below(Path::new("/no/such/place")).is_err());
    }
}

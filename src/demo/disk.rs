//! Where the demo's logs lie, and on what: a real disk, or the demo would show nothing. Reads /proc and /sys.

use anyhow::{Context, bail};
use rustix::fs::{major, minor};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// File systems that lose everything with the power.
const VOLATILE: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];

/// The disk under a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Disk {
    /// The device, as the mount table names it.
    pub(super) device: String,
    /// The file system.
    pub(super) file_system: String,
    /// The directory.
    pub(super) directory: PathBuf,
    #[serde(skip)]
    number: (u32, u32),
}

impl Disk {
    /// The disk that holds `dir`.
    pub(super) fn of(dir: &Path) -> anyhow::Result<Disk> {
        let device = std::fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?.dev();
        let number = (major(device), minor(device));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
        let (file_system, device) = mounts.lines().rev().find_map(|line| mount(line, number)).unwrap_or_default();
        Ok(Disk { device, file_system, directory: dir.into(), number })
    }

    /// Whether nothing on it survives a power cut.
    pub(super) fn is_volatile(&self) -> bool {
        VOLATILE.contains(&self.file_system.as_str())
    }

    /// Cache flushes that the kernel has asked of the device since it was started, if it counts them.
    pub(super) fn flushes(&self) -> Option<u64> {
        let (major, minor) = self.number;
        let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        // Documentation/block/stat.rst: the sixteenth field counts flush requests (a partition has none of its own).
        stat.split_whitespace().nth(15)?.parse().ok()
    }
}

/// File system and device of a line of mountinfo (see proc(5)), if its device number is `number`.
fn mount(line: &str, number: (u32, u32)) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let (major, minor) = before.split(' ').nth(2)?.split_once(':')?;
    if (major.parse(), minor.parse()) != (Ok(number.0), Ok(number.1)) {
        return None;
    }
    let mut rest = after.split(' ');
    Some((rest.next()?.into(), rest.next()?.into()))
}

/// A new directory on a real disk: below TMPDIR, else /var/tmp, else beside the program.
pub(super) fn directory() -> anyhow::Result<(TempDir, Disk)> {
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_path_buf));
    let places = [std::env::var_os("TMPDIR").map(PathBuf::from), Some("/var/tmp".into()), beside];
    let mut refused = Vec::new();
    for place in places.into_iter().flatten() {
        match Disk::of(&place) {
            Ok(disk) if disk.is_volatile() => refused.push(format!("{} is a {}", place.display(), disk.file_system)),
            Ok(disk) => match tempfile::Builder::new().prefix("synod-demo-").tempdir_in(&place) {
                Ok(dir) => return Ok((dir, disk)),
                Err(error) => refused.push(format!("{}: {error}", place.display())),
            },
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    bail!("no directory on a real disk was found ({}). Set TMPDIR to one", refused.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_told_apart_by_device_number() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(line, (98, 0)), Some(("ext3".into(), "/dev/root".into())));
        assert_eq!(mount(line, (98, 1)), None);
        assert_eq!(mount("nonsense", (98, 0)), None);
    }

    #[test]
    fn proc_is_found_and_shm_is_volatile() {
        assert_eq!(Disk::of(Path::new("/proc")).unwrap().file_system, "proc");
        if Path::new("/dev/shm").is_dir() {
            assert!(Disk::of(Path::new("/dev/shm")).unwrap().is_volatile());
        }
    }
}

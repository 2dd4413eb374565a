//! The system calls by which a host tells what its files do not. Called through [`Calls`].

use super::ethtool;
use super::facts::{Calls, Clock, Coalescing, Refusal, RingSizes, Rings, Space};
use rustix::fs::{AtFlags, StatxFlags, major, minor};
use rustix::process::{Resource, getrlimit};
use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use synod_ring::IoError;

/// The bit of CAP_IPC_LOCK: who has it locks without a limit.
const CAP_IPC_LOCK: u32 = 14;
/// The same for real-time priorities.
const CAP_SYS_NICE: u32 = 23;
/// The highest priority of SCHED_FIFO.
const MAX_PRIORITY: u64 = 99;

/// This host's kernel.
#[derive(Debug)]
pub struct Kernel;

impl Calls for Kernel {
    fn io_uring(&self) -> Result<String, Refusal> {
        let refused = |error: IoError| match error {
            IoError::Unsupported { reason, mend } => Refusal::Refused { current: reason, mend },
            other => Refusal::Unknown(other.to_string()),
        };
        let features = synod_ring::probe().map_err(refused)?;
        let with = |has: bool, name: &str| format!("{} {name}", if has { "with" } else { "without" });
        let (array, ring) =
            (with(features.no_sqarray, "NO_SQARRAY"), with(features.registered_ring, "a registered ring"));
        Ok(format!("kernel {}: all that is needed, {array}, {ring}", features.kernel))
    }

    fn direct_io(&self, dir: &Path) -> Result<u32, Refusal> {
        let dir = existing(dir);
        let unknown = |what: &str, error: io::Error| Refusal::Unknown(format!("{what} in {}: {error}", dir.display()));
        let file = open_unnamed(&dir).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => Refusal::Refused {
                current: format!("{} refuses O_DIRECT", dir.display()),
                mend: "put the node's dir on a local ext4 or XFS file system".into(),
            },
            _ => unknown("cannot try a file", error),
        })?;
        let told = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        let told = told.map_err(|errno| unknown("statx", errno.into()))?;
        if told.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
            return Err(Refusal::Unknown("the file system takes O_DIRECT and does not tell its alignment".into()));
        }
        Ok(told.stx_dio_offset_align)
    }

    fn device(&self, dir: &Path) -> Result<(u32, u32), String> {
        let dir = existing(dir);
        let device = std::fs::metadata(&dir).map_err(|error| format!("{}: {error}", dir.display()))?.dev();
        Ok((major(device), minor(device)))
    }

    fn space(&self, dir: &Path) -> Result<Space, String> {
        let place = existing(dir);
        let told = rustix::fs::statvfs(&place).map_err(|error| format!("statvfs {}: {error}", place.display()))?;
        let held_bytes = held_bytes(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Space { free_bytes: told.f_bavail.saturating_mul(told.f_frsize), held_bytes })
    }

    fn memlock_bytes(&self) -> Result<Option<u64>, String> {
        Ok(if capable(CAP_IPC_LOCK)? { None } else { getrlimit(Resource::Memlock).current })
    }

    fn real_time_priority(&self) -> Result<u64, String> {
        let limit = || getrlimit(Resource::Rtprio).current.unwrap_or(MAX_PRIORITY);
        Ok(if capable(CAP_SYS_NICE)? { MAX_PRIORITY } else { limit() })
    }

    fn clock(&self) -> Result<Clock, String> {
        // SAFETY: all bytes zero is a valid timex; no mode is set, so that nothing is changed.
        let mut told: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: writes into a live local.
        let state = unsafe { libc::adjtimex(&raw mut told) };
        if state < 0 {
            return Err(format!("adjtimex: {}", io::Error::last_os_error()));
        }
        let synchronised = state != libc::TIME_ERROR && told.status & libc::STA_UNSYNC == 0;
        Ok(Clock { synchronised, max_error_us: u64::try_from(told.maxerror).unwrap_or(0) })
    }

    fn nic_of(&self, address: Ipv4Addr) -> Result<String, String> {
        let all = nix::ifaddrs::getifaddrs().map_err(|error| format!("getifaddrs: {error}"))?;
        let has = |of: &nix::ifaddrs::InterfaceAddress| {
            of.address.as_ref().and_then(|address| address.as_sockaddr_in()).is_some_and(|found| found.ip() == address)
        };
        // All of 127.0.0.0/8 is loopback's, whatever stands there.
        let loopback = || address.is_loopback().then(|| "lo".to_string());
        let found = all.into_iter().find(has).map(|of| of.interface_name).or_else(loopback);
        found.ok_or_else(|| format!("no network interface here has {address}: not the node's host?"))
    }

    fn rings(&self, nic: &str) -> Result<Rings, String> {
        ethtool::rings(nic)
    }

    fn set_rings(&self, nic: &str, rings: RingSizes) -> Result<(), String> {
        ethtool::set_rings(nic, rings)
    }

    fn coalescing(&self, nic: &str) -> Result<Coalescing, String> {
        ethtool::coalescing(nic)
    }

    fn set_coalescing(&self, nic: &str, coalescing: Coalescing) -> Result<(), String> {
        ethtool::set_coalescing(nic, coalescing)
    }
}

/// The directory, or the nearest above it that exists: `format` makes the rest.
fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

/// An empty file for direct I/O that has no name any more.
fn open_unnamed(dir: &Path) -> io::Result<std::fs::File> {
    let path = dir.join(format!(".synod-check-{}", std::process::id()));
    let opened = OpenOptions::new().read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path);
    match opened {
        Ok(file) => std::fs::remove_file(&path).map(|()| file),
        // Some file systems make the file and then refuse the flag.
        Err(error) => match std::fs::remove_file(&path) {
            Err(left) if left.kind() != io::ErrorKind::NotFound => Err(left),
            _ => Err(error),
        },
    }
}

/// What the files in the directories of a node's groups take.
fn held_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let groups = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        groups => groups?,
    };
    for group in groups {
        let group = group?;
        if !group.file_name().to_string_lossy().starts_with("group-") {
            continue;
        }
        for file in std::fs::read_dir(group.path())? {
            match file?.metadata() {
                Ok(about) => bytes += about.blocks() * 512,
                // A running node removes files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

/// Whether this process has a capability.
fn capable(capability: u32) -> Result<bool, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).ok_or("/proc/self/status has no CapEff")?;
    let all = u64::from_str_radix(line.trim(), 16).map_err(|error| format!("CapEff: {error}"))?;
    Ok(all >> capability & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_to_be_made_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let (here, there) = (dir.path(), dir.path().join("a/b"));
        assert_eq!(Kernel.device(&there), Kernel.device(here));
        assert_eq!(Kernel.direct_io(&there), Kernel.direct_io(here));
        assert_eq!(Kernel.space(&there).unwrap().held_bytes, 0);
        assert_eq!(std::fs::read_dir(here).unwrap().count(), 0, "the trial file is gone");
    }

    #[test]
    fn a_groups_files_count_as_held() {
        let dir = tempfile::tempdir_in(".").unwrap();
        std::fs::create_dir(dir.path().join("group-000")).unwrap();
        std::fs::write(dir.path().join("group-000/x.seg"), [7; 8_192]).unwrap();
        std::fs::write(dir.path().join("other"), [7; 8_192]).unwrap();
        assert_eq!(held_bytes(dir.path()).unwrap(), 8_192);
    }

    #[test]
    fn loopback_is_found() {
        assert_eq!(Kernel.nic_of(Ipv4Addr::new(127, 0, 0, 1)).as_deref(), Ok("lo"));
        assert!(Kernel.nic_of(Ipv4Addr::new(192, 0, 2, 1)).unwrap_err().contains("192.0.2.1"));
    }
}

//! Conditions of the disk under a node's directory: direct I/O, caches, mount, space. Called by `check`.

use super::facts::{Host, Refusal};
use super::{Condition, Finding, Severity, Target};
use crate::config::Machine;
use std::path::{Path, PathBuf};
use synod_ring::FILE_SLOTS;
use synod_wal::MAX_BLOCK_BYTES;

/// Devices below devices (device mapper, partitions) that are followed.
const MAX_LAYERS: usize = 8;
/// Snapshots of a key-value map that lie on the disk at once: the two that are kept, and one that is made.
const SNAPSHOTS: u64 = 3;
/// Where the log grows without a bound, less room than for so many segments is soon gone.
const ROOM_SEGMENTS: u64 = 64;

/// The directory of the block device at the bottom, in /sys, which has `queue`; or why there is none.
pub(super) fn block_device(host: &Host, target: &Target) -> Result<PathBuf, String> {
    let (major, minor) = host.calls.device(&target.dir()?)?;
    let mut device = host.resolve(format!("/sys/dev/block/{major}:{minor}"))?;
    for _ in 0..MAX_LAYERS {
        match host.names(device.join("slaves")).unwrap_or_default().as_slice() {
            [] => return with_queue(host, &device),
            [one] => device = host.resolve(device.join("slaves").join(one))?,
            several => return Err(format!("{major}:{minor} lies on {} devices", several.len())),
        }
    }
    Err(format!("{} lies on more than {MAX_LAYERS} layers of devices", device.display()))
}

/// A partition has its queue in the disk above it.
fn with_queue(host: &Host, device: &Path) -> Result<PathBuf, String> {
    let place = device.ancestors().take(2).find(|place| host.names(place.join("queue")).is_ok());
    place.map(Path::to_path_buf).ok_or_else(|| format!("{} has no queue", device.display()))
}

pub(super) fn direct_io(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("direct_io", format!("O_DIRECT in blocks of at most {MAX_BLOCK_BYTES} bytes"));
    let asked = target.dir().map_err(Refusal::Unknown).and_then(|dir| host.calls.direct_io(&dir));
    let mend = "put the node's dir on a local ext4 or XFS file system";
    match asked {
        Err(Refusal::Unknown(reason)) => condition.unknown(reason),
        Err(Refusal::Refused { current, mend }) => condition.unmet(Severity::Recommended, current, mend),
        Ok(0) => condition.unmet(Severity::Recommended, "the file system has none", mend),
        Ok(bytes) if bytes > MAX_BLOCK_BYTES => {
            condition.unmet(Severity::Required, format!("blocks of {bytes} bytes"), mend)
        }
        Ok(bytes) => condition.ok(format!("blocks of {bytes} bytes")),
    }
}

/// A drive that reports no volatile cache has none, or has power-loss protection for it. That is a hint of the drive, not a proof.
pub(super) fn write_cache(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("write_cache", "no cache that a power cut empties (power-loss protection)");
    let told = block_device(host, target).and_then(|device| {
        Ok((host.read(device.join("queue/write_cache"))?, host.read(device.join("queue/fua"))?, device))
    });
    let (cache, fua, device) = match told {
        Ok(told) => told,
        Err(reason) => return condition.unknown(reason),
    };
    if cache == "write through" {
        return condition.ok("write through: the drive reports none");
    }
    let model = host.read(device.join("device/model")).unwrap_or_else(|_| "no model told".into());
    // With FUA each write goes past the cache; without it each sync flushes the whole cache, of all who write there.
    let (severity, fua) = if fua == "1" { (Severity::Note, "FUA") } else { (Severity::Recommended, "no FUA") };
    let mend = "look the drive up: with power-loss protection (capacitors) a durable write takes tens of microseconds, without it \
                hundreds or more";
    condition.unmet(severity, format!("{cache}, {fua} ({model})"), mend)
}

/// A line of /proc/self/mountinfo.
struct Mount {
    point: String,
    options: Vec<String>,
    kind: String,
}

/// The mount with this device number that is deepest above the directory.
fn mount(host: &Host, target: &Target) -> Result<Mount, String> {
    let dir = target.dir()?;
    let (major, minor) = host.calls.device(&dir)?;
    let text = host.read("/proc/self/mountinfo")?;
    let device = format!("{major}:{minor}");
    let of_line = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let front: Vec<&str> = front.split(' ').collect();
        let back: Vec<&str> = back.split(' ').collect();
        let above = *front.get(2)? == device && dir.starts_with(front.get(4)?);
        let options = front.get(5)?.split(',').chain(back.get(2)?.split(',')).map(String::from).collect();
        above.then(|| Mount { point: front[4].into(), options, kind: back[0].into() })
    };
    let found = text.lines().filter_map(of_line).max_by_key(|mount| mount.point.len());
    found.ok_or_else(|| format!("/proc/self/mountinfo has no mount of {device} above {}", dir.display()))
}

pub(super) fn mount_options(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("mount", "local ext4 or XFS; barriers; no time of access");
    let mount = match mount(host, target) {
        Ok(mount) => mount,
        Err(reason) => return condition.unknown(reason),
    };
    let has = |option: &str| mount.options.iter().any(|has| has == option);
    let current = format!("{} at {}: {}", mount.kind, mount.point, mount.options.join(","));
    if has("nobarrier") || has("barrier=0") || has("data=writeback") && has("journal_async_commit") {
        let mend = "mount with barriers: without them an acknowledged entry may be lost with the power";
        return condition.unmet(Severity::Required, current, mend);
    }
    if has("ro") {
        return condition.unmet(Severity::Required, current, "mount it for writing");
    }
    let mend = "an ext4 or XFS of its own for the node's dir, mounted with noatime";
    let local = ["ext4", "xfs"].contains(&mount.kind.as_str());
    condition.recommend_unless(local && ["noatime", "relatime"].iter().any(|option| has(option)), current, mend)
}

/// What the node's groups need on the disk.
pub(super) fn needed_bytes(target: &Target) -> u64 {
    let config = &target.config;
    let log = config.retention.max_bytes.max(u64::from(FILE_SLOTS) * config.wal.segment_bytes);
    let maps = config.groups.iter().filter(|group| group.machine == Machine::Kv).count() as u64;
    config.groups.len() as u64 * log + maps * SNAPSHOTS * crate::machine::kv::MAX_STATE_BYTES as u64
}

pub(super) fn free_space(host: &Host, target: &Target) -> Finding {
    let need = needed_bytes(target);
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let condition = Condition::new("free_space", format!("{} free or held by the log", mib(need)));
    let space = match target.dir().and_then(|dir| host.calls.space(&dir)) {
        Ok(space) => space,
        Err(reason) => return condition.unknown(reason),
    };
    let current = format!("{} free, {} held", mib(space.free_bytes), mib(space.held_bytes));
    if space.free_bytes.saturating_add(space.held_bytes) < need {
        let mend = "make room, or lower retention.max_bytes and wal.segment_bytes";
        return condition.unmet(Severity::Required, current, mend);
    }
    let (retention, groups) = (&target.config.retention, target.config.groups.len() as u64);
    let room = ROOM_SEGMENTS * groups * target.config.wal.segment_bytes;
    let soon_full = retention.max_bytes == 0 && space.free_bytes < room;
    let mend = "set retention.max_bytes: the log grows without a bound, and a full disk stops the node";
    condition.recommend_unless(!soon_full, current, mend)
}

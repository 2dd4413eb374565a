//! Conditions of the system as a whole: io_uring, limits, memory, clocks. Called by `check`.

use super::facts::{Host, Refusal};
use super::{Condition, Finding, Severity, Target};
use crate::config::KernelIo;
use synod_ring::LOG_THREAD_PRIORITY;

/// Clock sources that are read without a system call.
const FAST_CLOCKS: [&str; 2] = ["tsc", "arch_sys_counter"];
/// A clock that may be off by more than this makes timestamps that are of little use.
const CLOCK_ERROR_MAX_US: u64 = 100_000;
/// What is in memory stays there where `vm.swappiness` is at most this.
pub(super) const SWAPPINESS_MAX: u64 = 1;

pub(super) fn io_uring(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("io_uring", "set-up flags, features and operations of the reactor (Linux 6.1)");
    match host.calls.io_uring() {
        Ok(current) => condition.ok(current),
        Err(Refusal::Refused { current, mend }) => match target.config.cpu.io {
            KernelIo::Uring => condition.unmet(
                Severity::Required,
                format!("{current}, and cpu.io = \"uring\" insists on it"),
                format!("{mend}; or cpu.io = \"auto\", which does without"),
            ),
            KernelIo::Auto => condition.unmet(Severity::Recommended, current, mend),
            KernelIo::Syscall => condition.ok(format!("{current}; cpu.io = \"syscall\" does without it")),
        },
        Err(Refusal::Unknown(reason)) => condition.unknown(reason),
    }
}

/// What a node locks: the log's arenas, which are registered with their rings.
pub(super) fn locked_bytes(target: &Target) -> u64 {
    target.config.groups.len() as u64 * target.config.wal.arena_bytes as u64
}

pub(super) fn memlock(host: &Host, target: &Target) -> Finding {
    let need = locked_bytes(target);
    let condition = Condition::new("memlock", format!("{} KiB (groups x wal.arena_bytes)", need >> 10));
    match host.calls.memlock_bytes() {
        Err(reason) => condition.unknown(reason),
        Ok(None) => condition.ok("no limit for this user"),
        Ok(Some(limit)) if limit >= need => condition.ok(format!("{} KiB", limit >> 10)),
        Ok(Some(limit)) => {
            let mend = "LimitMEMLOCK=infinity in the systemd unit; `ulimit -l` for logins";
            condition.unmet(Severity::Required, format!("{} KiB for this user", limit >> 10), mend)
        }
    }
}

pub(super) fn real_time(host: &Host, _target: &Target) -> Finding {
    let need = u64::from(LOG_THREAD_PRIORITY.unsigned_abs());
    let condition = Condition::new("real_time", format!("priority {need} for the log's writer (wal.writer)"));
    match host.calls.real_time_priority() {
        Err(reason) => condition.unknown(reason),
        Ok(most) => {
            let mend = "LimitRTPRIO=99 or CAP_SYS_NICE in the systemd unit; `ulimit -r` for logins";
            condition.recommend_unless(most >= need, format!("{most} at most"), mend)
        }
    }
}

/// The word in brackets: "always [madvise] never".
pub(super) fn chosen(choices: &str) -> Option<&str> {
    Some(choices.split_once('[')?.1.split_once(']')?.0)
}

pub(super) fn huge_pages(host: &Host, _target: &Target) -> Finding {
    let condition = Condition::new("huge_pages", "transparent huge pages for those who ask (madvise), or never");
    match host.read("/sys/kernel/mm/transparent_hugepage/enabled") {
        Err(reason) => condition.unknown(reason),
        Ok(text) => match chosen(&text) {
            None => condition.unknown(format!("transparent_hugepage/enabled says {text:?}")),
            Some(now) => condition.recommend_unless(
                now != "always",
                now,
                "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
            ),
        },
    }
}

pub(super) fn swap(host: &Host, _target: &Target) -> Finding {
    let condition = Condition::new("swap", format!("none, or vm.swappiness at most {SWAPPINESS_MAX}"));
    let devices = match host.read("/proc/swaps") {
        Ok(text) => {
            text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(String::from).collect::<Vec<_>>()
        }
        Err(reason) => return condition.unknown(reason),
    };
    if devices.is_empty() {
        return condition.ok("none");
    }
    let swappiness = host.read("/proc/sys/vm/swappiness");
    let number = swappiness.and_then(|text| text.parse::<u64>().map_err(|_| format!("vm.swappiness says {text:?}")));
    match number {
        Err(reason) => condition.unknown(reason),
        Ok(number) => {
            let current = format!("{}, vm.swappiness {number}", devices.join(", "));
            condition.recommend_unless(
                number <= SWAPPINESS_MAX,
                current,
                "`swapoff -a`, or `sysctl -w vm.swappiness=1`",
            )
        }
    }
}

pub(super) fn clock_source(host: &Host, _target: &Target) -> Finding {
    let condition = Condition::new("clock_source", "one that is read without a system call (tsc)");
    match host.read("/sys/devices/system/clocksource/clocksource0/current_clocksource") {
        Err(reason) => condition.unknown(reason),
        Ok(source) => {
            let fast = FAST_CLOCKS.contains(&source.as_str());
            let mend = "boot with clocksource=tsc tsc=reliable, if the hardware's TSC is invariant; in a VM, see the hypervisor";
            condition.recommend_unless(fast, source, mend)
        }
    }
}

pub(super) fn clock_synchronisation(host: &Host, _target: &Target) -> Finding {
    let condition =
        Condition::new("clock_synchronised", format!("by NTP or PTP, to at most {} ms", CLOCK_ERROR_MAX_US / 1_000));
    match host.calls.clock() {
        Err(reason) => condition.unknown(reason),
        Ok(clock) => {
            let good = clock.synchronised && clock.max_error_us <= CLOCK_ERROR_MAX_US;
            let state = if clock.synchronised { "synchronised" } else { "not synchronised" };
            let current = format!("{state}, at most {} ms off", clock.max_error_us / 1_000);
            condition.recommend_unless(good, current, "run chrony (or ptp4l with phc2sys): `apt-get install chrony`")
        }
    }
}

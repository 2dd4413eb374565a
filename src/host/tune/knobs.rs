//! The knobs: which values the conditions that do not hold ask for. Each reads the host and changes nothing. Called by `tune`.

use super::super::Target;
use super::super::cores::{busy_cores, deep_states, disturbing, interrupt_numbers};
use super::super::cpus::Cpus;
use super::super::facts::Host;
use super::super::net::{COALESCE_MAX_US, nic, queues, unsteered};
use super::super::system::{SWAPPINESS_MAX, locked_bytes};
use super::place::{Kind, Place};
use super::{Change, Knob};
use std::collections::BTreeMap;
use synod_ring::LOG_THREAD_PRIORITY;

type Changes = Result<Vec<Change>, String>;

/// All of them. scripts/tune-host.sh has the same.
pub const KNOBS: &[Knob] = &[
    Knob { name: "governor", conditions: &["governor"], plan: governor },
    Knob { name: "idle_states", conditions: &["idle_states"], plan: idle_states },
    Knob { name: "huge_pages", conditions: &["huge_pages"], plan: huge_pages },
    Knob { name: "interrupts", conditions: &["interrupts"], plan: interrupts },
    Knob { name: "swap", conditions: &["swap"], plan: swap },
    Knob { name: "socket_buffers", conditions: &["socket_buffers"], plan: socket_buffers },
    Knob { name: "nic_rings", conditions: &["nic_rings"], plan: nic_rings },
    Knob { name: "nic_coalescing", conditions: &["nic_coalescing"], plan: nic_coalescing },
    Knob { name: "receive_steering", conditions: &["receive_steering"], plan: receive_steering },
    Knob { name: "transmit_steering", conditions: &["transmit_steering"], plan: transmit_steering },
    Knob { name: "limits", conditions: &["memlock", "real_time"], plan: limits },
];

/// Adds a change where the place has another value.
fn want(host: &Host, changes: &mut Vec<Change>, kind: Kind, at: impl Into<String>, want: &str) -> Result<(), String> {
    let place = Place::new(kind, at);
    let (now, want) = (place.get(host)?, Some(want.to_string()));
    if !place.same(&now, &want) {
        changes.push(Change { place, now, want });
    }
    Ok(())
}

/// The same for a single one.
fn one(host: &Host, kind: Kind, at: &str, value: &str) -> Changes {
    let mut changes = Vec::new();
    want(host, &mut changes, kind, at, value)?;
    Ok(changes)
}

fn governor(host: &Host, target: &Target) -> Changes {
    let mut changes = Vec::new();
    for core in busy_cores(host, target)?.0 {
        let file = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        want(host, &mut changes, Kind::Value, file, "performance")?;
    }
    Ok(changes)
}

/// Through /dev/cpu_dma_latency the same holds only for as long as a process keeps it open.
fn idle_states(host: &Host, target: &Target) -> Changes {
    let mut changes = Vec::new();
    for core in busy_cores(host, target)?.0 {
        for (file, _) in deep_states(host, core)? {
            want(host, &mut changes, Kind::Value, file, "1")?;
        }
    }
    Ok(changes)
}

fn huge_pages(host: &Host, _target: &Target) -> Changes {
    one(host, Kind::Choice, "/sys/kernel/mm/transparent_hugepage/enabled", "madvise")
}

/// The kernel refuses this for interrupts that it manages itself (queues of NVMe drives): isolcpus=managed_irq moves those.
fn interrupts(host: &Host, target: &Target) -> Changes {
    let (cores, mut changes) = (target.pipelines(), Vec::new());
    for number in disturbing(host, &cores, interrupt_numbers(host)?)? {
        let file = format!("/proc/irq/{number}/smp_affinity_list");
        let mut rest = host.read(&file)?.parse::<Cpus>()?.without(&cores);
        if rest.is_empty() {
            rest = host.online()?.without(&cores);
        }
        if rest.is_empty() {
            return Err(format!("no core is left for interrupts beside {cores}"));
        }
        want(host, &mut changes, Kind::List, file, &rest.to_string())?;
    }
    // Where those go that devices ask for later.
    let default = "/proc/irq/default_smp_affinity";
    let rest = Cpus::from_mask(&host.read(default)?)?.without(&cores);
    if !rest.is_empty() {
        want(host, &mut changes, Kind::Mask, default, &rest.mask())?;
    }
    Ok(changes)
}

fn swap(host: &Host, _target: &Target) -> Changes {
    one(host, Kind::Value, "/proc/sys/vm/swappiness", &SWAPPINESS_MAX.to_string())
}

fn socket_buffers(host: &Host, target: &Target) -> Changes {
    let (need, mut changes) = (target.config.net.socket_buffer_bytes, Vec::new());
    for file in ["/proc/sys/net/core/rmem_max", "/proc/sys/net/core/wmem_max"] {
        if host.read(file)?.parse::<usize>().is_ok_and(|now| now < need) {
            want(host, &mut changes, Kind::Value, file, &need.to_string())?;
        }
    }
    Ok(changes)
}

fn nic_rings(host: &Host, target: &Target) -> Changes {
    let nic = nic(host, target)?;
    let (most, mut changes) = (host.calls.rings(&nic)?.most, Vec::new());
    want(host, &mut changes, Kind::RingRx, nic.clone(), &most.rx.to_string())?;
    want(host, &mut changes, Kind::RingTx, nic, &most.tx.to_string())?;
    Ok(changes)
}

fn nic_coalescing(host: &Host, target: &Target) -> Changes {
    let (nic, mut changes) = (nic(host, target)?, Vec::new());
    want(host, &mut changes, Kind::AdaptiveRx, nic.clone(), "off")?;
    if host.calls.coalescing(&nic)?.rx_us > COALESCE_MAX_US {
        want(host, &mut changes, Kind::RxUsecs, nic, "0")?;
    }
    Ok(changes)
}

fn receive_steering(host: &Host, target: &Target) -> Changes {
    let mut changes = Vec::new();
    for file in queues(host, &nic(host, target)?, "rx-", "rps_cpus")? {
        let rest = Cpus::from_mask(&host.read(&file)?)?.without(&target.pipelines());
        want(host, &mut changes, Kind::Mask, file, &rest.mask())?;
    }
    Ok(changes)
}

/// Cores without a queue are given to the queues in turn.
fn transmit_steering(host: &Host, target: &Target) -> Changes {
    let nic = nic(host, target)?;
    let (files, mut changes) = (queues(host, &nic, "tx-", "xps_cpus")?, Vec::new());
    let mut steered: BTreeMap<usize, Cpus> = BTreeMap::new();
    for (at, core) in unsteered(host, target, &nic)?.1.0.into_iter().enumerate() {
        steered.entry(at % files.len()).or_default().0.insert(core);
    }
    for (at, mut cpus) in steered {
        cpus.0.extend(Cpus::from_mask(&host.read(&files[at])?)?.0);
        want(host, &mut changes, Kind::Mask, files[at].clone(), &cpus.mask())?;
    }
    Ok(changes)
}

/// For logins; a systemd unit has LimitMEMLOCK and LimitRTPRIO of its own.
fn limits(host: &Host, target: &Target) -> Changes {
    let (dir, file) = ("/etc/security/limits.d", "/etc/security/limits.d/90-synod.conf");
    if !host.place(dir).is_dir() {
        return Err(format!("{dir} is not there: set the limits where the node is started from"));
    }
    let (locked_kib, priority) = (locked_bytes(target) >> 10, LOG_THREAD_PRIORITY.unsigned_abs());
    let text = format!(
        "# For synod: what a node locks in memory, and the priority of its log's writer. Root needs neither.\n\
         * - memlock {locked_kib}\n* - rtprio {priority}\n"
    );
    one(host, Kind::File, file, &text)
}

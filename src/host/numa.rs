//! Conditions of distance: a pipeline's core, its disk and its network card belong to one NUMA node. Called by `check`.

use super::facts::Host;
use super::{Condition, Finding, Target, disk, net};
use std::collections::BTreeSet;
use std::path::Path;

const NODES: &str = "/sys/devices/system/node";

/// The NUMA nodes.
fn nodes(host: &Host) -> Result<Vec<usize>, String> {
    let names = host.names(NODES)?;
    Ok(names.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect())
}

/// The node of a CPU.
fn of_core(host: &Host, core: usize) -> Result<usize, String> {
    for node in nodes(host)? {
        let cpus: super::cpus::Cpus = host.read(format!("{NODES}/node{node}/cpulist"))?.parse()?;
        if cpus.0.contains(&core) {
            return Ok(node);
        }
    }
    Err(format!("no NUMA node has core {core}"))
}

/// The node of a device: the nearest above it that says one.
fn of_device(host: &Host, device: &Path) -> Result<usize, String> {
    for place in device.ancestors() {
        if let Some(text) = host.read_if_there(place.join("numa_node"))? {
            // -1: the firmware does not say.
            return text
                .parse()
                .map_err(|_| format!("{} is on NUMA node {text}: the firmware does not say", device.display()));
        }
    }
    Err(format!("{} has no numa_node", device.display()))
}

fn near(condition: Condition, host: &Host, target: &Target, what: &str, device: Result<usize, String>) -> Finding {
    let distances = device.and_then(|device| {
        let text = host.read(format!("{NODES}/node{device}/distance"))?;
        let row: Vec<usize> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let (all, mut far) = (nodes(host)?, BTreeSet::new());
        let distance = |node: usize| all.iter().position(|at| *at == node).and_then(|at| row.get(at)).copied();
        let least = distance(device).ok_or_else(|| format!("node{device}/distance says {text:?}"))?;
        for core in target.pipelines().0 {
            let node = of_core(host, core)?;
            let away = distance(node).ok_or_else(|| format!("node{device}/distance says {text:?}"))?;
            if away > least {
                far.insert(format!("core {core} on node {node}, {what} on node {device}, distance {away}"));
            }
        }
        Ok((device, far))
    });
    match distances {
        Err(reason) => condition.unknown(reason),
        Ok((device, far)) => {
            let current = if far.is_empty() {
                format!("node {device}")
            } else {
                far.iter().cloned().collect::<Vec<_>>().join("; ")
            };
            condition.recommend_unless(
                far.is_empty(),
                current,
                format!("name cores of node {device} in [[group]] core"),
            )
        }
    }
}

/// With one node nothing is far.
fn is_one(host: &Host) -> bool {
    nodes(host).is_ok_and(|nodes| nodes.len() == 1)
}

pub(super) fn disk(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("numa_disk", "the disk is on the NUMA node of the pipelines' cores");
    if is_one(host) {
        return condition.ok("one node");
    }
    let device = disk::block_device(host, target).and_then(|device| of_device(host, &device));
    near(condition, host, target, "disk", device)
}

pub(super) fn nic(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("numa_nic", "the network card is on the NUMA node of the pipelines' cores");
    if is_one(host) {
        return condition.ok("one node");
    }
    let device = match net::nic(host, target) {
        Ok(nic) if nic == "lo" => return condition.ok("loopback"),
        Ok(nic) => host.resolve(format!("/sys/class/net/{nic}/device")).and_then(|device| of_device(host, &device)),
        Err(reason) => Err(reason),
    };
    near(condition, host, target, "card", device)
}

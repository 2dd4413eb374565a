//! Conditions of the network interface that has the node's address. Called by `check`.

use super::cpus::Cpus;
use super::facts::Host;
use super::{Condition, Finding, Severity, Target};
use synod_wire::frame::HEADER_BYTES;

/// Headers of IPv4 and UDP.
const IP_UDP_BYTES: usize = 20 + 8;
const LOOPBACK: &str = "loopback: nothing to set";
/// An interrupt that is held back for longer than this shows in a commit.
pub(super) const COALESCE_MAX_US: u32 = 10;

/// The node's interface: the one that was named, else the one with the node's address.
pub(super) fn nic(host: &Host, target: &Target) -> Result<String, String> {
    match &target.nic {
        Some(nic) => Ok(nic.clone()),
        None => host.calls.nic_of(target.address()?),
    }
}

/// The node's interface, or the finding that settles the condition without it.
fn card(condition: Condition, host: &Host, target: &Target) -> Result<(Condition, String), Finding> {
    match nic(host, target) {
        Ok(nic) if nic == "lo" => Err(condition.ok(LOOPBACK)),
        Ok(nic) => Ok((condition, nic)),
        Err(reason) => Err(condition.unknown(reason)),
    }
}

pub(super) fn rings(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("nic_rings", "as long as the card has them");
    let (condition, nic) = match card(condition, host, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    match host.calls.rings(&nic) {
        Err(reason) => condition.unknown(reason),
        Ok(rings) => {
            let current = format!(
                "{nic}: receive {} of {}, send {} of {}",
                rings.now.rx, rings.most.rx, rings.now.tx, rings.most.tx
            );
            condition.recommend_unless(rings.now == rings.most, current, "`ethtool -G NIC rx N tx N`")
        }
    }
}

pub(super) fn coalescing(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("nic_coalescing", format!("not adaptive, at most {COALESCE_MAX_US} µs on receive"));
    let (condition, nic) = match card(condition, host, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    match host.calls.coalescing(&nic) {
        Err(reason) => condition.unknown(reason),
        Ok(now) => {
            let adaptive = if now.adaptive_rx || now.adaptive_tx { "adaptive" } else { "not adaptive" };
            let current = format!("{nic}: {adaptive}, receive {} µs, send {} µs", now.rx_us, now.tx_us);
            let good = !now.adaptive_rx && now.rx_us <= COALESCE_MAX_US;
            condition.recommend_unless(good, current, "`ethtool -C NIC adaptive-rx off rx-usecs 0`")
        }
    }
}

/// The files of an interface's queues: `rx-N/rps_cpus` or `tx-N/xps_cpus`.
pub(super) fn queues(host: &Host, nic: &str, kind: &str, file: &str) -> Result<Vec<String>, String> {
    let all = format!("/sys/class/net/{nic}/queues");
    let names = host.names(&all)?.into_iter().filter(|name| name.starts_with(kind));
    Ok(names.map(|name| format!("{all}/{name}/{file}")).collect())
}

pub(super) fn receive_steering(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("receive_steering", "RPS hands no packet to a pipeline's core");
    let (condition, nic) = match card(condition, host, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    let cores = target.pipelines();
    let steered = queues(host, &nic, "rx-", "rps_cpus").and_then(|files| {
        files.iter().try_fold(Cpus::default(), |mut all, file| {
            all.0.extend(Cpus::from_mask(&host.read(file)?)?.shared_with(&cores).0);
            Ok(all)
        })
    });
    match steered {
        Err(reason) => condition.unknown(reason),
        Ok(steered) if steered.is_empty() => condition.ok(format!("{nic}: none")),
        Ok(steered) => {
            let mend = "take the cores out of /sys/class/net/NIC/queues/rx-*/rps_cpus";
            condition.unmet(Severity::Recommended, format!("{nic}: to {steered}"), mend)
        }
    }
}

/// The pipelines' cores that no send queue has for itself or with others, by XPS.
pub(super) fn unsteered(host: &Host, target: &Target, nic: &str) -> Result<(usize, Cpus), String> {
    let files = queues(host, nic, "tx-", "xps_cpus")?;
    if files.len() < 2 {
        return Ok((files.len(), Cpus::default()));
    }
    let mut steered = Cpus::default();
    for file in &files {
        steered.0.extend(Cpus::from_mask(&host.read(file)?)?.0);
    }
    Ok((files.len(), target.pipelines().without(&steered)))
}

pub(super) fn transmit_steering(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("transmit_steering", "XPS gives each pipeline's core a send queue");
    let (condition, nic) = match card(condition, host, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    match unsteered(host, target, &nic) {
        Err(reason) => condition.unknown(reason),
        Ok((1, _)) => condition.ok(format!("{nic}: one queue")),
        Ok((queues, without)) => {
            let current = match without.is_empty() {
                true => format!("{nic}: {queues} queues, each core has one"),
                false => format!("{nic}: {queues} queues, none for {without}"),
            };
            condition.recommend_unless(
                without.is_empty(),
                current,
                "add the cores to /sys/class/net/NIC/queues/tx-*/xps_cpus",
            )
        }
    }
}

pub(super) fn mtu(host: &Host, target: &Target) -> Finding {
    let net = &target.config.net;
    let need = net.max_batch_bytes + HEADER_BYTES + IP_UDP_BYTES;
    let condition = Condition::new("mtu", format!("{need} bytes (net.max_batch_bytes and headers)"));
    let found = nic(host, target).and_then(|nic| {
        let text = host.read(format!("/sys/class/net/{nic}/mtu"))?;
        text.parse::<usize>().map(|mtu| (nic, mtu)).map_err(|_| format!("mtu says {text:?}"))
    });
    match found {
        Err(reason) => condition.unknown(reason),
        Ok((nic, mtu)) if mtu >= need => condition.ok(format!("{nic}: {mtu}")),
        Ok((nic, mtu)) => {
            let fits = mtu.saturating_sub(HEADER_BYTES + IP_UDP_BYTES) / 64 * 64;
            let mend =
                format!("`ip link set {nic} mtu {need}` on every host and switch, or net.max_batch_bytes = {fits}");
            // Without the bit, datagrams are cut up: slow, and each piece can be lost.
            let severity = if net.dont_fragment { Severity::Required } else { Severity::Recommended };
            condition.unmet(severity, format!("{nic}: {mtu}"), mend)
        }
    }
}

pub(super) fn socket_buffers(host: &Host, target: &Target) -> Finding {
    let need = target.config.net.socket_buffer_bytes;
    let condition = Condition::new("socket_buffers", format!("net.core.rmem_max and wmem_max at least {need}"));
    let mut currents = Vec::new();
    let mut good = true;
    for name in ["rmem_max", "wmem_max"] {
        let number = host.read(format!("/proc/sys/net/core/{name}"));
        let number = number.and_then(|text| text.parse::<usize>().map_err(|_| format!("{name} says {text:?}")));
        match number {
            Err(reason) => return condition.unknown(reason),
            Ok(number) => {
                good &= number >= need;
                currents.push(format!("{name} {number}"));
            }
        }
    }
    condition.recommend_unless(good, currents.join(", "), "`sysctl -w net.core.rmem_max=N net.core.wmem_max=N`")
}

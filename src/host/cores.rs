//! Conditions of the pipelines' CPUs: that they are there, left alone by scheduler, ticks, callbacks and interrupts, and awake.
//! Reads files only. Called by `check`.

use super::cpus::Cpus;
use super::facts::Host;
use super::{Condition, Finding, Severity, Target};

/// An idle state from which a core takes longer than this to wake is too deep for a pipeline: a hop on the network takes ten.
pub(super) const WAKE_MAX_US: u64 = 10;

const NOT_PINNED: &str = "no pipeline is pinned to a core";

/// The pipelines' CPUs, or a finding that none is needed.
fn pipelines(condition: Condition, target: &Target) -> Result<(Condition, Cpus), Finding> {
    let cores = target.pipelines();
    if cores.is_empty() { Err(condition.ok(NOT_PINNED)) } else { Ok((condition, cores)) }
}

pub(super) fn present(host: &Host, target: &Target) -> Finding {
    let named = target.pinned();
    let condition = Condition::new("cores_present", "each core of the configuration is online");
    let online = match host.online() {
        Ok(online) => online,
        Err(reason) => return condition.unknown(reason),
    };
    let absent = named.without(&online);
    if absent.is_empty() {
        let named = if named.is_empty() { NOT_PINNED.into() } else { format!("{named} of {online}") };
        return condition.ok(named);
    }
    let mend = format!("name cores of {online} in [[group]] core and wal.writer_core, or write \"none\"");
    condition.unmet(Severity::Required, format!("{absent} not online"), mend)
}

/// CPUs that a boot parameter names; its flags (`isolcpus=managed_irq,domain,2-3`) are passed over.
fn booted_with(host: &Host, parameter: &str) -> Result<Cpus, String> {
    let line = host.read("/proc/cmdline")?;
    let value = line.split_whitespace().filter_map(|word| word.strip_prefix(parameter)?.strip_prefix('=')).next_back();
    let Some(value) = value else { return Ok(Cpus::default()) };
    if value == "all" {
        return host.online();
    }
    let numbers: Vec<&str> =
        value.split(',').filter(|part| part.starts_with(|first: char| first.is_ascii_digit())).collect();
    numbers.join(",").parse()
}

/// CPUs that the kernel says, or that it was booted with where it does not say.
fn set_apart(host: &Host, file: &str, parameter: &str) -> Result<Cpus, String> {
    match host.read_if_there(file)? {
        // A kernel built without it says "(null)" or nothing.
        Some(list) => Ok(list.parse().unwrap_or_default()),
        None => booted_with(host, parameter),
    }
}

fn apart(condition: Condition, target: &Target, found: Result<Cpus, String>, parameter: &str) -> Finding {
    let (condition, cores) = match pipelines(condition, target) {
        Ok(both) => both,
        Err(finding) => {
            return match found {
                Ok(_) => finding,
                Err(reason) => Condition::new(finding.condition, finding.required).unknown(reason),
            };
        }
    };
    let found = match found {
        Ok(found) => found,
        Err(reason) => return condition.unknown(reason),
    };
    let lacks = cores.without(&found);
    let mend = format!("add {parameter} to the kernel's command line (GRUB_CMDLINE_LINUX), and boot");
    condition.recommend_unless(
        lacks.is_empty(),
        if lacks.is_empty() { cores.to_string() } else { format!("not {lacks}") },
        mend,
    )
}

pub(super) fn isolated(host: &Host, target: &Target) -> Finding {
    let found = set_apart(host, "/sys/devices/system/cpu/isolated", "isolcpus");
    let condition = Condition::new("isolation", "isolcpus has the pipelines' cores");
    apart(condition, target, found, &format!("isolcpus=managed_irq,domain,{}", target.pipelines()))
}

pub(super) fn tickless(host: &Host, target: &Target) -> Finding {
    let found = set_apart(host, "/sys/devices/system/cpu/nohz_full", "nohz_full");
    let condition = Condition::new("tickless", "nohz_full has the pipelines' cores");
    apart(condition, target, found, &format!("nohz_full={}", target.pipelines()))
}

pub(super) fn rcu(host: &Host, target: &Target) -> Finding {
    // nohz_full takes the callbacks off the same cores.
    let found = booted_with(host, "rcu_nocbs").and_then(|mut named| {
        named.0.extend(booted_with(host, "nohz_full")?.0);
        Ok(named)
    });
    let condition = Condition::new("rcu_callbacks", "rcu_nocbs has the pipelines' cores");
    apart(condition, target, found, &format!("rcu_nocbs={}", target.pipelines()))
}

/// The CPUs that an interrupt goes to now.
fn interrupt_cpus(host: &Host, number: &str) -> Result<Cpus, String> {
    let effective = host.read_if_there(format!("/proc/irq/{number}/effective_affinity_list"))?;
    match effective.filter(|list| !list.is_empty()) {
        Some(list) => list.parse(),
        None => host.read(format!("/proc/irq/{number}/smp_affinity_list"))?.parse(),
    }
}

/// The interrupts that /proc/irq has.
pub(super) fn interrupt_numbers(host: &Host) -> Result<Vec<String>, String> {
    let names = host.names("/proc/irq")?;
    Ok(names.into_iter().filter(|name| name.parse::<u32>().is_ok()).collect())
}

/// Those of them that go to these cores.
pub(super) fn disturbing(host: &Host, cores: &Cpus, numbers: Vec<String>) -> Result<Vec<String>, String> {
    let mut disturbing = Vec::new();
    for number in numbers {
        if !interrupt_cpus(host, &number)?.shared_with(cores).is_empty() {
            disturbing.push(number);
        }
    }
    Ok(disturbing)
}

pub(super) fn interrupts(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("interrupts", "no device's interrupt goes to a pipeline's core");
    let numbers = match interrupt_numbers(host) {
        Ok(numbers) => numbers,
        Err(reason) => return condition.unknown(reason),
    };
    let (condition, cores) = match pipelines(condition, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    let disturbing = match disturbing(host, &cores, numbers) {
        Ok(disturbing) => disturbing,
        Err(reason) => return condition.unknown(reason),
    };
    let current = match disturbing.len() {
        0 => format!("none on {cores}"),
        several => format!("{several} on {cores}: {}", disturbing.join(",")),
    };
    let mend = "write other CPUs to /proc/irq/N/smp_affinity_list (stop irqbalance first; interrupts of NVMe queues move only with \
                isolcpus=managed_irq)";
    condition.recommend_unless(disturbing.is_empty(), current, mend)
}

pub(super) fn siblings(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("smt_siblings", "nothing runs on the other hyper-thread of a pipeline's core");
    let online = match host.online() {
        Ok(online) => online,
        Err(reason) => return condition.unknown(reason),
    };
    let (condition, cores) = match pipelines(condition, target) {
        Ok(both) => both,
        Err(finding) => return finding,
    };
    let isolated = match set_apart(host, "/sys/devices/system/cpu/isolated", "isolcpus") {
        Ok(isolated) => isolated,
        Err(reason) => return condition.unknown(reason),
    };
    let mut shared = Vec::new();
    for core in &cores.0 {
        let list = host.read(format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"));
        let siblings: Cpus = match list.and_then(|list| list.parse()) {
            Ok(siblings) => siblings,
            Err(reason) => return condition.unknown(reason),
        };
        let others = siblings.without(&Cpus::from_iter([*core])).shared_with(&online);
        // A sibling that is isolated and has no pipeline is idle.
        let busy =
            Cpus::from_iter(others.0.iter().copied().filter(|cpu| cores.0.contains(cpu) || !isolated.0.contains(cpu)));
        if !busy.is_empty() {
            shared.push(format!("{core} shares with {busy}"));
        }
    }
    let current = if shared.is_empty() { "each has its own".into() } else { shared.join("; ") };
    let mend =
        "switch hyper-threading off in the BIOS, or `echo 0 > /sys/devices/system/cpu/cpuN/online` for the sibling";
    condition.recommend_unless(shared.is_empty(), current, mend)
}

/// The pipelines' CPUs; all where none is pinned.
pub(super) fn busy_cores(host: &Host, target: &Target) -> Result<Cpus, String> {
    let (cores, online) = (target.pipelines(), host.online()?);
    Ok(if cores.is_empty() { online } else { cores.shared_with(&online) })
}

pub(super) fn governor(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("governor", "performance");
    let cores = match busy_cores(host, target) {
        Ok(cores) => cores,
        Err(reason) => return condition.unknown(reason),
    };
    let mut others = Vec::new();
    for core in &cores.0 {
        match host.read_if_there(format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")) {
            Ok(Some(governor)) if governor == "performance" => {}
            Ok(Some(governor)) => others.push(format!("core {core}: {governor}")),
            Ok(None) => return condition.unknown(format!("cpu{core} has no cpufreq: firmware or hypervisor decide")),
            Err(reason) => return condition.unknown(reason),
        }
    }
    let current = if others.is_empty() { format!("performance on {cores}") } else { others.join("; ") };
    condition.recommend_unless(others.is_empty(), current, "`cpupower frequency-set -g performance`")
}

/// The idle states of a core that are too deep: path and name.
pub(super) fn deep_states(host: &Host, core: usize) -> Result<Vec<(String, String)>, String> {
    let all = format!("/sys/devices/system/cpu/cpu{core}/cpuidle");
    let mut deep = Vec::new();
    for state in host.names(&all)?.into_iter().filter(|name| name.starts_with("state")) {
        let latency = host.read(format!("{all}/{state}/latency"))?;
        let latency_us: u64 = latency.parse().map_err(|_| format!("{all}/{state}/latency says {latency:?}"))?;
        if latency_us > WAKE_MAX_US {
            deep.push((format!("{all}/{state}/disable"), host.read(format!("{all}/{state}/name"))?));
        }
    }
    Ok(deep)
}

pub(super) fn idle_states(host: &Host, target: &Target) -> Finding {
    let condition = Condition::new("idle_states", format!("none that takes more than {WAKE_MAX_US} µs to leave"));
    let found = busy_cores(host, target).and_then(|cores| {
        let mut entered = Vec::new();
        for core in &cores.0 {
            for (file, name) in deep_states(host, *core)? {
                if host.read(file)? == "0" {
                    entered.push(format!("core {core}: {name}"));
                }
            }
        }
        Ok(entered)
    });
    match found {
        Err(reason) => condition.unknown(format!("{reason} (without cpuidle, firmware or hypervisor decide)")),
        Ok(entered) => {
            let current = if entered.is_empty() { "none".into() } else { entered.join("; ") };
            let mend = "write 1 to cpuidle/stateN/disable of the core, or processor.max_cstate=1 intel_idle.max_cstate=1 at boot";
            condition.recommend_unless(entered.is_empty(), current, mend)
        }
    }
}

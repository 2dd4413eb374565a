//! Processors, and the hypervisor above them. Reads /proc/cpuinfo and /sys.

use super::text;
use serde::Serialize;

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Processor {
    /// As the processor names itself.
    pub(crate) model: Option<String>,
    /// Processors that the kernel runs on.
    pub(crate) online: Option<usize>,
    /// Cores; fewer than processors where two threads share one.
    pub(crate) cores: Option<usize>,
    /// Processors that the scheduler leaves alone, as the kernel lists them.
    pub(crate) isolated: Option<String>,
    /// What chooses the clock rate; unknown in most guests.
    pub(crate) governor: Option<String>,
    /// Whether the processor may go faster than its nominal rate.
    pub(crate) boost: Option<String>,
    /// The driver of its sleep states; "none" in most guests.
    pub(crate) idle_driver: Option<String>,
    /// Whether this is a guest.
    pub(crate) is_guest: bool,
    /// Who made the machine, real or not.
    pub(crate) machine: Option<String>,
    /// Transparent huge pages.
    pub(crate) huge_pages: Option<String>,
}

impl Processor {
    /// This machine's.
    pub(crate) fn here() -> Processor {
        let info = text("/proc/cpuinfo").unwrap_or_default();
        let online = info.lines().filter(|line| field(line).is_some_and(|(name, _)| name == "processor")).count();
        let names = [text("/sys/class/dmi/id/sys_vendor"), text("/sys/class/dmi/id/product_name")];
        let machine: Vec<String> = names.into_iter().flatten().collect();
        let flags = first(&info, "flags").unwrap_or_default();
        Processor {
            model: first(&info, "model name"),
            online: (online > 0).then_some(online),
            cores: cores(&info),
            isolated: text("/sys/devices/system/cpu/isolated"),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            boost: text("/sys/devices/system/cpu/cpufreq/boost"),
            idle_driver: text("/sys/devices/system/cpu/cpuidle/current_driver"),
            is_guest: flags.split(' ').any(|flag| flag == "hypervisor"),
            machine: (!machine.is_empty()).then(|| machine.join(" ")),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled"),
        }
    }
}

fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim(), value.trim()))
}

fn first(info: &str, wanted: &str) -> Option<String> {
    info.lines().filter_map(field).find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

/// Distinct pairs of package and core.
fn cores(info: &str) -> Option<usize> {
    let mut found = std::collections::BTreeSet::new();
    let mut package = "";
    for (name, value) in info.lines().filter_map(field) {
        match name {
            "physical id" => package = value,
            "core id" => drop(found.insert((package, value))),
            _ => {}
        }
    }
    (!found.is_empty()).then_some(found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_THREADS: &str = "processor\t: 0\nmodel name\t: EPYC\nphysical id\t: 0\ncore id\t: 0\n\n\
                               processor\t: 1\nmodel name\t: EPYC\nphysical id\t: 0\ncore id\t: 0\n";

    #[test]
    fn threads_of_one_core_are_one_core() {
        assert_eq!(cores(TWO_THREADS), Some(1));
        assert_eq!(first(TWO_THREADS, "model name").as_deref(), Some("EPYC"));
        assert_eq!(cores("processor : 0\n"), None);
    }
}

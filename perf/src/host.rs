//! Who else used the processors: a measurement on a busy machine is not one of the product. Reads /proc.

use anyhow::Context;
use serde::Serialize;
use std::time::Instant;

/// The kernel's unit of processor time in /proc (USER_HZ, fixed in its interface).
const TICKS_A_SECOND: f64 = 100.0;

/// What machine this is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    /// As `uname -r` says.
    pub(crate) kernel: String,
    /// Processors that this process may use.
    pub(crate) processors: usize,
}

impl Host {
    /// This one.
    pub(crate) fn here() -> anyhow::Result<Host> {
        let kernel =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
        let processors = std::thread::available_parallelism().context("cannot count the processors")?.get();
        Ok(Host { kernel: kernel.trim().into(), processors })
    }
}

/// Processor time since a moment, as shares of all processors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// Used by processes that are not part of the measurement, interrupts included.
    pub(crate) others: f64,
    /// Taken by the hypervisor.
    pub(crate) stolen: f64,
    /// Processors that the processes of the measurement used on average, its client included.
    pub(crate) cores: f64,
}

/// The start of a measurement.
#[derive(Debug)]
pub(crate) struct Watch {
    since: Instant,
    host: Ticks,
    ours: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    busy: u64,
    stolen: u64,
}

impl Watch {
    /// Starts; `processes` take part, and so does this one.
    pub(crate) fn start(processes: &[u32]) -> anyhow::Result<Watch> {
        Ok(Watch { since: Instant::now(), host: host_ticks()?, ours: our_ticks(processes)? })
    }

    /// The shares since then, for the same processes.
    pub(crate) fn stop(&self, processes: &[u32], processors: usize) -> anyhow::Result<Usage> {
        let (host, ours) = (host_ticks()?, our_ticks(processes)?);
        let one = self.since.elapsed().as_secs_f64() * TICKS_A_SECOND;
        let all = one * processors as f64;
        let ours = ours - self.ours;
        let others = (host.busy - self.host.busy).saturating_sub(ours);
        let stolen = host.stolen - self.host.stolen;
        Ok(Usage { others: others as f64 / all, stolen: stolen as f64 / all, cores: ours as f64 / one })
    }
}

fn host_ticks() -> anyhow::Result<Ticks> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_host(&stat).context("/proc/stat has an unknown form")
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn parse_host(stat: &str) -> Option<Ticks> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].into_iter().map(|at| fields.get(at).copied()).sum::<Option<u64>>()?;
    Some(Ticks { busy, stolen: *fields.get(7)? })
}

/// Processor time that these processes have used so far, seconds.
pub(crate) fn processor_seconds(processes: &[u32]) -> anyhow::Result<f64> {
    Ok(ticks_of(processes.iter().copied())? as f64 / TICKS_A_SECOND)
}

fn our_ticks(processes: &[u32]) -> anyhow::Result<u64> {
    ticks_of(processes.iter().copied().chain([std::process::id()]))
}

fn ticks_of(processes: impl Iterator<Item = u32>) -> anyhow::Result<u64> {
    let mut ticks = 0;
    for process in processes {
        let path = format!("/proc/{process}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| format!("process {process} is gone"))?;
        ticks += parse_process(&stat).with_context(|| format!("{path} has an unknown form"))?;
    }
    Ok(ticks)
}

/// User and system time, the 14th and 15th fields; the second, a name in parentheses, may hold anything.
fn parse_process(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        let host = parse_host("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1").unwrap();
        assert_eq!(host, Ticks { busy: 1 + 2 + 3 + 6 + 7, stolen: 8 });
        let line = "12 (a ) b) R 1 2 3 4 5 6 7 8 9 10 300 40 0 0";
        assert_eq!(parse_process(line), Some(340));
        assert!(parse_host("cpu 1 2").is_none());
    }

    #[test]
    fn this_process_is_not_among_the_others() {
        let watch = Watch::start(&[]).unwrap();
        let usage = watch.stop(&[], 1).unwrap();
        assert!(usage.stolen >= 0.0 && usage.others >= 0.0);
    }
}

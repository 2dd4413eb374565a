//! `synod jitter`: which cores, and the table. The metering is `crate::jitter`'s.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{interrupts, progress_bar};
use crate::jitter::{self, Core, SECTION};
use anyhow::anyhow;
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct JitterArgs {
    /// The cores, as in "2-5,7"; all that this process may use if left out.
    #[arg(long, value_name = "L", value_parser = parse_cores)]
    cores: Option<Cores>,
    /// How long to watch them.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Write the gaps into this file: `.hlog` (HdrHistogram's interval log, a tag for each core) or `.hgrm` (percentiles of all).
    #[arg(long, value_name = "FILE", value_parser = super::histogram_file)]
    histogram: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// A list of cores; clap would take a bare `Vec` for an option that is given several times.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cores(Vec<usize>);

/// Watches the cores until the time is over, or until Ctrl-C, which ends it early with what was seen.
pub(super) fn jitter(args: &JitterArgs) -> Outcome {
    let usable: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let cores = args.cores.as_ref().map_or_else(|| usable.clone(), |cores| cores.0.clone());
    if let Some(core) = cores.iter().find(|core| !usable.contains(core)) {
        let reason = anyhow!("core {core} does not exist or may not be used; there are {usable:?}");
        return Err(Failure::Usage(reason.context("--cores names cores of this host")));
    }
    let stop = interrupts()?;
    let length = Duration::from_secs(args.seconds);
    let found = with_progress(length, || jitter::run(&cores, length, &stop))?;
    if let Some(file) = &args.histogram {
        jitter::write_histogram(&found, file)?;
    }
    match args.output {
        Style::Text => print(&text(&found)),
        Style::Json => print_json(&found),
    }
}

/// Shows how far it is on a terminal. The bar's thread sleeps: elsewhere there is none.
fn with_progress<T>(length: Duration, work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, Failure> {
    let bar = progress_bar(length.as_millis() as u64)?;
    let done = AtomicBool::new(bar.is_hidden());
    let result = std::thread::scope(|scope| {
        let ticker = scope.spawn(|| {
            let began = Instant::now();
            while !done.load(Ordering::Acquire) {
                bar.set_position(began.elapsed().as_millis() as u64);
                std::thread::park_timeout(TICK);
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        ticker.thread().unpark();
        result
    });
    bar.finish_and_clear();
    Ok(result?)
}

fn text(cores: &[Core]) -> String {
    let mut table = Table::new(&[
        ">core",
        ">seconds",
        ">max us",
        ">p99.99 us",
        "> >10 us",
        "> >100 us",
        "> >1 ms",
        ">lost %",
        ">preempted",
        "what to mend",
    ]);
    for core in cores {
        let [tens, hundreds, thousands] = core.above.map(|count| count.to_string());
        table.row([
            core.core.to_string(),
            format!("{:.1}", core.seconds),
            format!("{:.1}", core.max_us),
            format!("{:.1}", core.p9999_us),
            tens,
            hundreds,
            thousands,
            format!("{:.3}", core.lost * 100.0),
            core.preempted.to_string(),
            core.verdict.clone(),
        ]);
    }
    format!(
        "{}\np99.99: of moments 1 us apart, 99.99 % waited at most so long for the core. See {SECTION}.\n",
        table.render()
    )
}

/// `0,2-4` as [0, 2, 3, 4].
fn parse_cores(text: &str) -> Result<Cores, String> {
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is no core's number"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= rustix::thread::CpuSet::MAX_CPU {
            return Err(format!("{part:?} is no range of cores"));
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(Cores(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_as_taskset_writes_them() {
        assert_eq!(parse_cores("3,0-1,1"), Ok(Cores(vec![0, 1, 3])));
        assert_eq!(parse_cores("7"), Ok(Cores(vec![7])));
        for wrong in ["", "a", "2-1", "1-", "0-99999"] {
            assert!(parse_cores(wrong).is_err(), "{wrong}");
        }
    }
}

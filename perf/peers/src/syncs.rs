//! Proof that a peer syncs: `strace` writes down each call of its processes that makes data durable, with the file's path,
//! while one entry at a time is committed. Background work of a peer syncs other files; only those of its log count.

use crate::contract::NodeSyncs;
use crate::processes::Process;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The calls that are written down.
const CALLS: &str = "trace=fsync,fdatasync,sync_file_range,pwritev2,io_submit,msync";
/// How long `strace` may take to hold a process.
const ATTACH_WAIT: Duration = Duration::from_secs(10);

/// One `strace` a node.
pub(crate) struct Count {
    tracers: Vec<(Process, PathBuf)>,
}

impl Count {
    /// Starts to count in these processes.
    pub(crate) fn start(processes: &[u32], dir: &Path, strace: &Path) -> anyhow::Result<Count> {
        let mut tracers = Vec::new();
        for process in processes {
            let out = dir.join(format!("strace-{process}"));
            let mut command = Command::new(strace);
            command.args(["-f", "-y", "-e", CALLS, "-o"]).arg(&out).args(["-p", &process.to_string()]);
            tracers.push((Process::start("strace", &mut command, "attached")?, out));
        }
        let until = Instant::now() + ATTACH_WAIT;
        tracers.iter().try_for_each(|(tracer, _)| tracer.wait_ready(until))?;
        Ok(Count { tracers })
    }

    /// Ends it; `is_log` tells the log's files from others.
    pub(crate) fn stop(self, is_log: impl Fn(&str) -> bool) -> anyhow::Result<Vec<NodeSyncs>> {
        let mut nodes = Vec::new();
        for (mut tracer, out) in self.tracers {
            tracer.check()?;
            tracer.interrupt()?;
            let text = std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
            nodes.push(parse(&text, &is_log));
        }
        Ok(nodes)
    }
}

/// Where `strace` is: among the installed tools, or on the path.
pub(crate) fn find(tools: &Path) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    match places.map(|place| place.join("strace")).find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!("strace is not installed: syncs cannot be counted; perf/peers/install.sh fetches it"),
    }
}

/// Counts in what `strace -f -y` wrote: `12  fdatasync(7</path>) = 0`, or the same call in two parts, of which the first
/// names the file. A call that failed made nothing durable.
fn parse(text: &str, is_log: &impl Fn(&str) -> bool) -> NodeSyncs {
    let mut counted = NodeSyncs::default();
    for line in text.lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if name.starts_with('<') || call.contains(") = -1") || !is_durable(name, arguments) {
            continue;
        }
        *counted.calls.entry(name.into()).or_default() += 1;
        counted.log += u64::from(is_log(arguments));
    }
    counted
}

fn is_durable(name: &str, arguments: &str) -> bool {
    match name {
        "fsync" | "fdatasync" => true,
        "pwritev2" => arguments.contains("RWF_DSYNC") || arguments.contains("RWF_SYNC"),
        "msync" => arguments.contains("MS_SYNC"),
        // Whether a write of the kernel's AIO syncs stands in its flags.
        "io_submit" => arguments.contains("RWF_DSYNC"),
        // `sync_file_range` promises nothing after a loss of power.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_make_the_log_durable_count() {
        let text = "12  fdatasync(7</d/wal/1>) = 0\n\
                    12  fdatasync(7</d/wal/1> <unfinished ...>\n\
                    13  fsync(9</d/db>) = 0\n\
                    12  <... fdatasync resumed>) = 0\n\
                    12  fdatasync(7</d/wal/1>) = -1 EIO (Input/output error)\n\
                    12  pwritev2(7</d/wal/1>, [{iov_base=\"\", iov_len=1}], 1, 0, RWF_DSYNC) = 1\n\
                    12  pwritev2(7</d/wal/1>, [{iov_base=\"\", iov_len=1}], 1, 0, 0) = 1\n\
                    12  sync_file_range(7</d/wal/1>, 0, 0, 0) = 0\n";
        let counted = parse(text, &|file| file.contains("/wal/"));
        assert_eq!(counted.log, 3);
        let calls: Vec<(&str, u64)> = counted.calls.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(calls, [("fdatasync", 2), ("fsync", 1), ("pwritev2", 1)]);
    }
}

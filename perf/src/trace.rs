//! Counts the system calls of a running process with strace. Called by `baseline` and `profile`.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long strace may take to attach, and to end.
const SOON: Duration = Duration::from_secs(10);
/// How often the kernel is asked who traces a thread: it tells nobody by itself.
const LOOK: Duration = Duration::from_millis(5);

/// A strace that counts. Dropping it detaches it.
pub(crate) struct Calls {
    strace: Child,
    summary: PathBuf,
}

impl Calls {
    /// Counts the calls of all threads of `process` from now on; what it has counted goes through a file in `dir`.
    pub(crate) fn attach(process: u32, dir: &Path) -> anyhow::Result<Calls> {
        let summary = dir.join(format!("strace-{process}.txt"));
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-p", &process.to_string(), "-o"]).arg(&summary);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = command.spawn().context("cannot run strace; Debian's package is called strace")?;
        let mut calls = Calls { strace, summary };
        calls.wait_until_attached(process)?;
        Ok(calls)
    }

    fn wait_until_attached(&mut self, process: u32) -> anyhow::Result<()> {
        let until = Instant::now() + SOON;
        while !is_traced(process)? {
            if let Some(status) = self.strace.try_wait().context("cannot look at strace")? {
                bail!("strace cannot trace process {process} ({status}): may this user, and does no one else?");
            }
            ensure!(Instant::now() < until, "strace did not attach to process {process} within {SOON:?}");
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Ends the counting; the calls by name.
    pub(crate) fn finish(mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        // SAFETY: sends a signal to a child that was not waited for.
        let sent = unsafe { libc::kill(self.strace.id() as libc::pid_t, libc::SIGINT) };
        ensure!(sent == 0, "cannot end strace: {}", std::io::Error::last_os_error());
        self.strace.wait().context("cannot wait for strace")?;
        let text = std::fs::read_to_string(&self.summary)
            .with_context(|| format!("cannot read {}", self.summary.display()))?;
        parse(&text).context("strace's summary has an unknown form")
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // After `finish` there is nothing left to end.
        let _gone = self.strace.kill();
        let _reaped = self.strace.wait();
    }
}

/// Whether every thread of a process has a tracer.
fn is_traced(process: u32) -> anyhow::Result<bool> {
    let threads =
        std::fs::read_dir(format!("/proc/{process}/task")).with_context(|| format!("process {process} is gone"))?;
    for thread in threads {
        let path = thread.context("cannot list threads")?.path().join("status");
        let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_none_or(|tracer| tracer.trim() == "0") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lines of `% time, seconds, usecs/call, calls, [errors,] syscall` between two rules.
fn parse(summary: &str) -> Option<BTreeMap<String, u64>> {
    let mut rules = 0;
    let mut calls = BTreeMap::new();
    for line in summary.lines() {
        if line.starts_with("------") {
            rules += 1;
        } else if rules == 1 {
            let cells: Vec<&str> = line.split_whitespace().collect();
            calls.insert((*cells.last()?).to_owned(), cells.get(3)?.parse().ok()?);
        }
    }
    (rules == 2).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_with_and_without_errors() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n \
                    99.00    0.100000          10     10000         3 io_uring_enter\n  \
                    1.00    0.001000          10       100           futex\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.101000          10     10100         3 total\n";
        let calls = parse(text).unwrap();
        assert_eq!(calls.into_iter().collect::<Vec<_>>(), [("futex".into(), 100), ("io_uring_enter".into(), 10_000)]);
        assert!(parse("strace: attach failed").is_none());
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Calls::attach(u32::MAX >> 1, dir.path()).is_err());
    }
}

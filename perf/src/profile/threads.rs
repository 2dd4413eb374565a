//! The scheduler's account of a process: how long each thread ran, how long it was ready and had no processor, how often it
//! slept and how often another took its place. Reads /proc/PID/task.

use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A thread's part, for each entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ThreadTimes {
    /// Its name.
    pub(crate) name: String,
    /// On a processor.
    pub(crate) runs_us: f64,
    /// Ready, and off.
    pub(crate) waits_us: f64,
    /// Times that it gave the processor away (a yield to nobody is none).
    pub(crate) sleeps: f64,
    /// Times that it was taken.
    pub(crate) preempted: f64,
}

/// All threads at one moment, by their number.
#[derive(Debug)]
pub(crate) struct Account(BTreeMap<u32, Times>);

#[derive(Clone, Debug, PartialEq)]
struct Times {
    name: String,
    runs_ns: u64,
    waits_ns: u64,
    sleeps: u64,
    preempted: u64,
}

impl Account {
    /// Of a process.
    pub(crate) fn of(process: u32) -> anyhow::Result<Account> {
        let path = format!("/proc/{process}/task");
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(&path).with_context(|| format!("process {process} is gone"))? {
            let thread = thread.with_context(|| format!("cannot list {path}"))?;
            let number = thread.file_name().to_string_lossy().parse().context("a thread without a number")?;
            threads.insert(number, times(&thread.path())?);
        }
        Ok(Account(threads))
    }

    /// What came since `before`, for each of so many entries; the busiest thread first. Threads of the kernel that work for
    /// the process (io_uring's workers) come and go: those that came since count from zero.
    pub(crate) fn since(&self, before: &Account, entries: u64) -> Vec<ThreadTimes> {
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / entries as f64;
        let mut told: Vec<ThreadTimes> = self
            .0
            .iter()
            .map(|(number, now)| {
                let none = Times { name: String::new(), runs_ns: 0, waits_ns: 0, sleeps: 0, preempted: 0 };
                let then = before.0.get(number).unwrap_or(&none);
                ThreadTimes {
                    name: now.name.clone(),
                    runs_us: each(now.runs_ns, then.runs_ns) / 1e3,
                    waits_us: each(now.waits_ns, then.waits_ns) / 1e3,
                    sleeps: each(now.sleeps, then.sleeps),
                    preempted: each(now.preempted, then.preempted),
                }
            })
            .collect();
        told.sort_by(|left, right| right.runs_us.total_cmp(&left.runs_us));
        told
    }
}

fn times(thread: &Path) -> anyhow::Result<Times> {
    let read = |name: &str| {
        let path = thread.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    parse(&read("schedstat")?, &read("status")?).with_context(|| format!("{} has an unknown form", thread.display()))
}

/// `schedstat`: nanoseconds on a processor, nanoseconds ready, slices.
fn parse(schedstat: &str, status: &str) -> Option<Times> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut numbers = schedstat.split_whitespace().map(str::parse);
    Some(Times {
        name: field("Name:")?.to_owned(),
        runs_ns: numbers.next()?.ok()?,
        waits_ns: numbers.next()?.ok()?,
        sleeps: field("voluntary_ctxt_switches:")?.parse().ok()?,
        preempted: field("nonvoluntary_ctxt_switches:")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tgroup-0\nvoluntary_ctxt_switches:\t70\nnonvoluntary_ctxt_switches:\t5\n";

    #[test]
    fn what_came_since_is_told_for_each_entry() {
        let before = Account([(1, parse("1000 500 3", STATUS).unwrap())].into());
        let mut later = parse("21000 2500 9", STATUS).unwrap();
        later.sleeps = 90;
        let after = Account([(1, later.clone()), (2, Times { name: "worker".into(), ..later })].into());
        let told = after.since(&before, 10);
        assert_eq!(told[0].name, "worker", "it came since");
        let ours = ThreadTimes { name: "group-0".into(), runs_us: 2.0, waits_us: 0.2, sleeps: 2.0, preempted: 0.0 };
        assert_eq!(told[1], ours);
    }

    #[test]
    fn this_process_has_an_account() {
        let account = Account::of(std::process::id()).unwrap();
        assert!(account.0.values().any(|times| times.runs_ns > 0));
        assert!(Account::of(u32::MAX >> 1).is_err());
    }
}

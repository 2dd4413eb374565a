//! The command `baseline`: what a commit costs in instructions and in system calls, counted where a shared machine's noise
//! does not reach, and held against the figures of the last time (`perf/baseline.json`; `perf/check-baseline.sh` in CI).
//!
//! More than the tolerance above the baseline fails. Less is told: the baseline is then to be written anew, with the commit
//! that earned it.

mod callgrind;
mod calls;

pub(crate) use calls::{TraceArgs, run_trace};

use crate::cluster;
use crate::options::Style;
use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `baseline`.
#[derive(Args, Debug)]
pub(crate) struct BaselineArgs {
    /// Hold what is counted against this file.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Write what is counted into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    write: Option<PathBuf>,
    /// The simulator's program; left out: the one beside this.
    #[arg(long, value_name = "FILE")]
    synod_sim: Option<PathBuf>,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
    /// Where the logs of the nodes lie whose system calls are counted.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// Instructions may grow by this part before it counts: other versions of the compiler and of libc move them as much.
const INSTRUCTIONS_TOLERANCE: f64 = 0.05;
/// System calls may grow by this part, and by this much: completions that arrive together share one, and how many do varies
/// with the disk (3.2 to 3.5 calls of the leader were seen). One call more for each entry is beyond it.
const CALLS_TOLERANCE: f64 = 0.15;
const CALLS_SLACK: f64 = 0.2;

/// What is kept. The names say who and under which load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Figures {
    /// Of a shard's turns, for each entry: `leader, 1 outstanding`.
    instructions_per_entry: BTreeMap<String, f64>,
    /// Of a node's process, for each entry: `leader, 1 outstanding, io_uring_enter`.
    system_calls_per_entry: BTreeMap<String, f64>,
}

/// Counts, prints, and compares or keeps.
pub(crate) fn run(args: &BaselineArgs) -> anyhow::Result<()> {
    let before = args.check.as_deref().map(read).transpose()?;
    let found = count(args)?;
    match args.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Style::Text => print(&found, before.as_ref()),
    }
    if let Some(file) = &args.write {
        let text = serde_json::to_string_pretty(&found)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let Some(before) = before else { return Ok(()) };
    let Verdict { worse, better } = compare(&before, &found);
    better.iter().for_each(|told| eprintln!("note: {told}: write the baseline anew"));
    if worse.is_empty() { Ok(()) } else { bail!("more than the baseline:\n{}", worse.join("\n")) }
}

fn read(file: &Path) -> anyhow::Result<Figures> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", file.display()))
}

fn count(args: &BaselineArgs) -> anyhow::Result<Figures> {
    let simulator = match &args.synod_sim {
        Some(given) => given.clone(),
        None => cluster::beside("synod-sim", "cargo build --release -p synod-sim")?,
    };
    let instructions_per_entry = callgrind::count(&simulator)?;
    let synod = cluster::program(args.synod.as_deref())?;
    let system_calls_per_entry = calls::count(&synod, args.dir.as_deref())?;
    Ok(Figures { instructions_per_entry, system_calls_per_entry })
}

/// How figures differ from the baseline beyond the tolerance.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    worse: Vec<String>,
    better: Vec<String>,
}

fn compare(before: &Figures, found: &Figures) -> Verdict {
    let mut verdict = Verdict::default();
    let instructions = (&before.instructions_per_entry, &found.instructions_per_entry);
    compare_maps("instructions", instructions, (INSTRUCTIONS_TOLERANCE, 0.0), &mut verdict);
    let calls = (&before.system_calls_per_entry, &found.system_calls_per_entry);
    compare_maps("system calls", calls, (CALLS_TOLERANCE, CALLS_SLACK), &mut verdict);
    verdict
}

type Map = BTreeMap<String, f64>;

/// A name that only one side has counts as zero on the other: a new system call on the hot path is a change, too.
fn compare_maps(what: &str, (before, found): (&Map, &Map), (part, slack): (f64, f64), verdict: &mut Verdict) {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(found.keys()).collect();
    for name in names {
        let of = |map: &Map| map.get(name).copied().unwrap_or(0.0);
        let (then, now) = (of(before), of(found));
        let told = format!("{what} of {name}: {now:.2} for each entry, {then:.2} in the baseline");
        if now > then * (1.0 + part) + slack {
            verdict.worse.push(told);
        } else if now < then * (1.0 - part) - slack {
            verdict.better.push(told);
        }
    }
}

fn print(found: &Figures, before: Option<&Figures>) {
    let tables = [
        ("instructions for each entry", &found.instructions_per_entry, before.map(|old| &old.instructions_per_entry)),
        ("system calls for each entry", &found.system_calls_per_entry, before.map(|old| &old.system_calls_per_entry)),
    ];
    for (heading, table, old) in tables {
        println!("{heading:<52} {:>12} {:>12}", "now", if old.is_some() { "baseline" } else { "" });
        for (name, value) in table {
            let old = old.and_then(|old| old.get(name)).map_or(String::new(), |old| format!("{old:.2}"));
            println!("  {name:<50} {value:>12.2} {old:>12}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(instructions: f64, calls: f64) -> Figures {
        Figures {
            instructions_per_entry: [("leader".to_owned(), instructions)].into(),
            system_calls_per_entry: [("leader, io_uring_enter".to_owned(), calls)].into(),
        }
    }

    #[test]
    fn more_is_worse_less_is_told_and_a_little_is_neither() {
        let before = figures(1_000.0, 3.0);
        assert_eq!(compare(&before, &figures(1_049.0, 3.35)), Verdict::default());
        assert_eq!(compare(&before, &figures(1_051.0, 3.0)).worse.len(), 1);
        assert_eq!(compare(&before, &figures(1_000.0, 4.0)).worse.len(), 1);
        let verdict = compare(&before, &figures(900.0, 3.0));
        assert!(verdict.worse.is_empty() && verdict.better[0].contains("900.00"), "{verdict:?}");
    }

    #[test]
    fn a_new_system_call_is_worse() {
        let mut found = figures(1_000.0, 3.0);
        found.system_calls_per_entry.insert("leader, futex".into(), 1.0);
        assert!(compare(&figures(1_000.0, 3.0), &found).worse[0].contains("futex"));
    }
}

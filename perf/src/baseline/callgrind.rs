//! Instructions of a commit: callgrind runs `synod-sim drive`, which commits entries on three production shards in virtual
//! time, twice as many the second time. The difference of the two runs is free of the start. What is counted are the turns
//! of the shards, with everything below them; the kernel's part is not, nor is the reactor's.

use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Entries in flight, entries of the shorter run, and whether under memory durability.
const LOADS: [(u32, u64, bool); 3] = [(1, 2_000, false), (256, 20_480, false), (1, 2_000, true)];

/// What is counted: a function of the simulator, and who it stands for. There are two followers.
const ROLES: [(&str, &str, f64); 2] = [("leader_turn", "leader", 1.0), ("follower_turn", "follower", 2.0)];

/// The C library fills and copies longer pieces by one instruction that repeats, which callgrind counts byte by byte; so it
/// is told to keep to loops, whose instructions tell the work.
const TUNABLES: &str = "glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// Instructions for each entry, by role and load.
pub(super) fn count(simulator: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let dir = tempfile::tempdir().context("cannot make a directory for callgrind")?;
    let mut found = BTreeMap::new();
    for (outstanding, entries, memory) in LOADS {
        let short = one_run(simulator, dir.path(), outstanding, entries, memory)?;
        let long = one_run(simulator, dir.path(), outstanding, 2 * entries, memory)?;
        let durability = if memory { ", memory" } else { "" };
        for (function, role, processes) in ROLES {
            let more = long[function].checked_sub(short[function]).context("more entries took fewer instructions")?;
            let each = more as f64 / entries as f64 / processes;
            found.insert(format!("{role}, {outstanding} outstanding{durability}"), (each * 10.0).round() / 10.0);
        }
    }
    Ok(found)
}

/// The instructions of each function in [`ROLES`], with all that it calls.
fn one_run(
    simulator: &Path,
    dir: &Path,
    outstanding: u32,
    entries: u64,
    memory: bool,
) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let out = dir.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(simulator).args(["drive", "--outstanding", &outstanding.to_string(), "--entries"]);
    valgrind.arg(entries.to_string()).args(memory.then_some("--memory")).env("GLIBC_TUNABLES", TUNABLES);
    let ran = valgrind.output().context("cannot run valgrind; Debian's package is called valgrind")?;
    ensure!(ran.status.success(), "valgrind failed ({}): {}", ran.status, String::from_utf8_lossy(&ran.stderr));
    let mut annotate = Command::new("callgrind_annotate");
    let told = annotate.args(["--inclusive=yes", "--auto=no", "--threshold=100"]).arg(&out).output();
    let told = told.context("cannot run callgrind_annotate, which comes with valgrind")?;
    let text = String::from_utf8_lossy(&told.stdout);
    let mut found = BTreeMap::new();
    for (function, ..) in ROLES {
        let count =
            parse(&text, function).with_context(|| format!("callgrind does not know {function}: is it inlined?"))?;
        found.insert(function, count);
    }
    Ok(found)
}

/// The first number of the line of a function: `58,273,631 (37.51%)  file.rs:path::function [program]`.
fn parse(table: &str, function: &str) -> Option<u64> {
    let named = format!("::{function} ");
    let line = table.lines().find(|line| format!("{line} ").contains(&named))?;
    line.split_whitespace().next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Ir\n277,920,767 (100.0%)  PROGRAM TOTALS\n\
        119,267,771 (42.91%)  /w/sim/src/drive.rs:synod_sim::drive::follower_turn [/w/target/release/synod-sim]\n\
        104,636,699 (37.65%)  /w/sim/src/drive.rs:synod_sim::drive::leader_turn [/w/target/release/synod-sim]\n";

    #[test]
    fn the_line_of_a_function_is_found() {
        assert_eq!(parse(TABLE, "leader_turn"), Some(104_636_699));
        assert_eq!(parse(TABLE, "follower_turn"), Some(119_267_771));
        assert_eq!(parse(TABLE, "turn"), None);
    }
}

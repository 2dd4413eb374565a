//! The checkers' own test: each known bug is put back, one at a time, and a general checker must find it.

use crate::worker::{self, Order, Verdict};
use anyhow::bail;
use synod_sim::{MUTANTS, Profile};

/// Seeds that one worker process runs at a time.
const BATCH: u64 = 20;

/// Runs every mutant until it is killed; false if one survives.
pub(crate) fn run(from: u64, seeds: u64, only: &[String]) -> anyhow::Result<bool> {
    if !synod_sim::has_mutants() {
        bail!("this build has no mutants: build with --features mutants");
    }
    if let Some(unknown) = only.iter().find(|name| !MUTANTS.iter().any(|mutant| mutant.name == **name)) {
        bail!("there is no mutant {unknown}");
    }
    let mut survivors = 0;
    for mutant in MUTANTS.iter().filter(|mutant| only.is_empty() || only.iter().any(|name| name == mutant.name)) {
        match hunt(mutant.name, from, seeds)? {
            Some((took, property)) => {
                println!("{:>2}  {:<32} killed after {took:>4} seeds by: {property}", mutant.number, mutant.name)
            }
            None => {
                survivors += 1;
                println!("{:>2}  {:<32} SURVIVES {seeds} seeds", mutant.number, mutant.name);
            }
        }
    }
    println!("{survivors} survivors");
    Ok(survivors == 0)
}

/// Seeds until a checker finds the mutant, and which.
fn hunt(name: &str, from: u64, seeds: u64) -> anyhow::Result<Option<(u64, String)>> {
    let mut done = 0;
    while done < seeds {
        let count = BATCH.min(seeds - done);
        let order = Order::seeds(from + done, count, Profile::Mixed).with_mutant(name);
        let ended = worker::supervise(&order, &mut |_, verdict| matches!(verdict, Verdict::Passed(_)))?;
        if let Some((_, failure)) = ended.stopped {
            return Ok(Some((
                done + ended.done,
                format!("{}: {}", failure.violation.property, short(&failure.violation.detail)),
            )));
        }
        done += count;
    }
    Ok(None)
}

fn short(detail: &str) -> String {
    detail.chars().take(100).collect()
}

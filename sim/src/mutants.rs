//! The checkers' own test: each known bug is put back, one at a time, and a general checker must find it. Called by the
//! command line.

use crate::Style;
use crate::worker::{self, Order, Verdict};
use anyhow::{anyhow, bail};
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use synod_sim::{Ground, MUTANTS, Mutant, Plan, Profile, SIMULATOR, Violation};

/// Seeds that one worker process runs at a time.
const BATCH: u64 = 20;
/// Seeds for each mutant, at most. The fast subset has them too, though its mutants need few: a change of plans then costs a minute,
/// and does not fail it.
const SEEDS: u64 = 1_000;
/// Of a scenario: other timings, sizes and loads.
const SCENARIO_SEEDS: u64 = 5;

/// Which mutants, and how long for each.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hunt {
    /// Seeds for each, at most.
    #[arg(long, default_value_t = SEEDS)]
    seeds: u64,
    /// These alone.
    #[arg(long)]
    only: Vec<String>,
    /// Without those that take many seeds.
    #[arg(long)]
    fast: bool,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Worker processes at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Style,
}

/// What became of a mutant.
#[derive(Clone, Debug, Serialize)]
struct Fate {
    number: Option<u32>,
    name: &'static str,
    what: &'static str,
    /// Seeds until it was killed, or that it survived.
    seeds: u64,
    killed: bool,
    /// What it broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    property: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Hunt {
    fn wanted(&self) -> anyhow::Result<Vec<Mutant>> {
        if let Some(unknown) = self.only.iter().find(|name| !MUTANTS.iter().any(|mutant| mutant.name == **name)) {
            bail!("there is no mutant {unknown}");
        }
        let named = |mutant: &Mutant| self.only.is_empty() || self.only.iter().any(|name| name == mutant.name);
        Ok(MUTANTS.iter().filter(|mutant| named(mutant) && !(self.fast && mutant.slow)).copied().collect())
    }

    /// Seeds until a checker finds the mutant, and which.
    fn hunt(&self, mutant: &Mutant) -> anyhow::Result<Fate> {
        let (done, found) = match mutant.ground {
            Ground::Seeds(profile) => self.hunt_in_seeds(mutant.name, profile)?,
            Ground::Scenario(_, text) => hunt_in_scenario(mutant.name, text)?,
        };
        let Mutant { number, name, what, .. } = *mutant;
        let killed = found.is_some();
        let (property, detail) = found.map(|violation| (violation.property, violation.detail)).unzip();
        Ok(Fate { number, name, what, seeds: done, killed, property, detail })
    }

    fn hunt_in_seeds(&self, name: &str, profile: Profile) -> anyhow::Result<(u64, Option<Violation>)> {
        let mut done = 0;
        while done < self.seeds {
            let count = BATCH.min(self.seeds - done);
            let order = Order::seeds(self.from + done, count, profile).with_mutant(name);
            let ended = worker::supervise(&order, &mut |_, verdict| !is_kill(&verdict))?;
            done += ended.done;
            if let Some((seed, failure)) = ended.stopped {
                must_pass(seed, profile)?;
                return Ok((done, Some(failure.violation)));
            }
        }
        Ok((done, None))
    }
}

/// The scenario runs as it is, and does not with the bug.
fn hunt_in_scenario(name: &str, text: &str) -> anyhow::Result<(u64, Option<Violation>)> {
    for seed in 0..SCENARIO_SEEDS {
        let plan = synod_sim::scenario(text, seed).map_err(|error| anyhow!("{error}"))?;
        if let Verdict::Failed(failure) = worker::one(&plan)? {
            bail!("the scenario fails without any mutant: {:?}", failure.violation);
        }
        let mutated = worker::one(&Plan { mutant: Some(name.to_owned()), ..plan })?;
        if let Verdict::Failed(failure) = mutated
            && failure.violation.property != SIMULATOR
        {
            return Ok((seed + 1, Some(failure.violation)));
        }
    }
    Ok((SCENARIO_SEEDS, None))
}

/// Runs every mutant until it is killed; false if one survives.
pub(crate) fn run(hunt: &Hunt) -> anyhow::Result<bool> {
    if !synod_sim::has_mutants() {
        bail!("this build has no mutants: build with --features mutants");
    }
    let wanted = hunt.wanted()?;
    let mut fates = Vec::with_capacity(wanted.len());
    in_order(hunt, &wanted, &mut |fate| {
        if hunt.output == Style::Text {
            println!("{}", line(&fate));
        }
        fates.push(fate);
    })?;
    let survivors: Vec<&str> = fates.iter().filter(|fate| !fate.killed).map(|fate| fate.name).collect();
    match hunt.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&fates)?),
        Style::Text if survivors.is_empty() => println!("{} mutants, all killed", fates.len()),
        Style::Text => println!("{} mutants, {} survive: {}", fates.len(), survivors.len(), survivors.join(", ")),
    }
    Ok(survivors.is_empty())
}

/// Hunts some at a time, and tells of each in the table's order.
fn in_order(hunt: &Hunt, wanted: &[Mutant], tell: &mut dyn FnMut(Fate)) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..hunt.jobs.clamp(1, wanted.len().max(1)) {
            let (next, send) = (&next, send.clone());
            scope.spawn(move || {
                while let Some((at, mutant)) = nth(wanted, next.fetch_add(1, Ordering::Relaxed)) {
                    // The receiver is gone if another hunt has failed: then nobody waits for this one.
                    if send.send((at, hunt.hunt(mutant))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut fates: Vec<Option<Fate>> = wanted.iter().map(|_| None).collect();
        let mut told = 0;
        for (at, fate) in receive {
            fates[at] = Some(fate?);
            while let Some(fate) = fates.get_mut(told).and_then(Option::take) {
                tell(fate);
                told += 1;
            }
        }
        Ok(())
    })
}

/// A seed that fails without the bug too has not found it.
fn must_pass(seed: u64, profile: Profile) -> anyhow::Result<()> {
    let ended = worker::supervise(&Order::seeds(seed, 1, profile), &mut |_, verdict| !is_kill(&verdict))?;
    match ended.stopped {
        None => Ok(()),
        Some((_, failure)) => {
            let Violation { property, detail } = failure.violation;
            bail!("seed {seed} fails without any mutant: {property}: {detail}; run it by itself: it finds a fault")
        }
    }
}

/// A simulator that demanded too much has found nothing.
fn is_kill(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failed(failure) if failure.violation.property != SIMULATOR)
}

fn nth(wanted: &[Mutant], at: usize) -> Option<(usize, &Mutant)> {
    wanted.get(at).map(|mutant| (at, mutant))
}

fn line(fate: &Fate) -> String {
    let number = fate.number.map_or("rule".to_owned(), |number| number.to_string());
    let Some(property) = &fate.property else {
        return format!("{number:>4}  {:<34} SURVIVES {} seeds", fate.name, fate.seeds);
    };
    let detail: String = fate.detail.iter().flat_map(|detail| detail.chars()).take(100).collect();
    format!("{number:>4}  {:<34} {:>4}  {property}: {}", fate.name, fate.seeds, detail.replace('\n', " "))
}

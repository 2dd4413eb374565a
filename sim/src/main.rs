//! The simulator's command line: run seeds, replay a failure, measure the checkers with mutants. See `sim/README.md`.

mod mutants;
mod report;
mod shrink;
mod worker;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use report::Total;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use synod_sim::{Failure, Plan, Profile};
use worker::Verdict;

/// Seeds that one worker process runs before the next takes over: what a crash of it costs.
const BATCH: u64 = 40;

/// Runs Synod in a simulated world, from a seed.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds until one fails.
    Run(Run),
    /// Run a failure's file again.
    Replay {
        /// What `run` wrote.
        file: PathBuf,
        /// Print every event.
        #[arg(long)]
        trace: bool,
    },
    /// Put each known bug back and count the seeds until a checker finds it.
    Mutants(mutants::Hunt),
    /// Run seeds for another process of this program.
    #[command(hide = true)]
    Worker(worker::Order),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// How many seeds.
    #[arg(long, default_value_t = 100, conflicts_with_all = ["seed", "minutes"])]
    seeds: u64,
    /// Just this one.
    #[arg(long, conflicts_with = "minutes")]
    seed: Option<u64>,
    /// The first seed; drawn from the clock and printed if not given.
    #[arg(long)]
    from: Option<u64>,
    /// As many seeds as fit.
    #[arg(long)]
    minutes: Option<f64>,
    /// Which faults.
    #[arg(long, value_enum, default_value = "mixed")]
    profile: Profile,
    /// Print every event (one seed only).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Where a failure's shrunk scenario goes.
    #[arg(long, default_value = "sim-failure.json")]
    out: PathBuf,
    /// Go on after a failure, and only list it.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(order) => run(&order),
        Command::Replay { file, trace } => replay(&file, trace),
        Command::Mutants(hunt) => mutants::run(&hunt),
        Command::Worker(order) => worker::work(&order).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("synod-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs seeds; false if one failed.
fn run(order: &Run) -> anyhow::Result<bool> {
    if order.trace {
        let seed = order.seed.context("--trace needs --seed")?;
        return one_traced(&Plan::new(seed, order.profile));
    }
    let first = match (order.seed, order.from) {
        (Some(seed), _) | (None, Some(seed)) => seed,
        (None, None) => fresh_seed()?,
    };
    let until = order.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes));
    let seeds = if order.seed.is_some() { 1 } else { order.seeds };
    println!("profile {:?}, seeds from {first}", order.profile);
    let bar = progress(until.is_none().then_some(seeds));
    let mut total = Total::new();
    let mut next = first;
    let more = |next: u64| until.map_or(next < first + seeds, |until| Instant::now() < until);
    let mut failures = 0;
    while more(next) {
        let count = if until.is_some() { BATCH } else { BATCH.min(first + seeds - next) };
        let batch = worker::Order::seeds(next, count, order.profile);
        let ended = worker::supervise(&batch, &mut |seed, verdict| match verdict {
            Verdict::Passed(outcome) => {
                total.add(&outcome);
                bar.inc(1);
                bar.set_message(total.line());
                true
            }
            Verdict::Failed(failure) => {
                failures += 1;
                bar.suspend(|| println!("seed {seed}: {}: {}", failure.violation.property, failure.violation.detail));
                order.keep_going || {
                    bar.finish_and_clear();
                    false
                }
            }
        })?;
        if let Some((seed, failure)) = ended.stopped {
            report_failure(seed, failure, &order.out)?;
            return Ok(false);
        }
        next += ended.done.max(1);
    }
    bar.finish_and_clear();
    println!("{}", total.report(order.profile));
    Ok(failures == 0)
}

fn fresh_seed() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    // Short enough to be typed again.
    Ok(now.as_nanos() as u64 / 1_000 % 100_000_000)
}

fn progress(seeds: Option<u64>) -> ProgressBar {
    let bar = seeds.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = ProgressStyle::with_template("{elapsed_precise} {pos} seeds  {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar
}

/// Shrinks a failure, writes it to a file, and says so.
fn report_failure(seed: u64, failure: Failure, out: &Path) -> anyhow::Result<()> {
    println!("shrinking …");
    let shrunk = shrink::shrink(failure)?;
    std::fs::write(out, serde_json::to_vec_pretty(&shrunk)?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}", report::failure(&shrunk));
    println!("seed {seed}; the shrunk scenario is in {0}; run it with: synod-sim replay {0} --trace", out.display());
    Ok(())
}

fn replay(file: &Path, trace: bool) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let failure: Failure =
        serde_json::from_str(&text).with_context(|| format!("{} is no failure's file", file.display()))?;
    if trace {
        return one_traced(&failure.plan);
    }
    match worker::one(&failure.plan)? {
        Verdict::Passed(_) => bail!("it passes now: this build does not have the fault, or the simulator has changed"),
        Verdict::Failed(again) => {
            println!("{}", report::failure(&again));
            Ok(false)
        }
    }
}

fn one_traced(plan: &Plan) -> anyhow::Result<bool> {
    println!("{}", report::plan(plan));
    match synod_sim::run(plan, true) {
        Ok(outcome) => {
            println!("passed: hash {:016x}, {} events", outcome.hash, outcome.events);
            Ok(true)
        }
        Err(failure) => {
            println!(
                "FAILED at {:.6} s: {}: {}",
                failure.at_ns as f64 / 1e9,
                failure.violation.property,
                failure.violation.detail
            );
            Ok(false)
        }
    }
}

//! The simulator's command line: run seeds, replay a failure, measure the checkers with mutants. See `sim/README.md`.

mod mutants;
mod pace;
mod report;
mod shrink;
mod worker;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use report::Total;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
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
    /// Run a scenario of `sim/scenarios`, and print every event
    Script {
        /// Its file.
        file: PathBuf,
        /// Other timings, sizes and loads.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// A bug that is put back (in a build with `--features mutants`).
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Put each known bug back and count the seeds until a checker finds it.
    Mutants(mutants::Hunt),
    /// Commit entries without faults or checks, for an instruction counter (`synod-perf baseline`).
    Drive(Drive),
    /// Run seeds for another process of this program.
    #[command(hide = true)]
    Worker(worker::Order),
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// For people.
    Text,
    /// For programs.
    Json,
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
    /// How long the faults of each run last, simulated seconds; the seed decides if not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7_200))]
    chaos_s: Option<u64>,
    /// Print every event (one seed only).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Where a failure's shrunk scenario goes.
    #[arg(long, default_value = "sim-failure.json")]
    out: PathBuf,
    /// Go on after a failure, and only list it.
    #[arg(long)]
    keep_going: bool,
    /// Worker processes.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Style,
}

#[derive(Debug, clap::Args)]
struct Drive {
    /// Entries in flight.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    outstanding: u16,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1_300))]
    size: u16,
    /// Entries to commit.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    entries: u64,
    /// Under memory durability.
    #[arg(long)]
    memory: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(order) => run(&order),
        Command::Replay { file, trace } => replay(&file, trace),
        Command::Script { file, seed, mutant } => script(&file, seed, mutant),
        Command::Mutants(hunt) => mutants::run(&hunt),
        Command::Drive(order) => drive(&order).map(|()| true),
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

fn drive(order: &Drive) -> anyhow::Result<()> {
    let load = synod_sim::drive::Load {
        outstanding: order.outstanding.into(),
        size: order.size.into(),
        entries: order.entries,
        memory: order.memory,
    };
    let driven = synod_sim::drive::drive(&load);
    println!("{}", serde_json::to_string(&driven)?);
    Ok(())
}

/// Runs seeds; false if one failed.
fn run(order: &Run) -> anyhow::Result<bool> {
    if order.trace {
        let seed = order.seed.context("--trace needs --seed")?;
        return one_traced(&worker::plan(seed, order.profile, order.chaos_s, None));
    }
    let first = match (order.seed, order.from) {
        (Some(seed), _) | (None, Some(seed)) => seed,
        (None, None) => fresh_seed()?,
    };
    let until = order.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes));
    let seeds = if order.seed.is_some() { 1 } else { order.seeds };
    if order.output == Style::Text {
        println!("profile {:?}, seeds from {first}, {} at a time", order.profile, order.jobs);
    }
    let end = if until.is_some() { u64::MAX } else { first + seeds };
    let batches = Batches { next: AtomicU64::new(first), end, until, profile: order.profile, chaos_s: order.chaos_s };
    let bar = progress(until.is_none().then_some(seeds));
    let mut total = Total::new(order.jobs);
    let stopped = batches.run(order.jobs, &mut |seed, verdict| match verdict {
        Verdict::Passed(passed) => {
            total.add(seed, &passed);
            bar.inc(1);
            bar.set_message(total.line());
            true
        }
        Verdict::Failed(failure) => {
            total.failed.push(seed);
            bar.suspend(|| eprintln!("seed {seed}: {}: {}", failure.violation.property, failure.violation.detail));
            order.keep_going
        }
    })?;
    bar.finish_and_clear();
    if let Some((seed, failure)) = stopped {
        report_failure(seed, failure, &order.out)?;
        return Ok(false);
    }
    match order.output {
        Style::Text => println!("{}", total.report(order.profile)),
        Style::Json => println!("{}", serde_json::to_string_pretty(&total.json(order.profile))?),
    }
    Ok(total.failed.is_empty())
}

/// Seeds to be run, handed out a batch at a time.
struct Batches {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
    profile: Profile,
    chaos_s: Option<u64>,
}

/// What a thread that supervises a worker tells.
type Told = anyhow::Result<(u64, Verdict)>;

impl Batches {
    /// Runs them in `jobs` worker processes; `on` gets each verdict and says whether to go on. The failure at which it did not.
    fn run(&self, jobs: usize, on: &mut dyn FnMut(u64, Verdict) -> bool) -> anyhow::Result<Option<(u64, Failure)>> {
        let stop = AtomicBool::new(false);
        let (send, receive) = mpsc::channel::<Told>();
        std::thread::scope(|scope| {
            for send in std::iter::repeat_n(send, jobs.max(1)) {
                scope.spawn(|| self.work(&stop, send));
            }
            for told in receive {
                let (seed, verdict) = told.inspect_err(|_| stop.store(true, Relaxed))?;
                let failure = match &verdict {
                    Verdict::Failed(failure) => Some(failure.clone()),
                    Verdict::Passed(_) => None,
                };
                if !on(seed, verdict) {
                    stop.store(true, Relaxed);
                    return Ok(failure.map(|failure| (seed, failure)));
                }
            }
            Ok(None)
        })
    }

    fn work(&self, stop: &AtomicBool, send: mpsc::Sender<Told>) {
        while let Some(order) = self.batch().filter(|_| !stop.load(Relaxed)) {
            let mut heard = true;
            let ended = worker::supervise(&order, &mut |seed, verdict| {
                heard = send.send(Ok((seed, verdict))).is_ok();
                heard && !stop.load(Relaxed)
            });
            if let Err(error) = ended {
                // Nobody listens any more if another thread was faster with its own.
                heard &= send.send(Err(error)).is_ok();
            }
            if !heard {
                return;
            }
        }
    }

    fn batch(&self) -> Option<worker::Order> {
        let first = self.next.fetch_add(BATCH, Relaxed);
        let due = self.until.is_none_or(|until| Instant::now() < until);
        let order = |count| worker::Order::seeds(first, count, self.profile).for_seconds(self.chaos_s);
        (due && first < self.end).then(|| order(BATCH.min(self.end - first)))
    }
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

fn script(file: &Path, seed: u64, mutant: Option<String>) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan = synod_sim::scenario(&text, seed).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    one_traced(&Plan { mutant, ..plan })
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

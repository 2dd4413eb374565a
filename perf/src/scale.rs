//! The command `scale`: how commits and memory change with the length of the log, the number of members, and the number of
//! groups. What is compared runs at the same time on the same machine, round by round: the longer log beside one that stays
//! short, five and seven members beside three.

use crate::cluster::Cluster;
use crate::load::{self, Pace, Plan};
use crate::product;
use crate::product::ProductClient;
use crate::scenario::{self, PATIENCE, ScenarioArgs, Stage, mib};
use crate::stats::{Spread, Summary};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::Duration;

/// Before this nothing counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// Arguments of `scale`.
#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// What grows.
    #[arg(long, value_enum, value_name = "WHAT,…", value_delimiter = ',', default_value = "length,members,groups")]
    what: Vec<What>,
    /// Entries in the log; the first is the one that the others are held against. 10^7 entries of 256 bytes are 3 GB for
    /// each node.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "100000,1000000,10000000")]
    entries: Vec<u64>,
    /// Members, each number in a cluster of its own.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "3,5,7")]
    members: Vec<u8>,
    /// Groups of each node, each number in a cluster of its own; every group has a client.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4")]
    groups: Vec<u8>,
    /// Entries in flight, of each client.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    outstanding: u16,
    /// Rounds; each measures everything once.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long each measurement of a round takes.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// Fail if the median latency at any length is longer than at the first by more than this factor.
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
    /// Fail if a node with one group is ever larger.
    #[arg(long, value_name = "MIB")]
    max_rss_mib: Option<f64>,
    /// Fail if a node grows by more from the first length to the last.
    #[arg(long, value_name = "MIB")]
    max_growth_mib: Option<f64>,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// The log.
    Length,
    /// The cluster.
    Members,
    /// The pipelines of each node.
    Groups,
}

/// One size of what grows.
#[derive(Debug, Serialize)]
struct Step {
    what: What,
    size: u64,
    rounds: Vec<Summary>,
    /// Divided by the first size's, of each round.
    p50_ratio: Spread,
    p99_ratio: Spread,
    rate_ratio: Spread,
    /// The largest node's.
    resident_mib: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    processors: usize,
    entry_bytes: usize,
    outstanding: u16,
    steps: Vec<Step>,
}

/// Measures and prints.
pub(crate) fn run(args: &ScaleArgs) -> anyhow::Result<()> {
    args.check()?;
    let mut stage = args.scenario.stage()?;
    let mut steps = Vec::new();
    for what in &args.what {
        steps.extend(match what {
            What::Length => lengths(args, &mut stage)?,
            What::Members => sizes(args, &mut stage, *what, &args.members)?,
            What::Groups => sizes(args, &mut stage, *what, &args.groups)?,
        });
    }
    let report = Report {
        processors: std::thread::available_parallelism().context("cannot count the processors")?.get(),
        entry_bytes: args.scenario.shape.size,
        outstanding: args.outstanding,
        steps,
    };
    scenario::print(args.scenario.output, &report, print)?;
    judge(args, &report.steps)
}

impl ScaleArgs {
    fn check(&self) -> anyhow::Result<()> {
        ensure!((0.1..=600.0).contains(&self.seconds), "--seconds is {}: choose 0.1 to 600", self.seconds);
        ensure!(!self.entries.is_empty() && self.entries.is_sorted(), "--entries: name numbers in ascending order");
        ensure!(self.members.iter().all(|members| (3..=7).contains(members)), "--members: choose 3 to 7");
        ensure!(self.groups.iter().all(|groups| (1..=64).contains(groups)), "--groups: choose 1 to 64");
        ensure!(!self.members.is_empty() && !self.groups.is_empty(), "--members and --groups: name at least one");
        Ok(())
    }

    fn plan(&self) -> Plan {
        let pace = Pace::Closed { outstanding: self.outstanding.into() };
        scenario::plan(pace, WARM_UP, Duration::from_secs_f64(self.seconds))
    }
}

/// One cluster stays at the first length, the other grows; both are measured at each length.
fn lengths(args: &ScaleArgs, stage: &mut Stage) -> anyhow::Result<Vec<Step>> {
    let spec = args.scenario.spec();
    let (mut short, mut long) = (stage.cluster(&spec)?, stage.cluster(&spec)?);
    grow(args, &mut short, args.entries[0])?;
    let mut steps = Vec::new();
    for entries in &args.entries {
        eprintln!("appending up to {entries} entries");
        grow(args, &mut long, *entries)?;
        let (mut first, mut rounds) = (Vec::new(), Vec::new());
        for number in 0..args.rounds {
            // Which comes first alternates, so that a drift of the machine favours neither.
            if number % 2 == 0 {
                first.push(measure(args, &mut short, 1)?);
                rounds.push(measure(args, &mut long, 1)?);
            } else {
                rounds.push(measure(args, &mut long, 1)?);
                first.push(measure(args, &mut short, 1)?);
            }
        }
        steps.push(step(What::Length, *entries, rounds, &first, &long)?);
        eprintln!("{}", line(&steps[steps.len() - 1]));
    }
    short.stop()?;
    long.stop()?;
    Ok(steps)
}

fn grow(args: &ScaleArgs, cluster: &mut Cluster, entries: u64) -> anyhow::Result<()> {
    let leader = cluster.await_in_step(PATIENCE)?;
    scenario::fill(cluster, &args.scenario, |cluster| Ok(scenario::log_entries(cluster, leader)? >= entries))
}

/// All clusters are up at once; each round measures every one.
fn sizes(args: &ScaleArgs, stage: &mut Stage, what: What, sizes: &[u8]) -> anyhow::Result<Vec<Step>> {
    let mut clusters = Vec::new();
    for size in sizes {
        let mut spec = args.scenario.spec();
        match what {
            What::Groups => spec.groups = *size,
            _ => spec.nodes = *size,
        }
        clusters.push(stage.cluster(&spec)?);
    }
    let mut rounds: Vec<Vec<Summary>> = vec![Vec::new(); sizes.len()];
    for number in 0..args.rounds as usize {
        for turn in 0..sizes.len() {
            let at = (turn + number) % sizes.len();
            let groups = if what == What::Groups { sizes[at] } else { 1 };
            rounds[at].push(measure(args, &mut clusters[at], groups)?);
        }
        eprintln!("{what:?}, round {} of {}", number + 1, args.rounds);
    }
    let first = rounds[0].clone();
    let mut steps = Vec::new();
    for ((size, rounds), cluster) in sizes.iter().zip(rounds).zip(&clusters) {
        steps.push(step(what, (*size).into(), rounds, &first, cluster)?);
    }
    clusters.into_iter().try_for_each(Cluster::stop)?;
    Ok(steps)
}

fn measure(args: &ScaleArgs, cluster: &mut Cluster, groups: u8) -> anyhow::Result<Summary> {
    let setup = args.scenario.client(args.outstanding.into());
    let mut clients: Vec<ProductClient> = product::connect_groups(cluster, groups, &setup)?;
    let measured = load::run_beside(&mut clients, &args.plan());
    cluster.check()?;
    Ok(measured?.summary())
}

fn step(what: What, size: u64, rounds: Vec<Summary>, first: &[Summary], cluster: &Cluster) -> anyhow::Result<Step> {
    let ratio =
        |of: fn(&Summary) -> f64| Spread::of(rounds.iter().zip(first).map(|(here, first)| of(here) / of(first)));
    let resident = scenario::resident_bytes(&cluster.processes())?;
    Ok(Step {
        what,
        size,
        p50_ratio: ratio(|side| side.p50_us),
        p99_ratio: ratio(|side| side.p99_us),
        rate_ratio: ratio(|side| side.per_second),
        resident_mib: resident.into_iter().map(mib).fold(0.0, f64::max),
        rounds,
    })
}

fn judge(args: &ScaleArgs, steps: &[Step]) -> anyhow::Result<()> {
    let lengths: Vec<&Step> = steps.iter().filter(|step| step.what == What::Length).collect();
    for Step { size, p50_ratio, .. } in &lengths {
        let ratio = p50_ratio.median;
        if let Some(limit) = args.max_ratio {
            ensure!(ratio <= limit, "at {size} entries the median is {ratio:.2} times the first; the limit is {limit}");
        }
    }
    for Step { what, size, resident_mib, .. } in steps {
        let one_group = *what != What::Groups || *size == 1;
        if let Some(limit) = args.max_rss_mib.filter(|_| one_group) {
            ensure!(
                *resident_mib <= limit,
                "{what:?} {size}: a node takes {resident_mib:.0} MiB; the limit is {limit}"
            );
        }
    }
    if let (Some(limit), [first, .., last]) = (args.max_growth_mib, &lengths[..]) {
        let grown = last.resident_mib - first.resident_mib;
        ensure!(grown <= limit, "a node grew by {grown:.1} MiB up to {} entries; the limit is {limit}", last.size);
    }
    Ok(())
}

fn line(step: &Step) -> String {
    let Step { what, size, p50_ratio, p99_ratio, rate_ratio, resident_mib, rounds } = step;
    let p50 = Spread::of(rounds.iter().map(|round| round.p50_us)).median;
    let rate = Spread::of(rounds.iter().map(|round| round.per_second)).median;
    let what = format!("{what:?} {size}");
    let ratio = |spread: &Spread| format!("{:.2} ({:.2}–{:.2})", spread.median, spread.min, spread.max);
    let (p50_ratio, p99_ratio, rate_ratio) = (ratio(p50_ratio), ratio(p99_ratio), ratio(rate_ratio));
    format!("{what:<18} {p50:>9.1} {rate:>9.0} {p50_ratio:>18} {p99_ratio:>18} {rate_ratio:>18} {resident_mib:>7.0}")
}

fn print(report: &Report) {
    let Report { processors, entry_bytes, outstanding, steps } = report;
    println!("{processors} processors, entries of {entry_bytes} bytes, {outstanding} outstanding for each client");
    println!("ratios to the first size of the same kind, by rounds: median (least–greatest)\n");
    let (p50, p99, rate) = ("p50 ratio", "p99 ratio", "rate ratio");
    println!("{:<18} {:>9} {:>9} {p50:>18} {p99:>18} {rate:>18} {:>7}", "", "p50 µs", "ops/s", "RSS MiB");
    steps.iter().for_each(|step| println!("{}", line(step)));
}

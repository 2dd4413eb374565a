//! The command `catchup`: a follower is down while the log grows, and comes back under load. Tells how long it takes to be
//! in step, and what the commits of the others cost meanwhile, against the same load while it was down.

use crate::cluster::Cluster;
use crate::load::{self, Pace};
use crate::product::ProductClient;
use crate::report;
use crate::scenario::{self, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs};
use crate::stats::{Spread, Summary};
use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Before this nothing counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// Arguments of `catchup`.
#[derive(Args, Debug)]
pub(crate) struct CatchupArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// By how much the log grows while the node is down. More than `wal.arena_bytes` is read from the disk.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    lag_mib: u64,
    /// Entries a second, before and during.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=50_000))]
    rate: u64,
    /// How long the load is measured before the node comes back.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often all of it.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fail if the commits' p99 during the catch-up is longer than before by more than this factor (median of the rounds).
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
    /// Fail if the median catch-up takes longer.
    #[arg(long, value_name = "S")]
    max_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Round {
    /// From exec until the node has applied what the leader knew chosen.
    in_step_s: f64,
    before: Summary,
    during: Summary,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    rate: u64,
    size: usize,
    lag_mib: u64,
    in_step_s: Spread,
    /// During divided by before, of each round.
    p50_ratio: Spread,
    p99_ratio: Spread,
    rounds: Vec<Round>,
}

/// Measures and prints.
pub(crate) fn run(args: &CatchupArgs) -> anyhow::Result<()> {
    let mut stage = args.scenario.stage()?;
    let mut cluster = stage.cluster(&args.scenario.spec())?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let round = round(args, &mut cluster)?;
        let (before, during) = (round.before.p99_us, round.during.p99_us);
        eprintln!("round {number}: in step after {:.2} s; p99 {before:.0} µs, then {during:.0} µs", round.in_step_s);
        rounds.push(round);
    }
    cluster.stop()?;
    let report = Report {
        nodes: args.scenario.nodes,
        rate: args.rate,
        size: args.scenario.shape.size,
        lag_mib: args.lag_mib,
        in_step_s: Spread::of(rounds.iter().map(|round| round.in_step_s)),
        p50_ratio: Spread::of(rounds.iter().map(|round| round.during.p50_us / round.before.p50_us)),
        p99_ratio: Spread::of(rounds.iter().map(|round| round.during.p99_us / round.before.p99_us)),
        rounds,
    };
    scenario::print(args.scenario.output, &report, print)?;
    let (ratio, took) = (report.p99_ratio.median, report.in_step_s.median);
    if let Some(limit) = args.max_ratio {
        ensure!(ratio <= limit, "the p99 is {ratio:.2} times that before; the limit is {limit}");
    }
    if let Some(limit) = args.max_seconds {
        ensure!(took <= limit, "the catch-up takes {took:.2} s; the limit is {limit}");
    }
    Ok(())
}

fn round(args: &CatchupArgs, cluster: &mut Cluster) -> anyhow::Result<Round> {
    let (node, _) = scenario::leave_behind(cluster, &args.scenario, args.lag_mib)?;
    let mut client = ProductClient::connect(cluster, &args.scenario.client(MOST_IN_FLIGHT))?;
    let pace = Pace::Open { rate: args.rate, window: MOST_IN_FLIGHT };
    let before = scenario::plan(pace, WARM_UP, Duration::from_secs(args.seconds));
    let before = load::run(&mut client, &before)?.summary();
    let (during, in_step_s) = load::beside(&mut client, &scenario::steady(args.rate), || {
        let start = Instant::now();
        cluster.restart(node)?;
        cluster.await_in_step(PATIENCE)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(Round { in_step_s, before, during: during.summary() })
}

fn print(report: &Report) {
    let Report { nodes, rate, size, lag_mib, in_step_s, p50_ratio, p99_ratio, rounds } = report;
    println!("{nodes} nodes, {rate} entries of {size} bytes a second, a follower {lag_mib} MiB behind\n");
    println!("{}", report::heading("load"));
    for round in rounds {
        println!("{}", report::line("before, the node down", &round.before));
        println!("{}", report::line("during the catch-up", &round.during));
    }
    println!("{}", report::spread("until it is in step, s", in_step_s));
    println!("{}", report::spread("during / before, p50", p50_ratio));
    println!("{}", report::spread("during / before, p99", p99_ratio));
}

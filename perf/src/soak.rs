//! The command `soak`: a constant rate for a long time. Every interval tells rate, latency, memory and log; at the end the
//! log of every node is read back. Fails on a loss, a missed rate, or memory that grows.

use crate::audit::{self, Verdict};
use crate::cluster::Cluster;
use crate::load::{self, Pace};
use crate::product::ProductClient;
use crate::report;
use crate::scenario::{self, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs, mib};
use crate::stats::Summary;
use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Arguments of `soak`.
#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Entries a second.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    rate: u64,
    /// How long one line stands for.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Fail if a node's resident size grows by more after the first quarter.
    #[arg(long, value_name = "MIB", default_value_t = 16.0)]
    max_growth_mib: f64,
    /// Fail if a node's resident size is ever larger.
    #[arg(long, value_name = "MIB")]
    max_rss_mib: Option<f64>,
}

/// One line.
#[derive(Debug, Serialize)]
struct Interval {
    elapsed_s: f64,
    load: Summary,
    /// Of each node.
    resident_mib: Vec<f64>,
    log_mib: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    rate: u64,
    size: usize,
    growth_mib: f64,
    largest_mib: f64,
    logs: Vec<Verdict>,
    intervals: Vec<Interval>,
}

/// Measures and prints.
pub(crate) fn run(args: &SoakArgs) -> anyhow::Result<()> {
    ensure!((0.01..=100_000.0).contains(&args.minutes), "--minutes is {}: choose 0.01 to 100000", args.minutes);
    let mut stage = args.scenario.stage()?;
    let mut cluster = stage.cluster(&args.scenario.spec())?;
    let mut client = ProductClient::connect(&mut cluster, &args.scenario.client(MOST_IN_FLIGHT))?;
    client.keep_journal(false)?;
    let intervals = intervals(args, &mut cluster, &mut client)?;
    cluster.await_in_step(PATIENCE)?;
    let logs = audit::read_back(&cluster, client.journal()?)?;
    cluster.stop()?;
    let resident: Vec<&[f64]> = intervals.iter().map(|interval| &interval.resident_mib[..]).collect();
    let report = Report {
        nodes: args.scenario.nodes,
        rate: args.rate,
        size: args.scenario.shape.size,
        growth_mib: growth(&resident),
        largest_mib: resident.iter().flat_map(|nodes| nodes.iter()).fold(0.0, |most, mib| most.max(*mib)),
        logs,
        intervals,
    };
    scenario::print(args.scenario.output, &report, print)?;
    judge(args, &report)
}

fn intervals(args: &SoakArgs, cluster: &mut Cluster, client: &mut ProductClient) -> anyhow::Result<Vec<Interval>> {
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let pace = Pace::Open { rate: args.rate, window: MOST_IN_FLIGHT };
    let start = Instant::now();
    let mut intervals: Vec<Interval> = Vec::new();
    eprintln!("{}", report::heading("elapsed"));
    while start.elapsed() < length {
        let slice = Duration::from_secs(args.interval).min(length.saturating_sub(start.elapsed()));
        let measured = load::run(client, &scenario::plan(pace, Duration::ZERO, slice.max(Duration::from_millis(100))));
        cluster.check()?;
        let load = measured?.summary();
        let resident = scenario::resident_bytes(&cluster.processes())?;
        let interval = Interval {
            elapsed_s: start.elapsed().as_secs_f64(),
            load,
            resident_mib: resident.into_iter().map(mib).collect(),
            log_mib: cluster.status().iter().map(|status| mib(status.durable_bytes)).fold(0.0, f64::max),
        };
        eprintln!("{}", line(&interval));
        intervals.push(interval);
    }
    Ok(intervals)
}

/// How much any node's last size is above its size after the first quarter, by when all its pools were used once.
fn growth(resident: &[&[f64]]) -> f64 {
    let (Some(last), Some(early)) = (resident.last(), resident.get(resident.len() / 4)) else { return 0.0 };
    last.iter().zip(early.iter()).map(|(last, early)| last - early).fold(f64::MIN, f64::max)
}

fn judge(args: &SoakArgs, report: &Report) -> anyhow::Result<()> {
    report.logs.iter().try_for_each(Verdict::check)?;
    let (grown, limit) = (report.growth_mib, args.max_growth_mib);
    ensure!(grown <= limit, "a node grew by {grown:.1} MiB after the first quarter; the limit is {limit}");
    if let Some(limit) = args.max_rss_mib {
        ensure!(report.largest_mib <= limit, "a node took {:.0} MiB; the limit is {limit}", report.largest_mib);
    }
    let missed = report.intervals.iter().filter(|interval| interval.load.missed.is_some()).count();
    ensure!(missed == 0, "the rate was not kept in {missed} of {} intervals", report.intervals.len());
    Ok(())
}

fn line(interval: &Interval) -> String {
    let resident: Vec<String> = interval.resident_mib.iter().map(|mib| format!("{mib:.0}")).collect();
    let what = format!("{:.0} s, {} MiB, log {:.0}", interval.elapsed_s, resident.join("/"), interval.log_mib);
    report::line(&what, &interval.load)
}

fn print(report: &Report) {
    let Report { nodes, rate, size, growth_mib, largest_mib, logs, intervals } = report;
    println!("{nodes} nodes, {rate} entries of {size} bytes a second, {} intervals", intervals.len());
    println!("{}", report::heading("elapsed, resident, log MiB"));
    intervals.iter().for_each(|interval| println!("{}", line(interval)));
    println!("largest node {largest_mib:.1} MiB, growth after the first quarter {growth_mib:.1} MiB");
    for log in logs {
        let Verdict { node, acknowledged, lost, duplicated, .. } = log;
        println!("node {node}: acknowledged {acknowledged}, lost {lost}, duplicated {duplicated}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_worst_node_after_the_first_quarter() {
        let sizes: [[f64; 2]; 5] = [[10.0, 10.0], [50.0, 20.0], [50.0, 21.0], [50.0, 24.0], [49.0, 27.0]];
        let sizes: Vec<&[f64]> = sizes.iter().map(|nodes| &nodes[..]).collect();
        assert_eq!(growth(&sizes), 7.0);
        assert_eq!(growth(&[]), 0.0);
    }
}

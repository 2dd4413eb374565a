//! The command `retention`: so many entries under `retention.max_bytes`, the disk that the nodes' logs take meanwhile, and how long a
//! node that is killed then needs to come back.

use crate::cluster::Cluster;
use crate::load::{self, Pace, Plan};
use crate::product::ProductClient;
use crate::recovery;
use crate::report;
use crate::scenario::{self, LONGEST_SCENE, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs, mib};
use crate::stats::{Spread, Summary};
use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use synod_client::Counter;

/// Arguments of `retention`.
#[derive(Args, Debug)]
pub(crate) struct RetentionArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Entries.
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    entries: u64,
    /// Entries a second. Snapshots, without which nothing leaves the disk, are made by threads of low priority: where the load leaves
    /// them no processor, they come behind.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// `retention.max_bytes`.
    #[arg(long, value_name = "MIB", default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(32..))]
    max_mib: u64,
    /// `wal.segment_bytes`.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=4_096))]
    segment_mib: u64,
    /// How long one line stands for.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Restarts at the end.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fail if the segments of any node ever take more than `max_mib` and two segments, the one that is written and the one prepared
    /// ahead of it.
    #[arg(long)]
    strict: bool,
}

/// One line.
#[derive(Debug, Serialize)]
struct Interval {
    elapsed_s: f64,
    entries: u64,
    /// Of each node: its segments, and its snapshots.
    segments_mib: Vec<f64>,
    snapshots_mib: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    size: usize,
    max_mib: u64,
    /// What a node's segments ever took, as far as it was looked at.
    most_mib: f64,
    first_sequence: u64,
    entries: u64,
    load: Summary,
    answer_s: Spread,
    in_step_s: Spread,
    intervals: Vec<Interval>,
}

/// Measures and prints.
pub(crate) fn run(args: &RetentionArgs) -> anyhow::Result<()> {
    ensure!(args.max_mib >= 8 * args.segment_mib, "--max-mib: at least 8 segments");
    let mut stage = args.scenario.stage()?;
    let mut spec = args.scenario.spec();
    spec.settings.push(("wal", "segment_bytes", args.segment_mib << 20));
    spec.settings.push(("retention", "max_bytes", args.max_mib << 20));
    let mut cluster = stage.cluster(&spec)?;
    let mut client = ProductClient::connect(&mut cluster, &args.scenario.client(MOST_IN_FLIGHT))?;
    let pace = Pace::Open { rate: args.rate, window: MOST_IN_FLIGHT };
    let plan = Plan { pace, warm_up: Duration::ZERO, measure: LONGEST_SCENE };
    let (measured, intervals) = load::beside(&mut client, &plan, || intervals(args, &mut cluster))?;
    let leader = cluster.await_in_step(PATIENCE)?;
    let entries = scenario::log_entries(&cluster, leader)?;
    let mut restarts = Vec::new();
    for _ in 0..args.rounds {
        restarts.push(recovery::restart(&mut cluster)?);
    }
    let status = cluster.status_of(leader, PATIENCE).context("the leader is silent")?;
    cluster.stop()?;
    let of_all = intervals.iter().flat_map(|interval| interval.segments_mib.iter());
    let report = Report {
        nodes: args.scenario.nodes,
        size: args.scenario.shape.size,
        max_mib: args.max_mib,
        most_mib: of_all.fold(0.0, |most, mib| most.max(*mib)),
        first_sequence: status.counter(Counter::FirstSequence).unwrap_or(0),
        entries,
        load: measured.summary(),
        answer_s: Spread::of(restarts.iter().map(|restart| restart.follower_s)),
        in_step_s: Spread::of(restarts.iter().map(|restart| restart.in_step_s)),
        intervals,
    };
    scenario::print(args.scenario.output, &report, print)?;
    let (most, limit) = (report.most_mib, (args.max_mib + 2 * args.segment_mib) as f64);
    ensure!(!args.strict || most <= limit, "a node's segments took {most:.0} MiB; the limit is {limit:.0}");
    Ok(())
}

/// Until enough is appended.
fn intervals(args: &RetentionArgs, cluster: &mut Cluster) -> anyhow::Result<Vec<Interval>> {
    let start = Instant::now();
    let mut intervals = Vec::new();
    loop {
        scenario::wait(Duration::from_secs(args.interval))?;
        cluster.check()?;
        let entries = cluster.status().iter().map(|status| status.tail.0).max().unwrap_or(0);
        let (mut segments_mib, mut snapshots_mib) = (Vec::new(), Vec::new());
        for (node, _) in &cluster.members {
            let dir = cluster.directory(*node)?.join("group-000");
            segments_mib.push(mib(files_bytes(&dir, "seg")?));
            snapshots_mib.push(mib(files_bytes(&dir, "snap")?));
        }
        let interval = Interval { elapsed_s: start.elapsed().as_secs_f64(), entries, segments_mib, snapshots_mib };
        eprintln!("{}", line(&interval));
        intervals.push(interval);
        if entries >= args.entries {
            return Ok(intervals);
        }
    }
}

fn files_bytes(dir: &Path, extension: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|found| found == extension) {
            // One that is removed between the two calls takes nothing.
            bytes += entry.metadata().map_or(0, |meta| meta.len());
        }
    }
    Ok(bytes)
}

fn line(interval: &Interval) -> String {
    let Interval { elapsed_s, entries, segments_mib, snapshots_mib } = interval;
    let list = |mib: &[f64]| mib.iter().map(|mib| format!("{mib:.0}")).collect::<Vec<_>>().join("/");
    let (segments, snapshots) = (list(segments_mib), list(snapshots_mib));
    format!("{elapsed_s:>6.0} s {entries:>10} entries, segments {segments} MiB, snapshots {snapshots} MiB")
}

fn print(report: &Report) {
    let Report { nodes, size, max_mib, most_mib, first_sequence, entries, load, answer_s, in_step_s, intervals } =
        report;
    println!("{nodes} nodes, {entries} entries of {size} bytes, retention.max_bytes {max_mib} MiB\n");
    intervals.iter().for_each(|interval| println!("{}", line(interval)));
    println!("\nsegments of a node took {most_mib:.0} MiB at most; entries before {first_sequence} were trimmed");
    println!("{}", report::heading("load"));
    println!("{}", report::line("all of it", load));
    println!("{}", report::spread("restart: from exec to the answer of a follower, s", answer_s));
    println!("{}", report::spread("restart: until it is in step, s", in_step_s));
}

//! The command `floor`: what this machine can do at best, from a datagram to a replicated durable append. Everything runs
//! on the product's reactor and waits as the product does.

use crate::environment::Environment;
use crate::files::{self, BLOCK_BYTES};
use crate::host::{Host, Usage, Watch};
use crate::load::{self, Pace, Plan, Target};
use crate::options::{RoundArgs, ShapeArgs, Style, WaitArgs};
use crate::output::{self, Series, Sheet};
use crate::packets::{self, Packets};
use crate::report;
use crate::skeleton::{Logs, Setup, Skeleton, Work};
use crate::stats::{Measured, Spread, Summary};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use synod::measure::disk::{Disk, Shape};
use synod_ring::LogWriter;

/// Arguments of `floor`.
#[derive(Args, Debug)]
pub(crate) struct FloorArgs {
    #[command(flatten)]
    rounds: RoundArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    wait: WaitArgs,
    /// Leader and followers of the skeleton.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: u8,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    /// Client to leader and back.
    RoundTrip,
    /// One write of a block at a time.
    Write,
    /// The skeleton, with or without writes.
    Skeleton { outstanding: usize, durable: bool },
}

impl Item {
    fn name(self) -> String {
        match self {
            Item::RoundTrip => "datagram round trip".into(),
            Item::Write => format!("durable write of {BLOCK_BYTES} bytes"),
            Item::Skeleton { outstanding, durable: true } => format!("skeleton, {outstanding} outstanding"),
            Item::Skeleton { outstanding, durable: false } => {
                format!("skeleton without writes, {outstanding} outstanding")
            }
        }
    }
}

/// What was measured of one thing.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    outstanding: usize,
    rounds: Vec<Summary>,
    overall: Summary,
    /// Of the rounds' medians.
    p50_us: Spread,
    /// What the processes did in the last round, the client first, the leader next.
    work: Vec<Work>,
    /// The whole distribution, for `--report`.
    #[serde(skip)]
    measured: Measured,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    wait: String,
    size: usize,
    entries_per_datagram: usize,
    nodes: u8,
    rows: Vec<Row>,
    packets: Vec<packets::Row>,
}

/// Measures and prints.
pub(crate) fn run(args: &FloorArgs) -> anyhow::Result<()> {
    args.rounds.check()?;
    args.shape.check()?;
    let dir = files::directory(args.rounds.dir.as_deref())?;
    let logs = Logs::prepare(dir.path(), usize::from(args.nodes))?;
    let skeletons = args
        .rounds
        .outstanding
        .iter()
        .flat_map(|outstanding| [false, true].map(|durable| Item::Skeleton { outstanding: *outstanding, durable }));
    let items: Vec<Item> = [Item::RoundTrip, Item::Write].into_iter().chain(skeletons).collect();
    let mut found: Vec<(Vec<Measured>, Vec<Work>)> = items.iter().map(|_| (Vec::new(), Vec::new())).collect();
    let mut packets = Packets::default();
    for round in 0..args.rounds.rounds {
        for (item, (rounds, work)) in items.iter().zip(&mut found) {
            let (measured, did) = measure(*item, args, dir.path(), &logs).with_context(|| item.name())?;
            if args.rounds.output == Style::Text {
                eprintln!("round {}: {}", round + 1, report::line(&item.name(), &measured.summary()));
            }
            rounds.push(measured);
            *work = did;
        }
        packets.round(args.wait, args.rounds.measure())?;
    }
    let rows = items.iter().zip(found).map(|(item, (rounds, work))| row(*item, &rounds, work)).collect();
    let report = Report {
        host: Host::here()?,
        wait: format!("{:?}", args.wait.mode()),
        size: args.shape.size,
        entries_per_datagram: args.shape.per_datagram(),
        nodes: args.nodes,
        rows,
        packets: packets.rows(),
    };
    print(&report, args.rounds.output)?;
    match &args.rounds.report {
        Some(to) => output::write(to, &sheet(&report, Environment::of(dir.path(), None)?)?),
        None => Ok(()),
    }
}

/// The report's part of what was measured: one level for each number in flight.
fn sheet(report: &Report, environment: Environment) -> anyhow::Result<Sheet> {
    let mut levels: Vec<output::Level> = Vec::new();
    for row in &report.rows {
        let name = format!("{} outstanding", row.outstanding);
        let what = row.what.split(',').next().unwrap_or(&row.what);
        let series = Series { name: what.into(), measured: row.measured.clone() };
        match levels.iter_mut().find(|level| level.name == name) {
            Some(level) => level.series.push(series),
            None => levels.push(output::Level { name, series: vec![series], ratios: Vec::new(), stages: Vec::new() }),
        }
    }
    let title = format!("The floor: {} nodes, entries of {} bytes", report.nodes, report.size);
    let results = serde_json::to_value(report).context("a report is no JSON")?;
    Ok(Sheet { title, environment, levels, results })
}

fn measure(item: Item, args: &FloorArgs, dir: &Path, logs: &Logs) -> anyhow::Result<(Measured, Vec<Work>)> {
    let outstanding = if let Item::Skeleton { outstanding, .. } = item { outstanding } else { 1 };
    let plan =
        Plan { pace: Pace::Closed { outstanding }, warm_up: args.rounds.warm_up(), measure: args.rounds.measure() };
    let (nodes, durable) = match item {
        Item::Write => {
            let mut disk = OneWrite::open(dir, args.wait)?;
            let measured = load::run(&mut disk, &plan)?;
            return Ok((measured, vec![disk.disk.stats().into()]));
        }
        Item::RoundTrip => (1, false),
        Item::Skeleton { durable, .. } => (usize::from(args.nodes), durable),
    };
    let run = run_skeleton(&Setup { nodes, durable, shape: args.shape, wait: args.wait }, logs, &plan)?;
    Ok((run.measured, run.work))
}

/// What a skeleton was measured to do.
pub(crate) struct SkeletonRun {
    pub(crate) measured: Measured,
    /// Of its processes, the client first, the leader next.
    pub(crate) work: Vec<Work>,
    /// The processors it used, the client included, and others.
    pub(crate) usage: Usage,
}

/// Starts a skeleton, measures it, ends it.
pub(crate) fn run_skeleton(setup: &Setup, logs: &Logs, plan: &Plan) -> anyhow::Result<SkeletonRun> {
    let (skeleton, mut client) = Skeleton::start(setup, logs)?;
    let processes = skeleton.processes();
    let watch = Watch::start(&processes)?;
    let measured = load::run(&mut client, plan)?;
    let usage = watch.stop(&processes, Host::here()?.processors)?;
    let mut work = vec![client.work()];
    work.extend(skeleton.stop()?);
    Ok(SkeletonRun { measured, work, usage })
}

fn row(item: Item, rounds: &[Measured], work: Vec<Work>) -> Row {
    let mut all = Measured::new();
    rounds.iter().for_each(|round| all.add(round));
    let rounds: Vec<Summary> = rounds.iter().map(Measured::summary).collect();
    Row {
        what: item.name(),
        outstanding: if let Item::Skeleton { outstanding, .. } = item { outstanding } else { 1 },
        p50_us: Spread::of(rounds.iter().map(|round| round.p50_us)),
        overall: all.summary(),
        rounds,
        work,
        measured: all,
    }
}

fn print(report: &Report, style: Style) -> anyhow::Result<()> {
    if style == Style::Json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let Report { host, wait, size, entries_per_datagram, nodes, rows, packets } = report;
    println!("kernel {}, {} processors; {wait}", host.kernel, host.processors);
    println!("entries of {size} bytes, up to {entries_per_datagram} a datagram; {nodes} nodes, a majority durable\n");
    println!("{}   p50 of the rounds", report::heading(""));
    for row in rows {
        let Spread { min, max, .. } = row.p50_us;
        println!("{}   {min:.1} to {max:.1}", report::line(&row.what, &row.overall));
    }
    print!("\n{}", packets::text(packets));
    Ok(())
}

/// A disk as a target of load: each entry is one durable write of one block.
struct OneWrite {
    disk: Disk,
    ended: Vec<u64>,
}

impl OneWrite {
    fn open(dir: &Path, wait: WaitArgs) -> anyhow::Result<OneWrite> {
        let path = dir.join("write.log");
        if !path.exists() {
            files::prepare_log(&path)?;
        }
        let shape = Shape { block_bytes: BLOCK_BYTES, depth: 1 };
        let disk = Disk::open(files::open_log(&path)?, shape, LogWriter::Ring, wait.mode())?;
        Ok(OneWrite { disk, ended: Vec::new() })
    }
}

impl Target for OneWrite {
    fn offer(&mut self) -> anyhow::Result<bool> {
        Ok(self.disk.begin(0))
    }

    fn poll(&mut self, max_wait: Duration) -> anyhow::Result<u64> {
        self.disk.reap(max_wait, &mut self.ended)?;
        Ok(self.ended.drain(..).count() as u64)
    }
}

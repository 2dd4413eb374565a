//! The command `profile`: where a node's time goes while entries are committed, with what a virtual machine allows: samples
//! by a timer, not by the processor's counters. Each question is put in a run of its own, so that no answer disturbs
//! another: samples (`perf`, a flame graph), the scheduler's account of each thread, system calls (strace).
//!
//! Instructions of a commit: see `baseline`. What a tool that is missing would have told is told as absent.

mod sampler;
mod threads;

use crate::bench::Durability;
use crate::cluster::{self, Cluster};
use crate::environment::Environment;
use crate::files;
use crate::load::{self, Pace, Plan};
use crate::options::{ShapeArgs, Style};
use crate::product::{ClientSetup, ProductClient};
use crate::trace;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_wire::client::role;
use threads::{Account, ThreadTimes};

/// Arguments of `profile`.
#[derive(Args, Debug)]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    shape: ShapeArgs,
    /// Whose time.
    #[arg(long, value_enum, default_value = "leader")]
    node: Whose,
    /// Entries in flight.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    outstanding: u16,
    /// How long each of the runs takes.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Samples a second of each thread that runs.
    #[arg(long, value_name = "HZ", default_value_t = 997, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,
    /// Nodes of the cluster.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=7))]
    nodes: u8,
    /// Where the flame graph, the folded stacks and the figures go.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the logs lie: a real disk.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// Whose time is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whose {
    /// The node that leads.
    Leader,
    /// One that follows.
    Follower,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Whose::Leader => "leader",
            Whose::Follower => "follower",
        }
    }
}

/// A run's answer, or why there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    /// What was found.
    Found(T),
    /// The tool is missing, or cannot work here.
    Absent(String),
}

impl<T> Answer<T> {
    fn of(told: anyhow::Result<T>) -> Answer<T> {
        told.map_or_else(|error| Answer::Absent(format!("{error:#}")), Answer::Found)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    environment: Environment,
    outstanding: u16,
    size: usize,
    /// Entries a second of the run that no tool disturbed.
    entries_per_second: f64,
    /// Where processor time went: parts of all samples, by function, the most first.
    samples: Answer<Vec<sampler::Row>>,
    /// By thread, for each entry.
    threads: Vec<ThreadTimes>,
    /// For each entry.
    system_calls: Answer<BTreeMap<String, f64>>,
}

/// Measures, writes and prints.
pub(crate) fn run(args: &ProfileArgs) -> anyhow::Result<()> {
    args.shape.check()?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let dir = files::directory(args.dir.as_deref())?;
    let cluster = Cluster::start(
        &cluster::program(args.synod.as_deref())?,
        dir.path(),
        args.nodes,
        &args.shape,
        Durability::Disk,
    )?;
    let environment = Environment::of(dir.path(), cluster.config())?;
    let mut profile = Profile::new(args, cluster)?;
    let (threads, entries_per_second) = profile.threads()?;
    let samples = Answer::of(profile.samples(dir.path()));
    let system_calls = Answer::of(profile.system_calls(dir.path()));
    profile.cluster.stop()?;
    let size = args.shape.size;
    let report =
        Report { environment, outstanding: args.outstanding, size, entries_per_second, samples, threads, system_calls };
    let json = serde_json::to_string_pretty(&report)?;
    let file = args.out.join("profile.json");
    std::fs::write(&file, &json).with_context(|| format!("cannot write {}", file.display()))?;
    match args.output {
        Style::Json => println!("{json}"),
        Style::Text => print(&report, &args.out),
    }
    Ok(())
}

/// A cluster under load, and the node that is looked at.
struct Profile<'a> {
    args: &'a ProfileArgs,
    cluster: Cluster,
    client: ProductClient,
    process: u32,
}

impl Profile<'_> {
    fn new(args: &ProfileArgs, mut cluster: Cluster) -> anyhow::Result<Profile<'_>> {
        let setup =
            ClientSetup { shape: args.shape, window: args.outstanding.into(), spin: Duration::from_micros(500) };
        let client = ProductClient::connect(&mut cluster, &setup)?;
        let wanted = if args.node == Whose::Leader { role::LEADER } else { role::FOLLOWER };
        let process = process_of(&cluster, wanted)?;
        Ok(Profile { args, cluster, client, process })
    }

    /// Load for as long as a run takes; the entries that were committed meanwhile.
    fn load(&mut self) -> anyhow::Result<u64> {
        let before = self.committed();
        let pace = Pace::Closed { outstanding: self.args.outstanding.into() };
        let plan = Plan { pace, warm_up: Duration::ZERO, measure: Duration::from_secs(self.args.seconds) };
        let loaded = load::run(&mut self.client, &plan);
        self.cluster.check()?;
        loaded?;
        let entries = self.committed().saturating_sub(before);
        ensure!(entries > 0, "nothing was committed");
        Ok(entries)
    }

    fn committed(&self) -> u64 {
        self.cluster.status().iter().map(|status| status.tail.0).max().unwrap_or(0)
    }

    fn threads(&mut self) -> anyhow::Result<(Vec<ThreadTimes>, f64)> {
        self.progress("the scheduler's account");
        let before = Account::of(self.process)?;
        let entries = self.load()?;
        let after = Account::of(self.process)?;
        Ok((after.since(&before, entries), entries as f64 / self.args.seconds as f64))
    }

    fn samples(&mut self, scratch: &Path) -> anyhow::Result<Vec<sampler::Row>> {
        self.progress("samples");
        let sampler = sampler::Sampler::start(self.process, self.args.frequency, scratch)?;
        self.load()?;
        let title = format!("synod, a {}, {} outstanding", self.args.node.name(), self.args.outstanding);
        sampler.finish(&title, &self.args.out)
    }

    fn system_calls(&mut self, scratch: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
        self.progress("system calls");
        let calls = trace::Calls::attach(self.process, scratch)?;
        let entries = self.load()? as f64;
        Ok(calls.finish()?.into_iter().map(|(call, count)| (call, count as f64 / entries)).collect())
    }

    fn progress(&self, what: &str) {
        if self.args.output == Style::Text {
            eprintln!("{what}: {} s", self.args.seconds);
        }
    }
}

/// The process of the first node that has a role; nodes are numbered in the order of their starts.
pub(crate) fn process_of(cluster: &Cluster, wanted: u8) -> anyhow::Result<u32> {
    let found = cluster.status().into_iter().find(|status| status.role == wanted).context("no node has that role")?;
    cluster.processes().get(usize::from(found.node.0)).copied().context("a node that was not started here")
}

fn print(report: &Report, out: &Path) {
    let Report { outstanding, size, entries_per_second, samples, threads, system_calls, .. } = report;
    println!("{outstanding} outstanding, {size} bytes: {entries_per_second:.0} entries a second\n");
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>10}",
        "thread, for each entry", "runs µs", "waits µs", "sleeps", "preempted"
    );
    for thread in threads {
        let ThreadTimes { name, runs_us, waits_us, sleeps, preempted } = thread;
        println!("{name:<24} {runs_us:>10.2} {waits_us:>10.2} {sleeps:>10.3} {preempted:>10.3}");
    }
    println!("\nprocessor time by function, its own");
    match samples {
        Answer::Found(rows) => {
            rows.iter().take(25).for_each(|row| println!("{:>6.1} %  {}", 100.0 * row.part, row.function))
        }
        Answer::Absent(why) => println!("absent: {why}"),
    }
    println!("\nsystem calls for each entry, under strace");
    match system_calls {
        Answer::Found(calls) => {
            calls.iter().filter(|(_, each)| **each >= 0.001).for_each(|(call, each)| println!("{each:>8.3}  {call}"));
        }
        Answer::Absent(why) => println!("absent: {why}"),
    }
    println!("\nin {}: flame.svg, stacks.folded, profile.json", out.display());
}

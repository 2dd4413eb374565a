//! The command `bench`: the product under load, each measurement beside one of the skeleton with the same entries,
//! datagrams and number in flight. A shared machine drifts by a factor of two within the hour; the ratio of two
//! neighbours does not, so the ratios of the rounds are what counts, and their spread says how much.

use crate::cluster::{self, Cluster, Spec};
use crate::environment::Environment;
use crate::files;
use crate::floor::{SkeletonRun, run_skeleton};
use crate::host::{Host, Usage, Watch};
use crate::load::{self, Pace, Plan};
use crate::options::{RoundArgs, ShapeArgs, Style, WaitArgs};
use crate::output::{self, Ratio, Series, Sheet};
use crate::preset;
use crate::product::{self, ClientSetup, ProductClient};
use crate::report;
use crate::skeleton::{Logs, Setup, Work};
use crate::stats::{Measured, Spread, Summary};
use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use synod_client::Status;
use synod_wire::client::role;

/// The most that a client has in flight in an open loop; what is due beyond it waits, and its wait is counted.
const OPEN_WINDOW: usize = 1_024;

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    rounds: RoundArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    wait: WaitArgs,
    /// Whether the client waits for acknowledgements, or sends at a constant rate.
    #[arg(long, value_enum, default_value = "closed")]
    mode: Mode,
    /// Entries a second of the open loop: each of these is measured.
    #[arg(long, value_name = "N,…", value_delimiter = ',', required_if_eq("mode", "open"))]
    rate: Vec<u64>,
    /// A cluster that runs already; left out: one is started here.
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// The group of that cluster.
    #[arg(long, value_name = "G", default_value_t = 0, requires = "config")]
    group: u8,
    /// Nodes of the cluster that is started, and of the skeleton.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: u8,
    /// Groups of each node, each with a client of its own with that many in flight or that rate. The skeleton has one group
    /// only, and is left out for more.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), conflicts_with = "config")]
    groups: u8,
    /// What else: the rates that Aeron publishes, and how far this machine gets with each size.
    #[arg(long, value_enum, conflicts_with_all = ["config", "mode", "max_ratio"])]
    preset: Option<Preset>,
    /// What the product's acknowledgements rest on. With "memory" it is compared with the skeleton without writes.
    #[arg(long, value_enum, default_value = "disk")]
    durability: Durability,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
    /// How long the product's client polls and yields before it blocks.
    #[arg(long, value_name = "US", default_value_t = 500)]
    client_spin_us: u64,
    /// Measure the product only.
    #[arg(long)]
    skip_skeleton: bool,
    /// Print what the nodes counted for each entry of the last round.
    #[arg(long)]
    counters: bool,
    /// Fail if the product's median with one entry in flight is longer than the skeleton's by more than this factor.
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
}

/// Loads that others publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// 32 bytes at 501,000 a second, 288 at 301,000, 1,344 at 101,000.
    Aeron,
}

/// How load is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A number of entries in flight.
    Closed,
    /// A constant rate, whatever the system does.
    Open,
}

/// What an acknowledgement rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// The disks of a quorum.
    Disk,
    /// Their memory.
    Memory,
}

impl Durability {
    /// As `wal.durability` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Durability::Disk => "disk",
            Durability::Memory => "memory",
        }
    }
}

/// One round of one level.
#[derive(Clone, Debug, Serialize)]
struct Round {
    product: Summary,
    /// Who else used the processors meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    processors: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skeleton: Option<Summary>,
    /// Processor time of an entry, in all processes together, the client included.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_us_per_entry: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skeleton_cpu_us_per_entry: Option<f64>,
}

/// How the product compares.
#[derive(Clone, Copy, Debug, Serialize)]
struct Ratios {
    p50: Spread,
    p99: Spread,
    rate: Spread,
    /// Processor time of an entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Spread>,
    /// Of the least p50 of each: what foreign load disturbs least.
    best_p50: f64,
}

/// Counters of one node, for each entry that was acknowledged meanwhile.
#[derive(Clone, Debug, Serialize)]
struct NodeCounters {
    node: u8,
    role: &'static str,
    per_entry: BTreeMap<&'static str, f64>,
}

/// One pace.
#[derive(Debug, Serialize)]
struct Level {
    #[serde(skip_serializing_if = "Option::is_none")]
    outstanding: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    rounds: Vec<Round>,
    product: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    skeleton: Option<Summary>,
    /// Product divided by skeleton, of each round.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratios: Option<Ratios>,
    /// Of the last round.
    nodes: Vec<NodeCounters>,
    /// Datagrams that the client sent for each entry, in the last round.
    client_datagrams_per_entry: f64,
    /// Entries that the client had to send again, in all rounds.
    entries_resent: u64,
    /// What the skeleton's processes did in the last round, the client first, the leader next.
    skeleton_work: Vec<Work>,
    /// Where the time went on the leader, in a run of its own that `--report` asks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stages: Vec<output::Stage>,
    /// The whole distributions, for `--report`.
    #[serde(skip)]
    measured: Vec<(&'static str, Measured)>,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    size: usize,
    entries_per_datagram: usize,
    nodes: usize,
    groups: u8,
    durability: Durability,
    skeleton_wait: String,
    client_spin_us: u64,
    levels: Vec<Level>,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    args.check()?;
    if cfg!(debug_assertions) {
        eprintln!("note: this is not a release build; its figures say little");
    }
    if let Some(Preset::Aeron) = args.preset {
        return preset::run(&preset::Asked {
            nodes: args.nodes,
            groups: args.groups,
            rounds: &args.rounds,
            datagram_bytes: args.shape.datagram_bytes,
            synod: args.synod.as_deref(),
            client_spin: Duration::from_micros(args.client_spin_us),
        });
    }
    let dir = files::directory(args.rounds.dir.as_deref())?;
    let cluster = match &args.config {
        Some(file) => Cluster::running(file, args.group)?,
        None => {
            let program = cluster::program(args.synod.as_deref())?;
            let mut spec = Spec::of(args.nodes, args.shape);
            (spec.groups, spec.durability) = (args.groups, args.durability);
            Cluster::start(&program, dir.path(), &spec)?
        }
    };
    let members = cluster.members.len();
    let logs = Logs::prepare(dir.path(), if args.has_skeleton() { members } else { 0 })?;
    let host = Host::here()?;
    let environment = Environment::of(dir.path(), args.config.as_deref().or(cluster.config()))?;
    let mut bench = Bench { args, cluster, logs, processors: host.processors };
    let levels = args.paces().into_iter().map(|pace| bench.level(pace)).collect::<Result<Vec<Level>, _>>()?;
    bench.cluster.stop()?;
    let report = Report {
        host,
        size: args.shape.size,
        entries_per_datagram: args.shape.per_datagram(),
        nodes: members,
        groups: args.groups,
        durability: args.durability,
        skeleton_wait: format!("{:?}", args.wait.mode()),
        client_spin_us: args.client_spin_us,
        levels,
    };
    match args.rounds.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Style::Text => print(&report, args.counters),
    }
    if let Some(dir) = &args.rounds.report {
        output::write(dir, &sheet(report_title(args, &report), &report, environment)?)?;
    }
    judge(&report, args.max_ratio)
}

fn report_title(args: &BenchArgs, report: &Report) -> String {
    let mode = if args.mode == Mode::Closed { "closed loop" } else { "open loop" };
    format!("Synod, {mode}: {} nodes, entries of {} bytes", report.nodes, report.size)
}

/// The report's part of what was measured.
fn sheet(title: String, report: &Report, environment: Environment) -> anyhow::Result<Sheet> {
    let results = serde_json::to_value(report).context("a report is no JSON")?;
    let levels = report.levels.iter().map(|level| {
        let ratio = |what: &str, spread| Ratio { what: format!("{what}, product / skeleton"), spread };
        let ratios =
            level.ratios.map(|all| vec![ratio("p50", all.p50), ratio("p99", all.p99), ratio("rate", all.rate)]);
        let series = |(name, measured): &(&str, Measured)| Series { name: (*name).into(), measured: measured.clone() };
        output::Level {
            name: level.name(),
            series: level.measured.iter().map(series).collect(),
            ratios: ratios.unwrap_or_default(),
            stages: level.stages.clone(),
        }
    });
    Ok(Sheet { title, environment, levels: levels.collect(), results })
}

impl BenchArgs {
    fn check(&self) -> anyhow::Result<()> {
        self.rounds.check()?;
        self.shape.check()?;
        ensure!(self.mode == Mode::Open || self.rate.is_empty(), "--rate is for --mode open");
        ensure!(self.rate.iter().all(|rate| *rate > 0), "--rate 0 sends nothing");
        ensure!(
            self.rounds.outstanding.iter().all(|outstanding| (1..=OPEN_WINDOW).contains(outstanding)),
            "--outstanding: choose 1 to {OPEN_WINDOW}, what the product grants a session"
        );
        Ok(())
    }

    fn has_skeleton(&self) -> bool {
        !self.skip_skeleton && self.groups == 1
    }

    fn paces(&self) -> Vec<Pace> {
        match self.mode {
            Mode::Closed => {
                self.rounds.outstanding.iter().map(|outstanding| Pace::Closed { outstanding: *outstanding }).collect()
            }
            Mode::Open => self.rate.iter().map(|rate| Pace::Open { rate: *rate, window: OPEN_WINDOW }).collect(),
        }
    }
}

/// The longest median ratio at one entry in flight against the limit, and every open loop's rate.
fn judge(report: &Report, max_ratio: Option<f64>) -> anyhow::Result<()> {
    let single = report.levels.iter().find(|level| level.outstanding == Some(1));
    let ratio = single.and_then(|level| level.ratios).map(|ratios| ratios.p50.median);
    if let Some(limit) = max_ratio {
        let Some(ratio) = ratio else { bail!("--max-ratio needs --outstanding 1 and the skeleton") };
        ensure!(ratio <= limit, "the product's median is {ratio:.2} times the skeleton's; the limit is {limit}");
    }
    let missed: Vec<u64> =
        report.levels.iter().filter(|level| level.product.missed.is_some()).filter_map(|level| level.rate).collect();
    ensure!(missed.is_empty(), "the product did not keep these rates: {missed:?}");
    Ok(())
}

impl Level {
    fn name(&self) -> String {
        match (self.outstanding, self.rate) {
            (Some(outstanding), _) => format!("{outstanding} outstanding"),
            (None, rate) => format!("{} a second", rate.unwrap_or(0)),
        }
    }
}

impl Round {
    fn of(product: &ProductRound, beside: Option<&SkeletonRun>) -> Round {
        let (ours, floor) = (product.measured.summary(), beside.map(|run| run.measured.summary()));
        let cost_us = |usage: Usage, side: &Summary| usage.cores * 1e6 / side.per_second;
        Round {
            cpu_us_per_entry: product.usage.map(|usage| cost_us(usage, &ours)),
            skeleton_cpu_us_per_entry: beside.zip(floor.as_ref()).map(|(run, side)| cost_us(run.usage, side)),
            product: ours,
            processors: product.usage,
            skeleton: floor,
        }
    }
}

/// What the product's side of a round gave.
struct ProductRound {
    measured: Measured,
    usage: Option<Usage>,
    nodes: Vec<NodeCounters>,
    datagrams_per_entry: f64,
    entries_resent: u64,
}

struct Bench<'a> {
    args: &'a BenchArgs,
    cluster: Cluster,
    logs: Logs,
    processors: usize,
}

impl Bench<'_> {
    fn level(&mut self, pace: Pace) -> anyhow::Result<Level> {
        let (mut product, mut skeleton) = (Measured::new(), Measured::new());
        let (mut rounds, mut work, mut last, mut resent) = (Vec::new(), Vec::new(), None, 0);
        for number in 0..self.args.rounds.rounds {
            // Which goes first alternates, so that a drift of the machine favours neither.
            let skeleton_first = number % 2 == 1;
            let mut beside = None;
            if skeleton_first {
                beside = self.skeleton_round(pace)?;
            }
            let round = self.product_round(pace)?;
            if !skeleton_first {
                beside = self.skeleton_round(pace)?;
            }
            product.add(&round.measured);
            resent += round.entries_resent;
            rounds.push(Round::of(&round, beside.as_ref()));
            if let Some(beside) = beside {
                skeleton.add(&beside.measured);
                work = beside.work;
            }
            last = Some(round);
            if self.args.rounds.output == Style::Text {
                eprintln!("{}", round_line(&pace_name(pace), number + 1, &rounds[rounds.len() - 1]));
            }
        }
        let last = last.context("no round was asked for")?;
        let compared = self.args.has_skeleton();
        let (outstanding, rate) = match pace {
            Pace::Closed { outstanding } => (Some(outstanding), None),
            Pace::Open { rate, .. } => (None, Some(rate)),
        };
        Ok(Level {
            outstanding,
            rate,
            product: product.summary(),
            skeleton: compared.then(|| skeleton.summary()),
            ratios: ratios(&rounds),
            rounds,
            nodes: last.nodes,
            client_datagrams_per_entry: last.datagrams_per_entry,
            entries_resent: resent,
            skeleton_work: work,
            stages: if self.args.rounds.report.is_some() { self.stages(pace)? } else { Vec::new() },
            measured: [("product", product)].into_iter().chain(compared.then_some(("skeleton", skeleton))).collect(),
        })
    }

    fn plan(&self, pace: Pace) -> Plan {
        Plan { pace, warm_up: self.args.rounds.warm_up(), measure: self.args.rounds.measure() }
    }

    fn client_setup(&self, pace: Pace) -> ClientSetup {
        let window = match pace {
            Pace::Closed { outstanding } => outstanding,
            Pace::Open { window, .. } => window,
        };
        ClientSetup { shape: self.args.shape, window, spin: Duration::from_micros(self.args.client_spin_us) }
    }

    /// A run in which every append asks for its time line: apart from the rounds, which are not to pay for it.
    fn stages(&mut self, pace: Pace) -> anyhow::Result<Vec<output::Stage>> {
        let setup = self.client_setup(pace);
        let mut client = ProductClient::connect_for_stages(&mut self.cluster, &setup).context("the product")?;
        load::run(&mut client, &self.plan(pace)).context("the product")?;
        Ok(client.stages())
    }

    fn product_round(&mut self, pace: Pace) -> anyhow::Result<ProductRound> {
        let setup = self.client_setup(pace);
        let mut clients =
            product::connect_groups(&mut self.cluster, self.args.groups, &setup).context("the product")?;
        let processes = self.cluster.processes();
        let before = self.cluster.status();
        self.check_durability(&before)?;
        let watch = Watch::start(&processes)?;
        let measured = load::run_beside(&mut clients, &self.plan(pace)).context("the product");
        // What a node said before it ended tells more than the silence that followed.
        self.cluster.check()?;
        let measured = measured?;
        // Nobody knows what the processes of a cluster elsewhere used.
        let usage = self.cluster.is_local().then(|| watch.stop(&processes, self.processors)).transpose()?;
        let sent: Vec<(u64, u64)> = clients.iter().map(ProductClient::sent).collect();
        let entries_resent = sent.iter().map(|(_, resent)| resent).sum();
        let after = self.cluster.status();
        let entries = applied(&after).saturating_sub(applied(&before)).max(1);
        Ok(ProductRound {
            measured,
            usage,
            nodes: per_entry(&before, &after, entries),
            // The counters are those of the first group.
            datagrams_per_entry: sent[0].0 as f64 / entries as f64,
            entries_resent,
        })
    }

    /// A cluster that runs already, or an override by the environment, may rest on something else than what is compared.
    fn check_durability(&self, statuses: &[Status]) -> anyhow::Result<()> {
        let asked = self.args.durability.name();
        let other = |status: &&Status| status.durability.is_some_and(|durability| durability.name() != asked);
        match statuses.iter().find(other) {
            None => Ok(()),
            Some(status) => bail!("--durability is {asked}, but node {} runs with another wal.durability", status.node),
        }
    }

    fn skeleton_round(&self, pace: Pace) -> anyhow::Result<Option<SkeletonRun>> {
        if !self.args.has_skeleton() {
            return Ok(None);
        }
        let nodes = self.cluster.members.len();
        let setup = Setup {
            nodes,
            durable: self.args.durability == Durability::Disk,
            shape: self.args.shape,
            wait: self.args.wait,
        };
        run_skeleton(&setup, &self.logs, &self.plan(pace)).context("the skeleton").map(Some)
    }
}

fn ratios(rounds: &[Round]) -> Option<Ratios> {
    let pairs: Vec<(&Summary, &Summary)> =
        rounds.iter().map(|round| Some((&round.product, round.skeleton.as_ref()?))).collect::<Option<_>>()?;
    let of = |value: fn(&Summary) -> f64| Spread::of(pairs.iter().map(|(ours, floor)| value(ours) / value(floor)));
    let product = Spread::of(pairs.iter().map(|(ours, _)| ours.p50_us));
    let skeleton = Spread::of(pairs.iter().map(|(_, floor)| floor.p50_us));
    let cpu: Option<Vec<f64>> =
        rounds.iter().map(|round| Some(round.cpu_us_per_entry? / round.skeleton_cpu_us_per_entry?)).collect();
    Some(Ratios {
        cpu: cpu.map(Spread::of),
        p50: of(|side| side.p50_us),
        p99: of(|side| side.p99_us),
        rate: of(|side| side.per_second),
        best_p50: product.min / skeleton.min,
    })
}

/// The tail that the nodes agree to have reached at least once.
fn applied(statuses: &[Status]) -> u64 {
    statuses.iter().map(|status| status.tail.0).max().unwrap_or(0)
}

fn per_entry(before: &[Status], after: &[Status], entries: u64) -> Vec<NodeCounters> {
    let counted = |status: &Status| {
        let earlier = before.iter().find(|earlier| earlier.node == status.node)?;
        let rates = status.named_counters().zip(earlier.named_counters()).map(|((name, now), (_, then))| {
            // A node that was restarted meanwhile counts from zero.
            (name, now.saturating_sub(then) as f64 / entries as f64)
        });
        let role = if status.role == role::LEADER { "leader" } else { "follower" };
        Some(NodeCounters { node: status.node.0, role, per_entry: rates.filter(|(_, rate)| *rate > 0.0).collect() })
    };
    after.iter().filter_map(counted).collect()
}

fn pace_name(pace: Pace) -> String {
    match pace {
        Pace::Closed { outstanding } => format!("{outstanding} outstanding"),
        Pace::Open { rate, .. } => format!("{rate} a second"),
    }
}

fn round_line(pace: &str, number: u32, round: &Round) -> String {
    let Round { product, processors, skeleton, .. } = round;
    let others = processors.map_or(String::new(), |usage| {
        format!("  (others {:.0}%, stolen {:.0}%)", usage.others * 100.0, usage.stolen * 100.0)
    });
    let mut text = format!("round {number}: {}{others}", report::line(&format!("{pace}, product"), product));
    if let Some(skeleton) = skeleton {
        let line = report::line(&format!("{pace}, skeleton"), skeleton);
        text.push_str(&format!("\nround {number}: {line}  p50 ratio {:.2}", product.p50_us / skeleton.p50_us));
    }
    text
}

fn print(report: &Report, counters: bool) {
    let Report { host, size, entries_per_datagram, nodes, groups, durability, skeleton_wait, client_spin_us, levels } =
        report;
    println!(
        "kernel {}, {} processors; skeleton {skeleton_wait}, client {client_spin_us} µs",
        host.kernel, host.processors
    );
    let durability = durability.name();
    println!(
        "{nodes} nodes, {groups} groups, durability {durability}, entries of {size} bytes, up to {entries_per_datagram} a datagram\n"
    );
    println!("{}", report::heading("all rounds"));
    for level in levels {
        let name = level.name();
        println!("{}", report::line(&format!("{name}, product"), &level.product));
        if let (Some(skeleton), Some(ratios)) = (&level.skeleton, &level.ratios) {
            println!("{}", report::line(&format!("{name}, skeleton"), skeleton));
            println!(
                "{}, best rounds {:.2}",
                report::spread("  product / skeleton, p50", &ratios.p50),
                ratios.best_p50
            );
            println!("{}", report::spread("  product / skeleton, p99", &ratios.p99));
            println!("{}", report::spread("  product / skeleton, rate", &ratios.rate));
            if let Some(cpu) = &ratios.cpu {
                println!("{}", report::spread("  product / skeleton, CPU an entry", cpu));
            }
        }
        if level.entries_resent > 0 {
            println!("  the client sent {} entries again", level.entries_resent);
        }
        if counters {
            print_counters(level);
        }
    }
}

fn print_counters(level: &Level) {
    println!("  for each entry of the last round; the client sent {:.3} datagrams", level.client_datagrams_per_entry);
    for node in &level.nodes {
        let rates: Vec<String> = node.per_entry.iter().map(|(name, rate)| format!("{name} {rate:.3}")).collect();
        println!("  node {} ({}): {}", node.node, node.role, rates.join(", "));
    }
}

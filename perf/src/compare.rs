//! The command `compare`: the same closed loop on Synod and on its peers, in one run. In each round each system is started
//! with an empty log on the same disk, measured at every number in flight, and ended before the next one starts; the order
//! turns with the rounds. The ratio to Synod in the same round counts, with its spread.
//!
//! A peer's first run also counts the calls by which it syncs. One that does not sync every commit on a majority is marked,
//! one that cannot be started is told as absent, one that failed as failed: none of these was beaten.

#[path = "../peers/src/contract.rs"]
mod contract;
mod outcome;
mod peer;

use crate::cluster::{self, Cluster, Spec};
use crate::files;
use crate::host::Host;
use crate::load::{self, Pace, Plan};
use crate::options::{RoundArgs, ShapeArgs, Style};
use crate::product::{ClientSetup, ProductClient};
use crate::stats::{Measured, Spread, Summary};
use crate::{interrupt, report};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use contract::Syncs;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nodes of every system.
const NODES: u8 = 3;

/// Arguments of `compare`.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    rounds: RoundArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// The peers.
    #[arg(long, value_enum, value_name = "NAME,…", value_delimiter = ',', default_values_t = PeerName::ALL)]
    peer: Vec<PeerName>,
    /// Where perf/peers/install.sh put what it installed.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/synod-peers")]
    tools: PathBuf,
    /// How long each peer's syncs are counted, one entry in flight.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    count_ms: u64,
    /// The program that runs the peers; left out: built from perf/peers.
    #[arg(long, value_name = "FILE")]
    peer_program: Option<PathBuf>,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
}

/// The peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerName {
    /// raft-rs with raft-engine, a harness of our own.
    RaftRs,
    /// libraft, a harness of our own.
    Libraft,
    /// etcd.
    Etcd,
    /// NATS JetStream, three replicas, synced always.
    Nats,
}

impl PeerName {
    const ALL: [PeerName; 4] = [PeerName::RaftRs, PeerName::Libraft, PeerName::Etcd, PeerName::Nats];

    fn name(self) -> &'static str {
        match self {
            PeerName::RaftRs => "raft-rs",
            PeerName::Libraft => "libraft",
            PeerName::Etcd => "etcd",
            PeerName::Nats => "nats",
        }
    }
}

impl std::fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What became of a system.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Every round was measured, and commits were synced on a majority.
    Measured,
    /// Every round was measured, but it did not sync each commit on a majority.
    NotDurable,
    /// It could not be started.
    Absent(String),
    /// It started, and a round failed.
    Failed(String),
}

/// Synod or a peer, as it is measured.
struct System {
    /// None: Synod.
    peer: Option<PeerName>,
    version: String,
    state: State,
    syncs: Option<Syncs>,
    /// For each number in flight, its rounds.
    levels: Vec<Vec<Measured>>,
}

/// A system in the report.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    version: String,
    state: State,
    /// Calls (of Synod: log writes that its nodes counted) for each commit, one in flight, of each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    syncs_per_commit: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syncs: Option<Syncs>,
    levels: Vec<Level>,
}

/// One number in flight.
#[derive(Debug, Serialize)]
struct Level {
    outstanding: usize,
    rounds: Vec<Summary>,
    overall: Summary,
    /// Divided by Synod's of the same round; not of Synod itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_synod: Option<Ratios>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Ratios {
    p50: Spread,
    p99: Spread,
    rate: Spread,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    size: usize,
    nodes: u8,
    rounds: u32,
    systems: Vec<Row>,
}

/// Measures and prints.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    args.rounds.check()?;
    args.shape.check()?;
    let unique = args.peer.iter().enumerate().all(|(at, peer)| !args.peer[..at].contains(peer));
    ensure!(unique, "--peer names a peer twice");
    let dir = files::directory(args.rounds.dir.as_deref())?;
    let synod = cluster::program(args.synod.as_deref())?;
    let program = peer::program(args.peer_program.as_deref());
    interrupt::check()?;
    let mut systems = args.systems(program.as_ref().err());
    let compare = Compare { args, dir: dir.path(), synod, program: program.ok() };
    for number in 0..args.rounds.rounds {
        for turn in 0..systems.len() {
            let at = (number as usize + turn) % systems.len();
            compare.round(number, &mut systems[at])?;
        }
    }
    let report = Report {
        host: Host::here()?,
        size: args.shape.size,
        nodes: NODES,
        rounds: args.rounds.rounds,
        systems: rows(&args.rounds.outstanding, &systems),
    };
    match args.rounds.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Style::Text => print!("{}", table(&report)),
    }
    Ok(())
}

impl CompareArgs {
    /// Synod and its peers; without their program each peer is absent.
    fn systems(&self, no_program: Option<&anyhow::Error>) -> Vec<System> {
        let absent = no_program.map(|error| State::Absent(format!("{error:#}")));
        let system = |peer, state| System {
            peer,
            version: env!("CARGO_PKG_VERSION").into(),
            state,
            syncs: None,
            levels: vec![Vec::new(); self.rounds.outstanding.len()],
        };
        let peers = self.peer.iter().map(|peer| {
            let state = absent.clone().unwrap_or(State::Measured);
            System { version: String::new(), ..system(Some(*peer), state) }
        });
        std::iter::once(system(None, State::Measured)).chain(peers).collect()
    }

    fn peer_arguments(&self, count: bool) -> Vec<String> {
        let outstanding: Vec<String> = self.rounds.outstanding.iter().map(usize::to_string).collect();
        let options = [
            ("--size", self.shape.size.to_string()),
            ("--outstanding", outstanding.join(",")),
            ("--ms", self.rounds.measure().as_millis().to_string()),
            ("--warm-up-ms", self.rounds.warm_up_ms.to_string()),
            ("--count-ms", if count { self.count_ms } else { 0 }.to_string()),
            ("--tools", self.tools.display().to_string()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.to_string(), value]).collect()
    }
}

struct Compare<'a> {
    args: &'a CompareArgs,
    dir: &'a Path,
    synod: PathBuf,
    program: Option<PathBuf>,
}

impl Compare<'_> {
    /// One system at every number in flight. A peer that is absent or failed is not tried again; Synod's failure ends all.
    fn round(&self, number: u32, system: &mut System) -> anyhow::Result<()> {
        let found = match (system.peer, &self.program, &system.state) {
            (None, ..) => self.synod_round(system).context("Synod")?,
            (Some(peer), Some(program), State::Measured | State::NotDurable) => {
                match self.peer_round(program, peer, number == 0, system) {
                    Ok(found) => found,
                    Err(error) => {
                        interrupt::check()?;
                        system.state = State::Failed(format!("{error:#}"));
                        Vec::new()
                    }
                }
            }
            _ => return Ok(()),
        };
        let name = system.name();
        if let State::Absent(why) | State::Failed(why) = &system.state {
            eprintln!("round {}: {name}: {why}", number + 1);
        }
        for (at, measured) in found.into_iter().enumerate() {
            let what = format!("{name}, {} outstanding", self.args.rounds.outstanding[at]);
            eprintln!("round {}: {}", number + 1, report::line(&what, &measured.summary()));
            system.levels[at].push(measured);
        }
        Ok(())
    }

    fn peer_round(
        &self,
        program: &Path,
        peer: PeerName,
        count: bool,
        system: &mut System,
    ) -> anyhow::Result<Vec<Measured>> {
        let rounds = &self.args.rounds;
        let each = rounds.measure() + rounds.warm_up();
        let run = peer::Run {
            program,
            peer: peer.name(),
            length: each * rounds.outstanding.len() as u32
                + rounds.warm_up()
                + Duration::from_millis(self.args.count_ms),
            outstanding: &rounds.outstanding,
            arguments: &self.args.peer_arguments(count),
            dir: self.dir,
        };
        let outcome = run.outcome()?;
        if let Some(why) = outcome.absent {
            // One that was there in an earlier round is not absent.
            system.state = if system.syncs.is_some() { State::Failed(why) } else { State::Absent(why) };
            return Ok(Vec::new());
        }
        system.version = outcome.version;
        if count {
            let syncs = outcome.syncs.context("its syncs were not counted")?;
            system.state = if syncs.durable() { State::Measured } else { State::NotDurable };
            system.syncs = Some(syncs);
        }
        outcome.levels.iter().map(contract::Level::measured).collect()
    }

    fn synod_round(&self, system: &mut System) -> anyhow::Result<Vec<Measured>> {
        let dir = tempfile::tempdir_in(self.dir).context("cannot make a directory")?;
        let mut cluster = Cluster::start(&self.synod, dir.path(), &Spec::of(NODES, self.args.shape))?;
        let mut found = Vec::new();
        for outstanding in self.args.rounds.outstanding.iter().copied() {
            found.push(self.synod_level(&mut cluster, outstanding)?);
        }
        if system.syncs.is_none() {
            system.syncs = Some(self.synod_syncs(&mut cluster)?);
        }
        cluster.stop()?;
        Ok(found)
    }

    fn synod_level(&self, cluster: &mut Cluster, outstanding: usize) -> anyhow::Result<Measured> {
        let setup = ClientSetup { shape: self.args.shape, window: outstanding, spin: Duration::from_micros(500) };
        let mut client = ProductClient::connect(cluster, &setup)?;
        let rounds = &self.args.rounds;
        let pace = Pace::Closed { outstanding };
        let measured = load::run(&mut client, &Plan { pace, warm_up: rounds.warm_up(), measure: rounds.measure() });
        cluster.check()?;
        measured
    }

    /// Its log writes go through io_uring, where no system call is to be counted: the nodes count them.
    fn synod_syncs(&self, cluster: &mut Cluster) -> anyhow::Result<Syncs> {
        let before = cluster.status();
        self.synod_level(cluster, 1)?;
        let after = cluster.status();
        ensure!(before.len() == after.len() && after.len() == usize::from(NODES), "a node does not answer");
        let tail = |statuses: &[synod_client::Status]| statuses.iter().map(|status| status.tail.0).max().unwrap_or(0);
        let flushes = |status: &synod_client::Status| {
            status.named_counters().find(|(name, _)| *name == "flushes").map_or(0, |(_, count)| count)
        };
        let node = |(before, after)| {
            let log = flushes(after) - flushes(before);
            contract::NodeSyncs { log, calls: [("log write".to_string(), log)].into() }
        };
        let nodes = before.iter().zip(&after).map(node).collect();
        Ok(Syncs { commits: tail(&after) - tail(&before), nodes })
    }
}

impl System {
    fn name(&self) -> &'static str {
        self.peer.map_or("synod", PeerName::name)
    }
}

/// The first system is Synod.
fn rows(outstanding: &[usize], systems: &[System]) -> Vec<Row> {
    let row = |system: &System| Row {
        name: system.name(),
        version: system.version.clone(),
        state: system.state.clone(),
        syncs_per_commit: system.syncs.as_ref().map(Syncs::per_commit),
        syncs: system.syncs.clone(),
        levels: outstanding
            .iter()
            .enumerate()
            .filter(|(at, _)| !system.levels[*at].is_empty())
            .map(|(at, outstanding)| {
                level(*outstanding, &system.levels[at], system.peer.map(|_| &systems[0].levels[at]))
            })
            .collect(),
    };
    systems.iter().map(row).collect()
}

fn level(outstanding: usize, rounds: &[Measured], synod: Option<&Vec<Measured>>) -> Level {
    let mut all = Measured::new();
    rounds.iter().for_each(|round| all.add(round));
    let summaries = |rounds: &[Measured]| rounds.iter().map(Measured::summary).collect::<Vec<_>>();
    let rounds = summaries(rounds);
    let to_synod = synod.map(|synod| {
        let synod = summaries(synod);
        // A peer that failed has fewer rounds: those that it has are Synod's first ones.
        let of = |value: fn(&Summary) -> f64| Spread::of(rounds.iter().zip(&synod).map(|(a, b)| value(a) / value(b)));
        Ratios { p50: of(|side| side.p50_us), p99: of(|side| side.p99_us), rate: of(|side| side.per_second) }
    });
    Level { outstanding, overall: all.summary(), rounds, to_synod }
}

fn table(report: &Report) -> String {
    let Report { host, size, nodes, rounds, systems } = report;
    let mut text = format!("kernel {}, {} processors; ", host.kernel, host.processors);
    text.push_str(&format!(
        "{nodes} nodes, entries of {size} bytes, {rounds} rounds; × is a peer's divided by Synod's: "
    ));
    text.push_str("median (least to greatest round)\n\n");
    text.push_str(&format!("{}   p50 ×, p99 ×, ops/s ×\n", report::heading("all rounds")));
    for row in systems {
        for level in &row.levels {
            let what = format!("{}, {} outstanding", row.name, level.outstanding);
            let ratios = level.to_synod.map_or(String::new(), |ratios| {
                let one = |spread: Spread| format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max);
                format!("   {}, {}, {}", one(ratios.p50), one(ratios.p99), one(ratios.rate))
            });
            let mark = if row.state == State::NotDurable { "  NOT DURABLE" } else { "" };
            text.push_str(&format!("{}{ratios}{mark}\n", report::line(&what, &level.overall)));
        }
    }
    text.push('\n');
    systems.iter().for_each(|row| text.push_str(&state_line(row)));
    text
}

fn state_line(row: &Row) -> String {
    let syncs = row.syncs_per_commit.as_ref().map_or(String::new(), |nodes| {
        let each: Vec<String> = nodes.iter().map(|node| format!("{node:.2}")).collect();
        format!("; syncs of the log for each commit, by node: {}", each.join(", "))
    });
    let state = match &row.state {
        State::Measured => String::new(),
        State::NotDurable => "; NOT DURABLE: not every commit was synced on a majority".into(),
        State::Absent(why) => format!(" absent, not compared: {why}"),
        State::Failed(why) => format!("; FAILED, not compared further: {why}"),
    };
    format!("{} {}{syncs}{state}\n", row.name, row.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(latency_us: u64) -> Measured {
        let mut measured = Measured::new();
        (0..10).for_each(|_| measured.record(Duration::from_micros(latency_us)));
        (measured.ended, measured.elapsed) = (1_000_000 / latency_us, Duration::from_secs(1));
        measured
    }

    fn system(peer: Option<PeerName>, state: State, latencies_us: &[u64]) -> System {
        let levels = vec![latencies_us.iter().map(|latency| measured(*latency)).collect()];
        System { peer, version: "1".into(), state, syncs: None, levels }
    }

    fn report(systems: &[System]) -> Report {
        let host = Host { kernel: "k".into(), processors: 2 };
        Report { host, size: 256, nodes: NODES, rounds: 2, systems: rows(&[64], systems) }
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        // The machine became ten times slower between the rounds.
        let synod = system(None, State::Measured, &[100, 1_000]);
        let peer = system(Some(PeerName::RaftRs), State::Measured, &[200, 2_000]);
        let report = report(&[synod, peer]);
        let ratios = report.systems[1].levels[0].to_synod.unwrap();
        assert!((1.99..2.01).contains(&ratios.p50.min) && (1.99..2.01).contains(&ratios.p50.max), "{ratios:?}");
        assert_eq!(ratios.rate.median, 0.5);
        assert!(table(&report).contains("2.00 (2.00 to 2.00), 2.00 (2.00 to 2.00), 0.50 (0.50 to 0.50)"));
    }

    #[test]
    fn an_absent_peer_has_a_reason_and_no_figures() {
        let synod = system(None, State::Measured, &[100]);
        let absent = system(Some(PeerName::Etcd), State::Absent("not installed".into()), &[]);
        let report = report(&[synod, absent]);
        assert!(report.systems[1].levels.is_empty());
        let text = table(&report);
        assert!(text.contains("etcd 1 absent, not compared: not installed"), "{text}");
        assert_eq!(text.matches("etcd").count(), 1, "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["systems"][1]["state"]["absent"], "not installed");
    }

    #[test]
    fn a_peer_that_does_not_sync_is_marked_in_each_row() {
        let synod = system(None, State::Measured, &[100]);
        let lax = system(Some(PeerName::Nats), State::NotDurable, &[50]);
        let text = table(&report(&[synod, lax]));
        let row = text.lines().find(|line| line.starts_with("nats, 64")).unwrap();
        assert!(row.ends_with("NOT DURABLE"), "{text}");
    }
}

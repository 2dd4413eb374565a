//! The command `failover`: entries at a constant rate, and the leader is killed, paused or cut off meanwhile, again and
//! again. Tells the longest time without a commit around each fault, and around its end, and whether every acknowledged
//! entry lies once and at its place in the log of every node afterwards.

use crate::audit::{self, Verdict};
use crate::cluster::Cluster;
use crate::load;
use crate::network::Network;
use crate::product::ProductClient;
use crate::report;
use crate::scenario::{self, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs, Stage, milliseconds};
use crate::stats::{Spread, Summary};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::time::{Duration, Instant};
use synod_wire::client::role;
use synod_wire::{Ballot, NodeId};

/// Arguments of `failover`.
#[derive(Args, Debug)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// What befalls the leader.
    #[arg(
        long,
        alias = "what",
        value_enum,
        value_name = "FAULT,…",
        value_delimiter = ',',
        default_value = "kill,pause,cut"
    )]
    fault: Vec<Fault>,
    /// How often each does.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Entries a second.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=50_000))]
    rate: u64,
    /// How long the load is watched before each fault, after the election, and after the fault's end.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(50..=10_000))]
    settle_ms: u64,
    /// Fail if a fault leaves the log without a commit for longer.
    #[arg(long, value_name = "MS")]
    max_gap_ms: Option<f64>,
}

/// What befalls a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Fault {
    /// SIGKILL; later it is started again.
    Kill,
    /// SIGSTOP; later SIGCONT.
    Pause,
    /// All its datagrams are dropped, its clients' too; later they pass again.
    Cut,
    /// Nothing bad: it is asked to hand over (`synod transfer-leader`); later its successor hands back.
    Transfer,
}

impl Fault {
    fn inflict(self, cluster: &mut Cluster, network: Option<&Network>, node: NodeId) -> anyhow::Result<()> {
        match self {
            Fault::Kill => cluster.kill(node),
            Fault::Pause => cluster.pause(node),
            Fault::Cut => network.context("a cut needs a network of its own")?.cut(&cluster.ports(node)),
            Fault::Transfer => cluster.transfer(None, PATIENCE),
        }
    }

    fn mend(self, cluster: &mut Cluster, network: Option<&Network>, node: NodeId) -> anyhow::Result<()> {
        match self {
            Fault::Kill => cluster.restart(node),
            Fault::Pause => cluster.resume(node),
            Fault::Cut => network.context("a cut needs a network of its own")?.heal(),
            Fault::Transfer => cluster.transfer(Some(node), PATIENCE),
        }
    }
}

/// When what happened in one repetition.
#[derive(Clone, Copy, Debug)]
struct Times {
    old: NodeId,
    new: NodeId,
    /// Ballots that the election took.
    ballots: u64,
    quiet: Instant,
    fault: Instant,
    mended: Instant,
    over: Instant,
}

/// One repetition.
#[derive(Clone, Debug, Serialize)]
struct Incident {
    old_leader: u8,
    new_leader: u8,
    ballots: u64,
    /// The longest time without a commit just before: what the machine does without a fault.
    quiet_ms: f64,
    /// From the fault until the old leader is back.
    gap_ms: f64,
    /// From then on.
    return_ms: f64,
}

/// All repetitions of one fault.
#[derive(Debug, Serialize)]
struct Chapter {
    fault: Fault,
    incidents: Vec<Incident>,
    gap_ms: Spread,
    return_ms: Spread,
    /// Latencies of all entries, from when they were due.
    load: Summary,
    /// Of every node.
    logs: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    rate: u64,
    size: usize,
    heartbeat_us: Option<u64>,
    election_us: Vec<u64>,
    chapters: Vec<Chapter>,
    /// Faults that could not be inflicted here, and why.
    skipped: Vec<(Fault, String)>,
}

/// Measures and prints.
pub(crate) fn run(args: &FailoverArgs) -> anyhow::Result<()> {
    let mut stage = args.scenario.stage()?;
    let mut report = Report {
        nodes: args.scenario.nodes,
        rate: args.rate,
        size: args.scenario.shape.size,
        heartbeat_us: args.scenario.heartbeat_us,
        election_us: args.scenario.election_us.clone(),
        chapters: Vec::new(),
        skipped: Vec::new(),
    };
    let network = args.fault.contains(&Fault::Cut).then(Network::enter);
    for fault in &args.fault {
        match (&network, fault) {
            (Some(Err(why)), Fault::Cut) => {
                eprintln!("skipped: cut: {why}");
                report.skipped.push((Fault::Cut, why.clone()));
            }
            (Some(Ok(network)), _) => report.chapters.push(chapter(args, &mut stage, Some(network), *fault)?),
            _ => report.chapters.push(chapter(args, &mut stage, None, *fault)?),
        }
    }
    scenario::print(args.scenario.output, &report, print)?;
    judge(&report, args.max_gap_ms)
}

/// No entry lost or twice, and no gap longer than allowed.
fn judge(report: &Report, max_gap_ms: Option<f64>) -> anyhow::Result<()> {
    for chapter in &report.chapters {
        chapter.logs.iter().try_for_each(Verdict::check)?;
        let longest = chapter.gap_ms.max;
        if let Some(limit) = max_gap_ms {
            ensure!(longest <= limit, "{:?}: {longest:.0} ms without a commit; the limit is {limit}", chapter.fault);
        }
    }
    Ok(())
}

fn chapter(args: &FailoverArgs, stage: &mut Stage, network: Option<&Network>, fault: Fault) -> anyhow::Result<Chapter> {
    let mut cluster = stage.cluster(&args.scenario.spec())?;
    let mut client = ProductClient::connect(&mut cluster, &args.scenario.client(MOST_IN_FLIGHT))?;
    client.keep_journal(true)?;
    let (measured, times) = load::beside(&mut client, &scenario::steady(args.rate), || {
        let turns = 1..=args.repetitions;
        turns.map(|turn| incident(args, &mut cluster, network, fault, turn)).collect::<Result<Vec<Times>, _>>()
    })?;
    cluster.await_in_step(PATIENCE)?;
    let journal = client.journal()?;
    let logs = audit::read_back(&cluster, journal)?;
    cluster.stop()?;
    let gap = |from, until| milliseconds(journal.longest_gap(from, until));
    let told = |times: &Times| Incident {
        old_leader: times.old.0,
        new_leader: times.new.0,
        ballots: times.ballots,
        quiet_ms: gap(times.quiet, times.fault),
        gap_ms: gap(times.fault, times.mended),
        return_ms: gap(times.mended, times.over),
    };
    let incidents: Vec<Incident> = times.iter().map(told).collect();
    Ok(Chapter {
        fault,
        gap_ms: Spread::of(incidents.iter().map(|incident| incident.gap_ms)),
        return_ms: Spread::of(incidents.iter().map(|incident| incident.return_ms)),
        incidents,
        load: measured.summary(),
        logs,
    })
}

fn incident(
    args: &FailoverArgs,
    cluster: &mut Cluster,
    network: Option<&Network>,
    fault: Fault,
    turn: u32,
) -> anyhow::Result<Times> {
    let settle = Duration::from_millis(args.settle_ms);
    cluster.await_in_step(PATIENCE)?;
    let quiet = Instant::now();
    scenario::wait(settle)?;
    // It may have changed meanwhile, on a busy machine.
    let old = cluster.await_in_step(PATIENCE)?;
    let ballot = cluster.status_of(old, PATIENCE).context("the leader does not answer")?.promised;
    let inflicted = Instant::now();
    fault.inflict(cluster, network, old)?;
    let (new, promised) = await_successor(cluster, old, ballot)?;
    scenario::wait(settle)?;
    let mended = Instant::now();
    fault.mend(cluster, network, old)?;
    cluster.await_in_step(PATIENCE)?;
    scenario::wait(settle)?;
    let ballots = promised.round.saturating_sub(ballot.round);
    eprintln!("{fault:?} {turn} of {}: node {old} led, then node {new}", args.repetitions);
    Ok(Times { old, new, ballots, quiet, fault: inflicted, mended, over: Instant::now() })
}

/// Waits until another node leads in a higher ballot. The old one is not asked: it may not know yet.
fn await_successor(cluster: &mut Cluster, old: NodeId, ballot: Ballot) -> anyhow::Result<(NodeId, Ballot)> {
    let others: Vec<NodeId> = cluster.members.iter().map(|(node, _)| *node).filter(|node| *node != old).collect();
    cluster.await_that(PATIENCE, "a new leader", |cluster| {
        let statuses = others.iter().filter_map(|node| cluster.status_of(*node, Duration::from_millis(20)));
        let leads = |status: &synod_client::Status| status.role == role::LEADER && status.promised > ballot;
        statuses.filter(leads).map(|status| (status.node, status.promised)).next()
    })
}

fn print(report: &Report) {
    let Report { nodes, rate, size, heartbeat_us, election_us, chapters, skipped } = report;
    println!("{nodes} nodes, {rate} entries of {size} bytes a second");
    if let (Some(heartbeat), [min, max]) = (heartbeat_us, &election_us[..]) {
        println!("heartbeat {heartbeat} µs, election after {min} to {max} µs");
    }
    println!("\n{:<8} {:>4} {:>8} {:>10} {:>10} {:>10}", "fault", "new", "ballots", "before ms", "gap ms", "return ms");
    for chapter in chapters {
        let name = format!("{:?}", chapter.fault);
        for Incident { new_leader, ballots, quiet_ms, gap_ms, return_ms, .. } in &chapter.incidents {
            println!("{name:<8} {new_leader:>4} {ballots:>8} {quiet_ms:>10.1} {gap_ms:>10.1} {return_ms:>10.1}");
        }
    }
    println!();
    for Chapter { fault, gap_ms, logs, load, .. } in chapters {
        println!("{}", report::spread(&format!("{fault:?}, longest gap ms"), gap_ms));
        let count = |of: fn(&Verdict) -> u64| logs.iter().map(of).max().unwrap_or(0);
        let (acknowledged, lost) = (count(|log| log.acknowledged), count(|log| log.lost));
        let (duplicated, wrong) =
            (count(|log| log.duplicated), count(|log| log.misplaced + log.altered + log.out_of_order));
        println!("  acknowledged {acknowledged}, lost {lost}, duplicated {duplicated}, wrong otherwise {wrong}");
        println!("  latency from the due time: p50 {:.0} µs, longest {:.1} ms", load.p50_us, load.max_us / 1e3);
    }
    for (fault, why) in skipped {
        println!("{fault:?}: SKIPPED: {why}");
    }
}

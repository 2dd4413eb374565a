//! The command `disturb`: what commits cost while something else goes on that should not be visible in them. Rounds with
//! and without it alternate; the ratio of neighbours counts.

use crate::cluster::{Cluster, signal};
use crate::load::{self, Pace, Plan};
use crate::network::Network;
use crate::product::ProductClient;
use crate::report;
use crate::scenario::{self, LONGEST_SCENE, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs, Stage};
use crate::slow_disk::{self, Yielded};
use crate::stats::{Measured, Spread, Summary};
use crate::transfer::{self, Part};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};
use synod_client::{Counter, ReadOptions, Reader, Subscription};
use synod_wire::Sequence;

/// Before this nothing counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// A slow follower runs for one part of this and stands still for three.
const PAUSE_PERIOD: Duration = Duration::from_millis(40);
/// A slow reader takes this many entries, and then pauses.
const READ_ENTRIES: u32 = 64;
const READ_PAUSE: Duration = Duration::from_millis(5);
/// The smallest segment that the product takes.
const SMALL_SEGMENT_BYTES: u64 = 4 << 20;
/// Entries that a trim leaves, and the pause to the next.
const KEPT_ENTRIES: u64 = 10_000;
const TRIM_PAUSE: Duration = Duration::from_millis(100);
/// A snapshot each so many entries: some a second at any rate that is measured here.
const FREQUENT_SNAPSHOT_ENTRIES: u64 = 20_000;

impl What {
    /// Whether a member comes back that has to be sent a snapshot.
    fn is_return(self) -> bool {
        matches!(self, What::Transfer | What::Return)
    }
}

/// Arguments of `disturb`.
#[derive(Args, Debug)]
pub(crate) struct DisturbArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// What goes on.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT,…",
        value_delimiter = ',',
        default_value = "slow-follower,dead-follower,slow-reader,subscriber,scrape,segments,snapshots,trim,catch-up,transfer,return,slow-disk,loss"
    )]
    what: Vec<What>,
    /// Entries a second, at fixed times; left out: as many as go with `--outstanding` in flight.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    rate: Option<u64>,
    /// Entries in flight.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    outstanding: u16,
    /// Rounds of each; each with and without.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long each measurement takes.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How far the replica that catches up is behind, and by how much the log grows while the one is away that is sent a snapshot.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    lag_mib: u64,
    /// The map of which that one is sent a snapshot.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=48))]
    state_mib: u64,
    /// Datagrams lost, in thousandths.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    loss_per_mille: u32,
    /// Fail if the p99 with any of them is longer than without by more than this factor (median of the rounds).
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
}

/// What goes on beside the commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// A follower stands still three quarters of the time (SIGSTOP, SIGCONT).
    SlowFollower,
    /// A follower is down.
    DeadFollower,
    /// A client reads the log from its start, slowly, from the leader.
    SlowReader,
    /// A client subscribes to the log from its start, at the leader, and takes little of it.
    Subscriber,
    /// Every node's metrics are asked for, again and again without a pause.
    Scrape,
    /// Segments of 4 MiB instead of the default: many more changes of the segment.
    Segments,
    /// Snapshots of all nodes several times a second instead of each million of entries.
    Snapshots,
    /// All but the last entries are trimmed ten times a second, and segments of 4 MiB leave the disk.
    Trim,
    /// A follower that was down comes back and catches up.
    CatchUp,
    /// A follower was away while the log grew by `--lag-mib` and half of that was trimmed, and is sent a snapshot of a map of
    /// `--state-mib`. Counted from its request until it stands with that state; without: all members up, just before it is stopped.
    /// Between rounds its snapshots come up with the others'.
    Transfer,
    /// The same, counted from the start of its process until it is in step: its own log is read before the transfer, and values travel
    /// after it.
    Return,
    /// The log of the leader takes ten times as long, and another leads: counted while that goes on. What it is while the leader is
    /// slow, and when another leads, is told as well.
    SlowDisk,
    /// Datagrams get lost.
    Loss,
}

#[derive(Debug, Serialize)]
struct Round {
    with: Summary,
    without: Summary,
    /// The commits in each part of a return.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<PartOfRound>,
}

#[derive(Debug, Serialize)]
struct PartOfRound {
    part: Part,
    seconds: f64,
    with: Summary,
}

/// The commits beside something.
struct Side {
    counted: Summary,
    parts: Vec<PartOfRound>,
}

impl From<Summary> for Side {
    fn from(counted: Summary) -> Side {
        Side { counted, parts: Vec::new() }
    }
}

#[derive(Debug, Serialize)]
struct Chapter {
    what: What,
    /// With divided by without, of each round.
    p50_ratio: Spread,
    p99_ratio: Spread,
    rate_ratio: Spread,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<PartSpread>,
    rounds: Vec<Round>,
}

/// One part of all rounds.
#[derive(Debug, Serialize)]
struct PartSpread {
    part: Part,
    seconds: Spread,
    p99_ratio: Spread,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    size: usize,
    outstanding: u16,
    rate: Option<u64>,
    lag_mib: u64,
    state_mib: u64,
    loss_per_mille: u32,
    chapters: Vec<Chapter>,
    skipped: Vec<(What, String)>,
}

/// Measures and prints.
pub(crate) fn run(args: &DisturbArgs) -> anyhow::Result<()> {
    let mut stage = args.scenario.stage()?;
    let network = args.what.contains(&What::Loss).then(Network::enter);
    let mut report = Report {
        nodes: args.scenario.nodes,
        size: args.scenario.shape.size,
        outstanding: args.outstanding,
        rate: args.rate,
        state_mib: args.state_mib,
        lag_mib: args.lag_mib,
        loss_per_mille: args.loss_per_mille,
        chapters: Vec::new(),
        skipped: Vec::new(),
    };
    let usable = network.as_ref().and_then(|network| network.as_ref().ok());
    for what in &args.what {
        if let (What::Loss, Some(Err(why))) = (what, &network) {
            eprintln!("skipped: loss: {why}");
            report.skipped.push((*what, why.clone()));
            continue;
        }
        report.chapters.push(chapter(args, &mut stage, usable, *what)?);
    }
    scenario::print(args.scenario.output, &report, print)?;
    for Chapter { what, p99_ratio, .. } in &report.chapters {
        let ratio = p99_ratio.median;
        if let Some(limit) = args.max_ratio {
            ensure!(ratio <= limit, "{what:?}: the p99 is {ratio:.2} times that without; the limit is {limit}");
        }
    }
    Ok(())
}

fn chapter(args: &DisturbArgs, stage: &mut Stage, network: Option<&Network>, what: What) -> anyhow::Result<Chapter> {
    let mut spec = args.scenario.spec();
    let small_segments = ("wal", "segment_bytes", SMALL_SEGMENT_BYTES);
    let snapshots = ("snapshot", "every_entries", FREQUENT_SNAPSHOT_ENTRIES);
    // Trims are compared with the same changes of segments and the same snapshots, which have chapters of their own.
    let (both, with) = match what {
        What::Segments => (vec![], Some(small_segments)),
        What::Snapshots => (vec![], Some(snapshots)),
        What::Trim => (vec![small_segments, snapshots], None),
        _ => (vec![], None),
    };
    spec.settings.extend(both);
    spec.slow_logs = what == What::SlowDisk;
    spec.admin = what == What::Scrape;
    if what.is_return() {
        transfer::prepare(&mut spec, args.lag_mib);
    }
    let mut cluster = stage.cluster(&spec)?;
    let mut other = match with {
        Some(setting) => {
            spec.settings.push(setting);
            Some(stage.cluster(&spec)?)
        }
        None => None,
    };
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        // Which comes first alternates, so that a drift of the machine favours neither.
        let mut with = None;
        if number % 2 == 1 && !what.is_return() {
            with = Some(disturbed(args, other.as_mut().unwrap_or(&mut cluster), network, what)?);
        }
        let without = measure(args, &mut cluster, what, |_| wait(args))?;
        let with = match with {
            Some(with) => with,
            None => disturbed(args, other.as_mut().unwrap_or(&mut cluster), network, what)?,
        };
        let Side { counted: with, parts } = with;
        eprintln!("{what:?}, round {}: p99 {:.0} µs, without {:.0} µs", number + 1, with.p99_us, without.p99_us);
        rounds.push(Round { with, without, parts });
    }
    cluster.stop()?;
    other.map_or(Ok(()), Cluster::stop)?;
    Ok(told(what, rounds))
}

fn told(what: What, rounds: Vec<Round>) -> Chapter {
    let ratio = |of: fn(&Summary) -> f64| Spread::of(rounds.iter().map(|round| of(&round.with) / of(&round.without)));
    let part = |number: usize| PartSpread {
        part: Part::ALL[number],
        seconds: Spread::of(rounds.iter().map(|round| round.parts[number].seconds)),
        p99_ratio: Spread::of(rounds.iter().map(|round| round.parts[number].with.p99_us / round.without.p99_us)),
    };
    Chapter {
        what,
        p50_ratio: ratio(|side| side.p50_us),
        p99_ratio: ratio(|side| side.p99_us),
        rate_ratio: ratio(|side| side.per_second),
        parts: (0..rounds[0].parts.len()).map(part).collect(),
        rounds,
    }
}

/// One measurement while `what` goes on; afterwards all is as it was.
fn disturbed(args: &DisturbArgs, cluster: &mut Cluster, network: Option<&Network>, what: What) -> anyhow::Result<Side> {
    let summary = match what {
        What::Transfer | What::Return => return comes_back(args, cluster, what),
        What::SlowFollower => measure(args, cluster, what, |cluster| slow_follower(args, cluster)),
        What::DeadFollower => {
            let node = cluster.await_follower(PATIENCE)?;
            cluster.kill(node)?;
            let summary = measure(args, cluster, what, |_| wait(args))?;
            cluster.restart(node)?;
            cluster.await_in_step(PATIENCE)?;
            Ok(summary)
        }
        What::SlowReader => measure(args, cluster, what, |cluster| slow_reader(args, cluster)),
        What::Subscriber => measure(args, cluster, what, |cluster| slow_subscriber(args, cluster)),
        What::Scrape => measure(args, cluster, what, |cluster| scrapes(args, cluster)),
        What::Segments | What::Snapshots => measure(args, cluster, what, |_| wait(args)),
        What::Trim => measure(args, cluster, what, |cluster| trims(args, cluster)),
        What::CatchUp => {
            let (node, _) = scenario::leave_behind(cluster, &args.scenario, args.lag_mib)?;
            let summary = measure(args, cluster, what, |cluster| {
                cluster.restart(node)?;
                wait(args)
            })?;
            cluster.await_in_step(PATIENCE)?;
            Ok(summary)
        }
        What::SlowDisk => {
            let mut yielded = None;
            let during = measure(args, cluster, what, |cluster| {
                scenario::wait(WARM_UP)?;
                yielded = Some(slow_disk::slow_the_leader(cluster)?);
                Ok(())
            })?;
            let Yielded { node, late, after } = yielded.context("the scene was played")?;
            let (late_us, ms) = (late.as_micros(), after.as_millis());
            eprintln!(
                "node {node}, {late_us} µs slower: another led after {ms} ms; p99 meanwhile {:.0} µs",
                during.p99_us
            );
            let summary = measure(args, cluster, what, |_| wait(args))?;
            cluster.slow_log(node, Duration::ZERO)?;
            // It takes nothing back for a while, which it forgets with its process.
            cluster.kill(node)?;
            cluster.restart(node)?;
            cluster.await_in_step(PATIENCE)?;
            Ok(summary)
        }
        What::Loss => {
            let network = network.context("loss needs a network of its own")?;
            network.lose(args.loss_per_mille)?;
            let summary = measure(args, cluster, what, |_| wait(args));
            network.heal()?;
            cluster.await_in_step(PATIENCE)?;
            summary
        }
    };
    Ok(summary?.into())
}

/// A member is away, and comes back.
fn comes_back(args: &DisturbArgs, cluster: &mut Cluster, what: What) -> anyhow::Result<Side> {
    let keys = transfer::keys(args.state_mib, &args.scenario);
    let node = transfer::leave_without_log(cluster, &args.scenario, args.lag_mib, keys)?;
    let before = transfer::sent_bytes(cluster);
    let mut client = client(args, cluster, what)?;
    let (beside, ()) = load::beside_parts(&mut client, &plan(args), |cues| {
        scenario::wait(WARM_UP)?;
        transfer::come_back(cluster, node, cues)
    })?;
    let sent = transfer::sent_bytes(cluster).saturating_sub(before);
    ensure!(sent > 0, "node {node} came back without a snapshot: the others' logs had all that it lacked");
    let of = |(part, measured): (Part, &Measured)| PartOfRound {
        part,
        seconds: measured.elapsed.as_secs_f64(),
        with: measured.summary(),
    };
    let parts: Vec<_> = Part::ALL.into_iter().zip(&beside.parts).map(of).collect();
    let each =
        parts.iter().map(|of| format!("{} {:.2} s with a p99 of {:.0} µs", of.part.name(), of.seconds, of.with.p99_us));
    eprintln!("{}; {:.1} MiB of a snapshot", each.collect::<Vec<_>>().join(", "), scenario::mib(sent));
    transfer::await_snapshots(cluster)?;
    let counted = match what {
        What::Transfer => parts[Part::Transfer as usize].with.clone(),
        _ => beside.whole.summary(),
    };
    Ok(Side { counted, parts })
}

/// The commits while `scene` goes on, which lasts as long as [`wait`].
fn measure(
    args: &DisturbArgs,
    cluster: &mut Cluster,
    what: What,
    scene: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Summary> {
    let mut client = client(args, cluster, what)?;
    let (measured, ()) = load::beside(&mut client, &plan(args), || scene(cluster))?;
    Ok(measured.summary())
}

fn client(args: &DisturbArgs, cluster: &mut Cluster, what: What) -> anyhow::Result<ProductClient> {
    let window = args.rate.map_or(args.outstanding.into(), |_| MOST_IN_FLIGHT);
    let mut client = ProductClient::connect(cluster, &args.scenario.client(window))?;
    if what.is_return() {
        client.put(transfer::keys(args.state_mib, &args.scenario))?;
    }
    Ok(client)
}

fn plan(args: &DisturbArgs) -> Plan {
    let pace = match args.rate {
        Some(rate) => Pace::Open { rate, window: MOST_IN_FLIGHT },
        None => Pace::Closed { outstanding: args.outstanding.into() },
    };
    Plan { pace, warm_up: WARM_UP, measure: LONGEST_SCENE }
}

/// The measured time and the warm-up.
fn length(args: &DisturbArgs) -> Duration {
    WARM_UP + Duration::from_secs(args.seconds)
}

fn wait(args: &DisturbArgs) -> anyhow::Result<()> {
    scenario::wait(length(args))
}

fn slow_follower(args: &DisturbArgs, cluster: &mut Cluster) -> anyhow::Result<()> {
    let node = cluster.await_follower(PATIENCE)?;
    let process = cluster.process(node)?;
    let until = Instant::now() + length(args);
    while Instant::now() < until {
        signal(process, libc::SIGSTOP)?;
        let paused = scenario::wait(PAUSE_PERIOD * 3 / 4);
        signal(process, libc::SIGCONT)?;
        paused?;
        scenario::wait(PAUSE_PERIOD / 4)?;
    }
    Ok(())
}

fn slow_reader(args: &DisturbArgs, cluster: &mut Cluster) -> anyhow::Result<()> {
    let until = Instant::now() + length(args);
    let leader = cluster.await_leader(PATIENCE)?;
    let address = cluster.members.iter().find(|(node, _)| *node == leader).context("the leader is a member")?.1;
    let mut reader = Reader::new(cluster.id, cluster.group, vec![address], ReadOptions::default())?;
    reader.tail(Sequence(1), READ_PAUSE);
    let mut read = 0_u64;
    while Instant::now() < until {
        for _ in 0..READ_ENTRIES {
            read += u64::from(reader.next_entry()?.is_some());
        }
        scenario::wait(READ_PAUSE)?;
    }
    ensure!(read > 0, "the slow reader has read nothing");
    Ok(())
}

/// Each trim leaves the last entries, and a second snapshot lets the segments go that it has emptied.
fn trims(args: &DisturbArgs, cluster: &mut Cluster) -> anyhow::Result<()> {
    let until = Instant::now() + length(args);
    let addresses: Vec<_> = cluster.members.iter().map(|(_, address)| *address).collect();
    let removed = |cluster: &Cluster| -> u64 {
        cluster.status().iter().filter_map(|status| status.counter(Counter::SegmentsRemoved)).sum()
    };
    let before = removed(cluster);
    while Instant::now() < until {
        let tail = cluster.status().iter().map(|status| status.tail.0).max().unwrap_or(0);
        let keep_from = Sequence(tail.saturating_sub(KEPT_ENTRIES).max(1));
        synod_client::trim(cluster.id, cluster.group, addresses.clone(), keep_from, PATIENCE)?;
        scenario::wait(TRIM_PAUSE)?;
    }
    ensure!(args.seconds < 3 || removed(cluster) > before, "no segment left the disk");
    Ok(())
}

/// It never has credit for long: the leader has something to push at the end of nearly each turn, most of it from the disk.
fn slow_subscriber(args: &DisturbArgs, cluster: &mut Cluster) -> anyhow::Result<()> {
    let until = Instant::now() + length(args);
    let leader = cluster.await_leader(PATIENCE)?;
    let address = cluster.members.iter().find(|(node, _)| *node == leader).context("the leader is a member")?.1;
    let options = ReadOptions::default();
    let mut stream = Subscription::new(cluster.id, cluster.group, vec![address], options, Sequence(1))?;
    let mut read = 0_u64;
    while Instant::now() < until {
        for _ in 0..READ_ENTRIES {
            read += u64::from(stream.next_entry(READ_PAUSE)?.is_some());
        }
        scenario::wait(READ_PAUSE)?;
    }
    ensure!(read > 0, "the slow subscriber has read nothing");
    Ok(stream.close()?)
}

/// One scraper, at one node after the other, as fast as they answer: far more often than any Prometheus.
fn scrapes(args: &DisturbArgs, cluster: &mut Cluster) -> anyhow::Result<()> {
    let until = Instant::now() + length(args);
    let addresses = cluster.admin_addresses();
    let mut scraped = 0_u64;
    while Instant::now() < until {
        for address in &addresses {
            scrape(*address).with_context(|| format!("a scrape of {address}"))?;
            scraped += 1;
        }
        // Looks whether the command was interrupted.
        scenario::wait(Duration::ZERO)?;
    }
    eprintln!("{scraped} scrapes");
    Ok(())
}

fn scrape(address: SocketAddrV4) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: synod\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("# EOF\n"), "it is not whole");
    Ok(())
}

fn print(report: &Report) {
    let Report { nodes, size, outstanding, rate, chapters, skipped, .. } = report;
    let pace = rate.map_or_else(|| format!("{outstanding} outstanding"), |rate| format!("{rate} a second"));
    println!("{nodes} nodes, entries of {size} bytes, {pace}; with divided by without\n");
    for Chapter { what, p50_ratio, p99_ratio, rate_ratio, parts, .. } in chapters {
        println!("{}", report::spread(&format!("{what:?}, p50"), p50_ratio));
        println!("{}", report::spread(&format!("{what:?}, p99"), p99_ratio));
        println!("{}", report::spread(&format!("{what:?}, rate"), rate_ratio));
        for PartSpread { part, seconds, p99_ratio } in parts {
            println!("{}", report::spread(&format!("  part {}, p99", part.name()), p99_ratio));
            println!("{}", report::spread(&format!("  part {}, s", part.name()), seconds));
        }
    }
    for (what, why) in skipped {
        println!("{what:?}: SKIPPED: {why}");
    }
}

//! The preset `aeron` of `bench`: the sizes and rates that Aeron publishes for its cluster, in an open loop. For each size
//! the highest rate is searched that this machine keeps, and measured in several rounds. Called by `bench`.

use crate::cluster::{self, Cluster, Spec};
use crate::files;
use crate::host::Host;
use crate::load::{self, Pace, Plan};
use crate::options::{RoundArgs, ShapeArgs, Style};
use crate::product::{self, ClientSetup};
use crate::report;
use crate::stats::{Spread, Summary};
use anyhow::ensure;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// Bytes of an entry, and entries a second.
const PAIRS: [(usize, u64); 3] = [(32, 501_000), (288, 301_000), (1_344, 101_000)];
/// Halvings of the interval in which the highest rate lies: to 1.6 % of the published rate.
const HALVINGS: u32 = 6;
/// The most that a session has in flight.
const WINDOW: usize = 1_024;

/// What `bench` was asked for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) nodes: u8,
    /// The rate is shared by so many groups.
    pub(crate) groups: u8,
    pub(crate) rounds: &'a RoundArgs,
    pub(crate) datagram_bytes: usize,
    pub(crate) synod: Option<&'a Path>,
    pub(crate) client_spin: Duration,
}

/// One size.
#[derive(Debug, Serialize)]
struct Pair {
    size: usize,
    published_rate: u64,
    /// The highest rate that the search kept; the published one if that was kept.
    kept_rate: u64,
    /// Of the published.
    share: f64,
    /// At that rate.
    rounds: Vec<Summary>,
    rounds_kept: usize,
    p50_us: Spread,
    p99_us: Spread,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    nodes: u8,
    groups: u8,
    pairs: Vec<Pair>,
}

/// Measures and prints. A published rate that is not kept is no failure: the answer is how far this machine gets. A rate
/// that the search kept and no round after it is one.
pub(crate) fn run(asked: &Asked) -> anyhow::Result<()> {
    let program = cluster::program(asked.synod)?;
    let dir = files::directory(asked.rounds.dir.as_deref())?;
    let mut pairs = Vec::new();
    for (size, rate) in PAIRS {
        let shape = ShapeArgs { size, entries_per_datagram: None, datagram_bytes: asked.datagram_bytes };
        shape.check()?;
        let home = dir.path().join(format!("size-{size}"));
        std::fs::create_dir(&home)?;
        let spec = Spec { groups: asked.groups, ..Spec::of(asked.nodes, shape) };
        let mut cluster = Cluster::start(&program, &home, &spec)?;
        pairs.push(pair(asked, &mut cluster, shape, rate)?);
        cluster.stop()?;
    }
    let report = Report { host: Host::here()?, nodes: asked.nodes, groups: asked.groups, pairs };
    match asked.rounds.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Style::Text => print(&report),
    }
    let unsteady: Vec<usize> = report.pairs.iter().filter(|pair| pair.rounds_kept == 0).map(|pair| pair.size).collect();
    ensure!(unsteady.is_empty(), "no round kept the rate that the search had found for these sizes: {unsteady:?}");
    Ok(())
}

fn pair(asked: &Asked, cluster: &mut Cluster, shape: ShapeArgs, published_rate: u64) -> anyhow::Result<Pair> {
    let size = shape.size;
    let kept_rate = highest_kept(published_rate, |rate| {
        let summary = measure(asked, cluster, shape, rate)?;
        eprintln!("{}", report::line(&format!("{size} bytes at {rate} a second"), &summary));
        Ok(summary.missed.is_none())
    })?;
    ensure!(kept_rate > 0, "{size} bytes: not even {} a second are kept", published_rate >> HALVINGS);
    let rounds = (0..asked.rounds.rounds).map(|_| measure(asked, cluster, shape, kept_rate));
    let rounds = rounds.collect::<Result<Vec<Summary>, _>>()?;
    Ok(Pair {
        size,
        published_rate,
        kept_rate,
        share: kept_rate as f64 / published_rate as f64,
        rounds_kept: rounds.iter().filter(|round| round.missed.is_none()).count(),
        p50_us: Spread::of(rounds.iter().map(|round| round.p50_us)),
        p99_us: Spread::of(rounds.iter().map(|round| round.p99_us)),
        rounds,
    })
}

/// `most` if it is kept, else the highest kept rate that halving the interval below it finds; 0: none.
fn highest_kept(most: u64, mut is_kept: impl FnMut(u64) -> anyhow::Result<bool>) -> anyhow::Result<u64> {
    if is_kept(most)? {
        return Ok(most);
    }
    let (mut kept, mut missed) = (0, most);
    for _ in 0..HALVINGS {
        let middle = kept + (missed - kept) / 2;
        match is_kept(middle)? {
            true => kept = middle,
            false => missed = middle,
        }
    }
    Ok(kept)
}

fn measure(asked: &Asked, cluster: &mut Cluster, shape: ShapeArgs, rate: u64) -> anyhow::Result<Summary> {
    let setup = ClientSetup { shape, window: WINDOW, spin: asked.client_spin };
    let mut clients = product::connect_groups(cluster, asked.groups, &setup)?;
    let pace = Pace::Open { rate: (rate / u64::from(asked.groups)).max(1), window: WINDOW };
    let plan = Plan { pace, warm_up: asked.rounds.warm_up(), measure: asked.rounds.measure() };
    let measured = load::run_beside(&mut clients, &plan);
    cluster.check()?;
    Ok(measured?.summary())
}

fn print(report: &Report) {
    println!("{} nodes, {} groups, {} processors\n", report.nodes, report.groups, report.host.processors);
    for pair in &report.pairs {
        let Pair { size, published_rate, kept_rate, share, rounds, rounds_kept, p50_us, p99_us } = pair;
        println!("{size} bytes: {kept_rate} of {published_rate} a second ({:.0} %)", share * 100.0);
        println!("  at that rate: {rounds_kept} of {} rounds kept it", rounds.len());
        println!("{}", report::spread("  p50, µs", p50_us));
        println!("{}", report::spread("  p99, µs", p99_us));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_kept_rate_is_found_within_a_sixty_fourth() {
        let search = |limit: u64| highest_kept(64_000, |rate| Ok(rate <= limit)).unwrap();
        assert_eq!(search(64_000), 64_000);
        let found = search(20_500);
        assert!((19_500..=20_500).contains(&found), "{found}");
        assert_eq!(search(10), 0);
    }
}

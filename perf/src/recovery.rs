//! The command `recovery`: how long a node needs from its start to its first answer as a follower, against the length of
//! its log. The node is killed, and the kernel is asked to forget the log's pages, so that each start reads the disk.

use crate::cluster::Cluster;
use crate::report;
use crate::scenario::{self, PATIENCE, ScenarioArgs, mib};
use crate::stats::Spread;
use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};
use synod_wire::client::role;

/// A node that reads its log answers nothing: it is asked anew after this long, which bounds the error of the times.
const ASK_WAIT: Duration = Duration::from_millis(5);

/// Arguments of `recovery`.
#[derive(Args, Debug)]
pub(crate) struct RecoveryArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Lengths of the log, in this order.
    #[arg(long, value_name = "MIB,…", value_delimiter = ',', default_value = "64,256,1024")]
    log_mib: Vec<u64>,
    /// Restarts at each length.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fail if the median restart at any length takes longer.
    #[arg(long, value_name = "S")]
    max_seconds: Option<f64>,
}

/// One restart, in seconds since its exec.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Restart {
    /// The first answer, whatever it says.
    answer_s: f64,
    /// The first answer as a follower (or the leader).
    pub(crate) follower_s: f64,
    /// It has applied what the leader knew chosen.
    pub(crate) in_step_s: f64,
}

#[derive(Debug, Serialize)]
struct Step {
    log_mib: f64,
    entries: u64,
    restarts: Vec<Restart>,
    follower_s: Spread,
    in_step_s: Spread,
    /// Of the restarted node after the last restart.
    resident_mib: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    size: usize,
    steps: Vec<Step>,
}

/// Measures and prints.
pub(crate) fn run(args: &RecoveryArgs) -> anyhow::Result<()> {
    ensure!(!args.log_mib.is_empty() && args.log_mib.is_sorted(), "--log-mib: name lengths in ascending order");
    let mut stage = args.scenario.stage()?;
    let mut cluster = stage.cluster(&args.scenario.spec())?;
    let mut steps = Vec::new();
    for log_mib in &args.log_mib {
        steps.push(step(args, &mut cluster, *log_mib)?);
    }
    cluster.stop()?;
    let report = Report { nodes: args.scenario.nodes, size: args.scenario.shape.size, steps };
    scenario::print(args.scenario.output, &report, print)?;
    for step in &report.steps {
        let (took, log_mib) = (step.follower_s.median, step.log_mib);
        if let Some(limit) = args.max_seconds {
            ensure!(took <= limit, "a restart with {log_mib:.0} MiB of log takes {took:.2} s; the limit is {limit}");
        }
    }
    Ok(())
}

fn step(args: &RecoveryArgs, cluster: &mut Cluster, log_mib: u64) -> anyhow::Result<Step> {
    let leader = cluster.await_in_step(PATIENCE)?;
    eprintln!("appending up to {log_mib} MiB");
    scenario::fill(cluster, &args.scenario, |cluster| Ok(scenario::log_bytes(cluster, leader)? >= log_mib << 20))?;
    let mut restarts = Vec::new();
    for round in 1..=args.rounds {
        let restart = restart(cluster)?;
        eprintln!("{log_mib} MiB, restart {round}: a follower after {:.2} s", restart.follower_s);
        restarts.push(restart);
    }
    let follower = cluster.await_follower(PATIENCE)?;
    Ok(Step {
        log_mib: mib(scenario::log_bytes(cluster, follower)?),
        entries: scenario::log_entries(cluster, follower)?,
        follower_s: Spread::of(restarts.iter().map(|restart| restart.follower_s)),
        in_step_s: Spread::of(restarts.iter().map(|restart| restart.in_step_s)),
        restarts,
        resident_mib: mib(scenario::resident_bytes(&[cluster.process(follower)?])?[0]),
    })
}

/// Kills a follower, and starts it again.
pub(crate) fn restart(cluster: &mut Cluster) -> anyhow::Result<Restart> {
    let node = cluster.await_follower(PATIENCE)?;
    cluster.kill(node)?;
    scenario::forget_pages(&cluster.directory(node)?)?;
    let start = Instant::now();
    cluster.restart(node)?;
    let since = || start.elapsed().as_secs_f64();
    let mut answer_s = None;
    let follower_s = cluster.await_that(PATIENCE, "answer of a follower", |cluster| {
        let status = cluster.status_of(node, ASK_WAIT)?;
        answer_s.get_or_insert_with(since);
        matches!(status.role, role::FOLLOWER | role::LEADER).then(since)
    })?;
    cluster.await_in_step(PATIENCE)?;
    Ok(Restart { answer_s: answer_s.unwrap_or(follower_s), follower_s, in_step_s: since() })
}

fn print(report: &Report) {
    println!("{} nodes, entries of {} bytes; a follower killed and started again\n", report.nodes, report.size);
    for Step { log_mib, entries, follower_s, in_step_s, resident_mib, .. } in &report.steps {
        println!("{log_mib:.0} MiB of log, {entries} entries, {resident_mib:.0} MiB resident");
        println!("{}", report::spread("  from exec to the answer of a follower, s", follower_s));
        println!("{}", report::spread("  until it is in step, s", in_step_s));
    }
}

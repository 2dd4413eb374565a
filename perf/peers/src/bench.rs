//! The command `bench`: one cluster of one peer, from its start to its end. A peer that cannot be started is told as absent,
//! with the reason; one that fails under load is an error.

use crate::contract::{Level, Outcome, Syncs};
use crate::load::{self, Plan, Target};
use crate::processes::Process;
use crate::syncs::{self, Count};
use crate::{etcd, libraft, nats};
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Which one.
    #[arg(long, value_enum)]
    peer: Name,
    /// Where the logs go, below a directory that is removed at the end.
    #[arg(long)]
    dir: PathBuf,
    /// Where install.sh put what it installed.
    #[arg(long, default_value = "/var/tmp/synod-peers")]
    tools: PathBuf,
    /// Bytes of an entry.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Entries in flight: each of these is measured.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    outstanding: Vec<usize>,
    /// How long each measurement takes, without its warm-up.
    #[arg(long, default_value_t = 3_000)]
    ms: u64,
    /// How long each measurement runs before it counts.
    #[arg(long, default_value_t = 300)]
    warm_up_ms: u64,
    /// Count calls that sync, one entry in flight, for this long after the measurements; 0: do not.
    #[arg(long, default_value_t = 0)]
    count_ms: u64,
    /// How long our own harness's nodes poll and yield before they block.
    #[arg(long, default_value_t = 50)]
    spin_us: u64,
}

/// The peers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    /// raft-rs with raft-engine.
    RaftRs,
    /// libraft over its libuv backend.
    Libraft,
    /// etcd.
    Etcd,
    /// NATS JetStream, a stream of three replicas.
    Nats,
}

/// A peer that runs.
pub(crate) struct Running {
    /// As it says itself.
    pub(crate) version: String,
    /// Its nodes.
    pub(crate) processes: Vec<Process>,
    /// Its client.
    pub(crate) target: Box<dyn Target>,
    /// Whether the arguments of a call name a file of its log.
    pub(crate) is_log: fn(&str) -> bool,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    ensure!((1..=1 << 20).contains(&args.size), "--size is {}: choose 1 to 1048576", args.size);
    ensure!(args.outstanding.iter().all(|n| (1..=65_536).contains(n)), "--outstanding: choose 1 to 65536");
    let dir = tempfile::Builder::new().prefix("peer-").tempdir_in(&args.dir);
    let dir = dir.with_context(|| format!("cannot make a directory in {}", args.dir.display()))?;
    let peer = match args.peer {
        Name::RaftRs => "raft-rs",
        Name::Libraft => "libraft",
        Name::Etcd => "etcd",
        Name::Nats => "nats",
    };
    let outcome = match start(args, dir.path()) {
        Ok(running) => measure(args, peer, running, dir.path())?,
        Err(error) => Outcome {
            peer: peer.into(),
            version: String::new(),
            absent: Some(format!("{error:#}")),
            levels: Vec::new(),
            syncs: None,
        },
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn start(args: &BenchArgs, dir: &Path) -> anyhow::Result<Running> {
    match args.peer {
        #[cfg(feature = "raft-rs")]
        Name::RaftRs => crate::raft_rs::start(dir, args.size, args.spin_us),
        #[cfg(not(feature = "raft-rs"))]
        Name::RaftRs => anyhow::bail!("synod-peer was built without its feature raft-rs"),
        Name::Libraft => libraft::start(dir, &args.tools, args.size, args.spin_us),
        Name::Etcd => etcd::start(dir, &args.tools, args.size),
        Name::Nats => nats::start(dir, &args.tools, args.size),
    }
}

fn measure(args: &BenchArgs, peer: &str, mut running: Running, dir: &Path) -> anyhow::Result<Outcome> {
    let mut levels = Vec::new();
    for outstanding in &args.outstanding {
        levels.push(one(&mut running, args.plan(*outstanding, args.ms))?.0);
    }
    let syncs = if args.count_ms > 0 { Some(count(args, &mut running, dir)?) } else { None };
    Ok(Outcome { peer: peer.into(), version: running.version, absent: None, levels, syncs })
}

fn one(running: &mut Running, plan: Plan) -> anyhow::Result<(Level, u64)> {
    let measured = load::run(&mut *running.target, plan);
    // What a node said before it ended tells more than the silence that followed.
    running.processes.iter_mut().try_for_each(Process::check)?;
    measured.with_context(|| format!("{} outstanding", plan.outstanding))
}

fn count(args: &BenchArgs, running: &mut Running, dir: &Path) -> anyhow::Result<Syncs> {
    let strace = syncs::find(&args.tools)?;
    let processes: Vec<u32> = running.processes.iter().map(Process::id).collect();
    let count = Count::start(&processes, dir, &strace)?;
    let (_, commits) = one(running, args.plan(1, args.count_ms))?;
    Ok(Syncs { commits, nodes: count.stop(running.is_log)? })
}

impl BenchArgs {
    fn plan(&self, outstanding: usize, ms: u64) -> Plan {
        Plan { outstanding, warm_up: Duration::from_millis(self.warm_up_ms), measure: Duration::from_millis(ms) }
    }
}

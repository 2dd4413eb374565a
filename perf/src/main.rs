//! Synod's measuring programs. They link the client library and the reactor, never the shard: the product is measured as
//! the processes that a user runs.
//!
//! | module | what it holds |
//! |---|---|
//! | `floor` | the command `floor`: what this machine can do at best |
//! | `bench` | the command `bench`: the product against that, interleaved |
//! | `wait` | the command `wait`: the automatic wait mode against the fixed ones |
//! | `against` | the command `against`: our skeleton against an independent one |
//! | `failover`, `recovery`, `catchup`, `disturb`, `reads`, `retention`, `scale`, `soak` | the commands of these names: what happens when something fails, grows or goes on for long |
//! | `scenario`, `audit`, `network` | what these share: cluster and load, the log held against the acknowledgements, dropped datagrams |
//! | `preset` | `bench --preset`: rates that others publish |
//! | `compare/` | the command `compare`: the product beside other replicated logs (their harnesses: `perf/peers/`) |
//! | `skeleton/` | client, leader and followers without a protocol, each a process |
//! | `cluster`, `product` | nodes of the product on this machine; its client as a target of load |
//! | `load` | closed and open loop, the same code for the product and the skeleton |
//! | `report` | tables |
//! | `output/` | reports: a page with plots, HdrHistogram's files, JSON |
//! | `synod::measure` | percentiles and spreads, HdrHistogram's formats, files on a real disk and durable writes to them: what `synod iotune` measures with, too |
//! | `baseline/`, `trace` | the command `baseline`: instructions and system calls of a commit; counting system calls |
//! | `profile/` | the command `profile`: flame graph, threads, system calls |
//! | `environment/` | the command `collect-env`: the machine, as far as a latency depends on it |
//! | `options`, `host`, `interrupt` | common arguments; who else used the processors; Ctrl-C |
//!
//! Exit codes: 0 measured, 1 it failed (or a limit that was asked for is exceeded), 2 wrong usage.

mod against;
mod audit;
mod baseline;
mod bench;
mod catchup;
mod cluster;
mod compare;
mod disturb;
mod environment;
mod failover;
mod floor;
mod host;
mod interrupt;
mod load;
mod network;
mod options;
mod output;
mod packets;
mod preset;
mod product;
mod profile;
mod reads;
mod recovery;
mod report;
mod retention;
mod scale;
mod scenario;
mod skeleton;
mod slow_disk;
mod soak;
mod trace;
mod transfer;
mod wait;

use synod::measure::{files, stats};

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures Synod, and the floor below it.
#[derive(Debug, Parser)]
#[command(name = "synod-perf", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What this machine can do: a datagram's round trip, a durable write, a replicated append without a protocol
    Floor(floor::FloorArgs),
    /// The product under load, interleaved with the skeleton of the same shape
    Bench(bench::BenchArgs),
    /// The automatic wait mode against the fixed ones, in four situations
    Wait(wait::WaitBenchArgs),
    /// Nodes without load; started by `wait`
    #[command(hide = true)]
    WaitIdle(wait::IdleArgs),
    /// A process that only computes; started by `wait`
    #[command(hide = true)]
    WaitHog,
    /// Our skeleton interleaved with an independent one (see compare-floor.sh)
    Against(against::AgainstArgs),
    /// Commits while leaders are killed, paused and cut off; what is lost or twice afterwards
    Failover(failover::FailoverArgs),
    /// How long a node needs to come back, against the length of its log
    Recovery(recovery::RecoveryArgs),
    /// How long a follower needs that was left behind, and what it costs the others
    Catchup(catchup::CatchupArgs),
    /// What commits cost beside a slow or dead follower, a slow reader, segment changes, a catch-up, lost datagrams
    Disturb(disturb::DisturbArgs),
    /// What commits cost while the followers answer reads that must not be stale
    Reads(reads::ReadsArgs),
    /// So many entries under `retention.max_bytes`: the disk that they take, and a restart after them
    Retention(retention::RetentionArgs),
    /// Commits and memory against the length of the log, the members, and the groups
    Scale(scale::ScaleArgs),
    /// A constant rate for a long time: memory, latency, and the log at the end
    Soak(soak::SoakArgs),
    /// Instructions and system calls of a commit, against those of the last time
    Baseline(baseline::BaselineArgs),
    /// Where a node's time goes: flame graph, threads, system calls
    Profile(profile::ProfileArgs),
    /// The machine, as far as a latency depends on it
    CollectEnv(environment::EnvironmentArgs),
    /// The cluster whose system calls `baseline` counts
    #[command(hide = true)]
    TraceCalls(baseline::TraceArgs),
    /// The product and its peers (raft-rs, libraft, etcd, NATS JetStream) under the same closed loop, interleaved
    Compare(compare::CompareArgs),
    /// One process of the skeleton; started by the others
    #[command(hide = true)]
    SkeletonNode(skeleton::NodeArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    if !matches!(command, Command::SkeletonNode(_)) {
        interrupt::watch()?;
    }
    match command {
        Command::Floor(args) => floor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::WaitIdle(args) => wait::run_idle(&args),
        Command::WaitHog => wait::run_hog(),
        Command::Against(args) => against::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Recovery(args) => recovery::run(&args),
        Command::Catchup(args) => catchup::run(&args),
        Command::Disturb(args) => disturb::run(&args),
        Command::Reads(args) => reads::run(&args),
        Command::Retention(args) => retention::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::TraceCalls(args) => baseline::run_trace(&args),
        Command::Profile(args) => profile::run(&args),
        Command::CollectEnv(args) => environment::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::SkeletonNode(args) => skeleton::run_node(&args),
    }
}

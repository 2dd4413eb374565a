//! Synod's measuring programs. They link the client library and the reactor, never the shard: the product is measured as
//! the processes that a user runs.
//!
//! | module | what it holds |
//! |---|---|
//! | `floor` | the command `floor`: what this machine can do at best |
//! | `bench` | the command `bench`: the product against that, interleaved |
//! | `against` | the command `against`: our skeleton against an independent one |
//! | `compare/` | the command `compare`: the product beside other replicated logs (their harnesses: `perf/peers/`) |
//! | `skeleton/` | client, leader and followers without a protocol, each a process |
//! | `cluster`, `product` | nodes of the product on this machine; its client as a target of load |
//! | `load` | closed and open loop, the same code for the product and the skeleton |
//! | `stats`, `report` | percentiles and spreads; tables |
//! | `options`, `files`, `host`, `interrupt` | common arguments; files on a real disk; who else used the processors; Ctrl-C |
//!
//! Exit codes: 0 measured, 1 it failed (or a limit that was asked for is exceeded), 2 wrong usage.

mod against;
mod bench;
mod cluster;
mod compare;
mod files;
mod floor;
mod host;
mod interrupt;
mod load;
mod options;
mod product;
mod report;
mod skeleton;
mod stats;

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
    /// Our skeleton interleaved with an independent one (see compare-floor.sh)
    Against(against::AgainstArgs),
    /// The product and its peers (raft-rs, etcd, NATS JetStream) under the same closed loop, interleaved
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
        Command::Against(args) => against::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::SkeletonNode(args) => skeleton::run_node(&args),
    }
}

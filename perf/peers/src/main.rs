//! Other replicated logs under the load that `synod-perf` puts on Synod: three local processes, every commit synced, one
//! client in a process of its own. `synod-perf compare` builds and calls this program; it runs alone as well:
//!
//! `synod-peer bench --peer raft-rs --dir /var/tmp/x --outstanding 1,64 --ms 2000`
//!
//! | module | what it holds |
//! |---|---|
//! | `contract` | what is printed on stdout, for `compare` to read |
//! | `bench` | the command: start a peer, put load on it, count its syncs, end it |
//! | `load` | the closed loop |
//! | `processes` | nodes that never outlive this program |
//! | `syncs` | system calls that make data durable, counted by `strace` |
//! | `harness` | our own nodes' connections, and their client |
//! | `raft_rs` | a node of raft-rs over raft-engine |
//! | `libraft` | nodes of libraft, a harness in C |
//! | `etcd`, `nats` | servers as they are installed, with their clients |

mod bench;
mod contract;
mod etcd;
mod harness;
mod libraft;
mod load;
mod nats;
mod processes;
#[cfg(feature = "raft-rs")]
mod raft_rs;
mod syncs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Measures a peer of Synod.
#[derive(Debug, Parser)]
#[command(name = "synod-peer", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts one peer, measures each number in flight, ends it
    Bench(bench::BenchArgs),
    /// One node of raft-rs; started by `bench`, its listener is file descriptor 0
    #[cfg(feature = "raft-rs")]
    #[command(hide = true)]
    RaftRsNode(raft_rs::NodeArgs),
}

fn main() -> ExitCode {
    let ran = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "raft-rs")]
        Command::RaftRsNode(args) => raft_rs::run(&args),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
